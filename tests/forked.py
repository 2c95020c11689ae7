"""`sagetune ...` in a process forked from one that has imported what commands need: seconds less for each test."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sagetune.commands import main

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["sagetune.run"])


class Forked:
    """A running command: its exit code is negative where a signal ended it."""

    def __init__(
        self, *arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        handle, log = tempfile.mkstemp(prefix="forked-", suffix=".log")
        os.close(handle)
        self._log = Path(log)
        given = (arguments, folder or Path.cwd(), self._log, dict(environment or {}))
        self._process = FORKS.Process(target=_command, args=given, daemon=True)  # a failed test leaves none behind
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, what: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, what)

    def finish(self, timeout: float | None = None) -> str:
        """What the command printed, once it has ended."""
        self._process.join(timeout)
        printed = self._log.read_text()
        assert self.returncode is not None, f"still running after {timeout} s: {printed}"
        self._log.unlink()
        return printed


def _command(arguments: tuple[str, ...], folder: Path, log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["sagetune", *arguments]
    main()
