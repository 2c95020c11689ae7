"""The console command `sagetune`: one subcommand a file, imported when it is asked for, heavy imports inside."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "train": "fine-tune a model and measure it before and after",
    "evaluate": "measure what an agent can do, capability by capability",
    "collect": "let an agent act on tasks and write what it did, to train on it",
    "compare": "say which runs of a folder are better, at what price, and how sure that is",
    "select": "choose samples of a pool and write them, without training",
    "methods": "list the methods, ours and yours: what each sets, its paper, its file",
    "doctor": "look at data as the model will see it: masks, lengths, faults",
    "sync": "send what was logged offline to Weights & Biases",
}
"""Name, which is that of a file here, and purpose."""
FOLDER_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp", "--experimental-rerun")
"""Flags whose value may hold a `=`, as overrides do."""


def main() -> None:
    """Run `sagetune <command> ...`; exit code 2 for a command that does not exist."""
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    if asked in COMMANDS:
        sys.argv = [f"{sys.argv[0]} {asked}", *overrides_last(sys.argv[2:])]
        import_module(f"sagetune.commands.{asked}").main()
        return
    lines = [f"  sagetune {name:8s} {purpose}" for name, purpose in COMMANDS.items()]
    usage = "\n".join(["usage: sagetune <command> [group=option ...] [field=value ...]", "", *lines])
    if asked in ("-h", "--help"):
        print(usage)
        return
    print(f"sagetune: unknown command {asked!r}\n{usage}" if asked else usage, file=sys.stderr)
    sys.exit(2)


def overrides_last(arguments: list[str]) -> list[str]:
    """The arguments with all overrides in a row: argparse refuses those that follow a flag that follows others."""
    flags: list[str] = []
    overrides: list[str] = []
    for place, argument in enumerate(arguments):
        is_value = place > 0 and arguments[place - 1] in FOLDER_FLAGS
        is_override = not argument.startswith("-") and ("=" in argument or argument.startswith("~")) and not is_value
        (overrides if is_override else flags).append(argument)
    return flags + overrides
