"""A file -> its records: .jsonl and .jsonl.gz (one a line), .json (an array, an object of id -> record, or one a line
as BFCL has it), .csv (one a row, named by the first).
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv")


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, or its undecoded line: where it was read, its place there, and the id it gets if it has none."""

    source: str
    place: str
    default_id: str
    record: Any


def read_entries(path: Path) -> Iterator[Entry]:
    """The entries of `path` in order. Raises ValueError with file and line if the file as a whole cannot be read.

    The line of an entry is not decoded: whoever reads the entry decides what one bad line means.
    """
    if path.suffix == ".csv":
        return _rows(path)
    if path.suffix == ".json":
        return _json_entries(path)
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return _lines(path, stem)


def decode(record: Any) -> Any:
    """The record of an Entry, read as JSON if it is a line."""
    if not isinstance(record, bytes):
        return record
    try:
        return json.loads(record)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"record: is not valid JSON ({error})") from error


def _lines(path: Path, stem: str) -> Iterator[Entry]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Entry(str(path), f"{path}:{number}", f"{stem}:{number}", line)


def _json_entries(path: Path) -> Iterator[Entry]:
    try:
        content = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 ({error})") from error
    except (json.JSONDecodeError, RecursionError) as error:
        if _starts_with_a_record(path):
            yield from _lines(path, path.stem)
            return
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise ValueError(f"{path}:{line}: is not valid JSON ({error})") from error
    if isinstance(content, dict) and content and all(isinstance(record, dict) for record in content.values()):
        for key, record in content.items():
            yield Entry(str(path), f"{path}: record {key!r}", key, record)
    elif isinstance(content, dict) and _starts_with_a_record(path):
        yield from _lines(path, path.stem)
    elif isinstance(content, list):
        for number, record in enumerate(content, start=1):
            yield Entry(str(path), f"{path}: record {number}", f"{path.stem}:{number}", record)
    else:
        raise ValueError(f"{path}: expected an array of records, an object of id -> record, or one record a line")


def _starts_with_a_record(path: Path) -> bool:
    """Whether the first line alone is a record, with something in it."""
    with path.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        return bool(first.strip()) and bool(json.loads(first)) and first.lstrip().startswith(b"{")
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return False


def _rows(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines, strict=True)
        try:
            names = next(rows, [])
            for row in rows:
                if row:
                    yield _row(path, rows.line_num, names, row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{rows.line_num}: is not valid CSV ({error})") from error


def _row(path: Path, line: int, names: list[str], row: list[str]) -> Entry:
    if len(row) != len(names):
        raise ValueError(f"{path}:{line}: expected the {len(names)} fields {', '.join(names)}, got {len(row)}")
    return Entry(str(path), f"{path}:{line}", f"{path.stem}:{line}", dict(zip(names, row, strict=True)))
