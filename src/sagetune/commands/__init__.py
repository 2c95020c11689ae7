"""The console command `sagetune`: one subcommand a file, heavy imports inside."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sagetune.commands import collect, compare, doctor, evaluate, methods, select, sync, train

COMMANDS: dict[str, tuple[Callable[[], None], str]] = {
    "train": (train.main, "fine-tune a model and measure it before and after"),
    "evaluate": (evaluate.main, "measure what an agent can do, capability by capability"),
    "collect": (collect.main, "let an agent act on tasks and write what it did, to train on it"),
    "compare": (compare.main, "say which runs of a folder are better, at what price, and how sure that is"),
    "select": (select.main, "choose samples of a pool and write them, without training"),
    "methods": (methods.main, "list the methods, ours and yours: what each sets, its paper, its file"),
    "doctor": (doctor.main, "look at data as the model will see it: masks, lengths, faults"),
    "sync": (sync.main, "send what was logged offline to Weights & Biases"),
}


def main() -> None:
    """Run `sagetune <command> ...`; exit code 2 for a command that does not exist."""
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    if asked in COMMANDS:
        sys.argv = [f"{sys.argv[0]} {asked}", *sys.argv[2:]]
        COMMANDS[asked][0]()
        return
    lines = [f"  sagetune {name:8s} {purpose}" for name, (_, purpose) in COMMANDS.items()]
    usage = "\n".join(["usage: sagetune <command> [group=option ...] [field=value ...]", "", *lines])
    if asked in ("-h", "--help"):
        print(usage)
        return
    print(f"sagetune: unknown command {asked!r}\n{usage}" if asked else usage, file=sys.stderr)
    sys.exit(2)
