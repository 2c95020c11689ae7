"""The boundary of a run: whoever is at work in its folder says so, and however it ends, the folder tells. No torch."""

from __future__ import annotations

import sys
import traceback

from rich.console import Console

from sagetune import report, status
from sagetune.config import RunConfig
from sagetune.interrupts import Interrupted, Interrupts
from sagetune.runfolder import RunFolder
from sagetune.status import FAULT, REFUSED


def attempt(folder: RunFolder, run: RunConfig) -> int:
    """Do what is left of the run in `folder`, tell how it ended, and return the exit code.

    0 done (now or before), 1 failed, 2 refused, 130 or 143 interrupted. Nothing that the run raises comes out.
    """
    console = Console()
    if status.is_done(folder):
        console.print(f"{folder.path} is done already: nothing to go on with", markup=False, soft_wrap=True)
        return 0
    try:
        with folder.claimed():
            return _claimed_attempt(folder, run, console)
    except ValueError as error:
        print(f"sagetune train: {error}", file=sys.stderr)
        return REFUSED


def _claimed_attempt(folder: RunFolder, run: RunConfig, console: Console) -> int:
    begun = status.begin(folder)
    console.print(f"run folder: {folder.path}", markup=False, soft_wrap=True)
    try:
        with Interrupts() as interrupts:
            from sagetune.run import execute  # torch and all that follows: seconds

            result = execute(run, folder, console, interrupts)
    except Interrupted as stop:
        status.end(folder, begun, status.INTERRUPTED, stop.exit_code, str(stop))
        advice = f"{stop}; all that is needed is saved. Go on with: {begun.command}"
        console.print(advice, markup=False, soft_wrap=True)
        return stop.exit_code
    except (Exception, SystemExit) as error:  # a library that leaves the process must not take a sweep with it
        code = REFUSED if isinstance(error, ValueError) else FAULT
        told = str(error) if code == REFUSED else f"{type(error).__name__}: {error}"
        status.end(folder, begun, status.FAILED, code, told, error)
        if code == REFUSED:
            print(f"sagetune train: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        return code
    status.end(folder, begun, status.DONE, 0)
    report.print_before_after(console, result)
    report.print_stream(console, result)
    console.print(f"report: {folder.report}", markup=False, soft_wrap=True)
    return 0
