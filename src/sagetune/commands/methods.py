"""`sagetune methods`: the methods that there are, what makes each of them one, and where it comes from."""

from __future__ import annotations

import argparse
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sagetune.commands.entry import USAGE_ERROR
from sagetune.facades import file_of, hidden
from sagetune.methods import MethodConfig, details, differences, read_methods

WIDTH = 120  # columns where the output is no terminal
LONGEST = 64  # characters of a value


def main() -> None:
    """Run `sagetune methods` on the process's arguments and exit."""
    parser = argparse.ArgumentParser(prog="sagetune methods", description="List what method=<option> takes.")
    parser.add_argument("--config-dir", "-cd", type=Path, metavar="DIR", help="folder with your method/<option>.yaml")
    sys.exit(methods(parser.parse_args().config_dir))


def methods(config_dir: Path | None) -> int:
    """Print the table and return 0, or 2 if a method file is not sound."""
    try:
        found = read_methods(config_dir)
    except ValueError as error:
        print(f"sagetune methods: {error}", file=sys.stderr)
        return USAGE_ERROR
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    baseline = next(iter(found.values()))
    for folder, pairs in groupby(found.items(), key=lambda pair: pair[0].parent):
        console.print(table_of(folder, [method for _, method in pairs], baseline))
    tell_facades(console)
    return 0


def table_of(folder: Path, methods: list[MethodConfig], baseline: MethodConfig) -> Table:
    """A row for each method of one folder."""
    title = escape(f"{folder}/<option>.yaml")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("option", no_wrap=True)
    table.add_column("id, name, source")
    table.add_column("what it sets, against the baseline", overflow="fold")
    for method in methods:
        sets = differences(method, baseline) | details(method)
        shown = " ".join(f"{name}={_plain(value)}" for name, value in sets.items())
        about = "\n".join(line for line in (method.id, method.name, method.source) if line)
        table.add_row(method.option, escape(about), escape(shown or method.description))
    return table


def tell_facades(console: Console) -> None:
    """Say which of the reference's import paths cannot be used, why, and what can."""
    for facade, other in hidden().items():
        instead = f"import its names from where {file_of(facade)} has them, or uninstall the other"
        console.print(
            f"{facade} cannot be imported: {other} of another distribution is found in its place. The command line "
            f"does not need it; in Python {instead}.",
            markup=False,
            soft_wrap=True,
        )


def _plain(value: Any) -> str:
    """The value nearly as the command line takes it, its end cut off if it is long."""
    text = str(value).lower() if isinstance(value, bool) else str(value).replace("'", "").replace(" ", "")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
