"""Files that are there whole or not at all, and where the user's cache is."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Where what is made once is kept: SAGETUNE_CACHE, or the user's cache folder of this system."""
    return Path(os.environ.get("SAGETUNE_CACHE", user_cache_path("sagetune")))


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` in one step: a reader, or a kill, finds the old file or the new one, never a part."""
    text = json.dumps(without_infinities(value), indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write beside `path` and rename, so that a reader finds the old content or the new, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """`write_text` for what is no text."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def read_jsonl(path: Path) -> list[Any]:
    """The values of a JSONL file; none of a file that is not there.

    Only a newline ends a line. str.splitlines would cut at U+2028 and U+0085, too, which text in JSON may hold.
    """
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


def without_infinities(value: Any) -> Any:
    """`value` with None for NaN and the infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
