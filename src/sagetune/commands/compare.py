"""`sagetune compare`: which variant of a sweep is better, at what, at what price, and how sure that is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from sagetune.commands.entry import USAGE_ERROR, run_command


@dataclass(kw_only=True)
class CompareConfig:
    """What is compared with what."""

    folder: str
    """Holds the run folders of a sweep, and receives report.html, results.csv and results.json."""
    baseline: str | None = None
    """The variant that the others are compared with; None = each with the A_baseline that shares its settings."""
    select: str | None = None
    """A figure of the development data, such as tokens.loss, by which one learning rate a method is chosen first."""


def main() -> None:
    """Run `sagetune compare <folder>` on the process's arguments and exit."""
    sys.argv[1:] = [as_override(argument) for argument in sys.argv[1:]]
    run_command("compare", CompareConfig, compare)


def as_override(argument: str) -> str:
    """A bare path as folder=..., and the text of a field in quotes: neither follows Hydra's grammar."""
    name, equals, value = argument.partition("=")
    if argument.startswith("-") or name.startswith("hydra.") or value.startswith(("'", '"')):
        return argument
    if not (equals and name.isidentifier()):
        name, value = "folder", argument
    quote = '"' if "'" in value else "'"
    return f"{name}={quote}{value}{quote}"


def compare(config: CompareConfig) -> int:
    """Write the comparison, print it in short, and return 0, or 2 if there is nothing to compare."""
    from rich.console import Console

    from sagetune.comparison.comparison import compare as compare_runs
    from sagetune.comparison.page import write
    from sagetune.comparison.terminal import print_comparison

    folder = Path(config.folder)
    try:
        found = compare_runs(folder, config.baseline, config.select)
    except ValueError as error:
        print(f"sagetune compare: {error}", file=sys.stderr)
        return USAGE_ERROR
    console = Console()
    path = write(folder, found)
    print_comparison(console, found)
    console.print(f"report: {path}", markup=False, soft_wrap=True)
    return 0
