"""`sagetune sync <folder>`: send what runs have logged offline to Weights & Biases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sagetune.commands.entry import USAGE_ERROR

USAGE = """usage: sagetune sync <folder> [option of `wandb sync` ...]

Sends every run that was logged offline anywhere below the folder; what is sent already is left out.
Account and server are W&B's own: `wandb login`, WANDB_API_KEY, WANDB_BASE_URL."""


def main() -> None:
    """Run `sagetune sync` on the process's arguments and exit with the code of `wandb sync`."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(USAGE_ERROR if not arguments else 0)
    try:
        runs = offline_runs(Path(arguments[0]))
    except ValueError as error:
        print(f"sagetune sync: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    call = [sys.executable, "-m", "wandb", "sync", "--yes", *arguments[1:], *map(str, runs)]
    sys.exit(subprocess.run(call, check=False).returncode)


def offline_runs(folder: Path) -> list[Path]:
    """The folders of offline runs below `folder`. Raises ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; the current one is {Path.cwd()}")
    found = sorted(folder.rglob("wandb/offline-run-*/"))
    if not found:
        raise ValueError(f"{folder} holds no run that was logged offline: train with wandb.mode=offline, the default")
    return found
