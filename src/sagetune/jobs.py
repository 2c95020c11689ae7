"""Runs as jobs: a process each, so that a run that dies takes nothing with it, and a few at a time. No torch.

Each process is forked from one that has imported torch, Lightning and the rest, and done nothing else: that is 9 s of
a core a job saved. What a job does is what its plain command (`sagetune train resume=<folder>`) does.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sagetune import status
from sagetune.attempt import attempt
from sagetune.interrupts import Interrupted, Interrupts
from sagetune.processor import prepare_process
from sagetune.runfolder import RunFolder

PRELOADED = ["wandb.sdk.launch", "requests", "sagetune.run"]
"""What `wandb.init` imports, and what a run does. W&B comes first: it looks through all modules that are loaded, and
once torch is, its import takes a second more; in each job it would."""


def run_jobs(folders: Sequence[RunFolder], num_jobs: int, console: Console) -> list[int]:
    """Do the run of each folder in a process of its own, `num_jobs` at a time; returns their exit codes in order.

    Runs that are done are skipped, with 0. What a job prints goes to output.log in its folder. A signal to stop is
    passed on: each job saves, and Interrupted is raised when all have ended; a second signal kills them.
    """
    _share_cores(num_jobs)
    codes = [0] * len(folders)
    waiting = deque(place for place, folder in enumerate(folders) if not status.is_done(folder))
    running: dict[int, BaseProcess] = {}
    with SweepView(console, len(folders), num_jobs, skipped=len(folders) - len(waiting)) as view:
        try:
            with Interrupts() as interrupts:
                while waiting or running:
                    while waiting and len(running) < num_jobs:
                        interrupts.deferred = True  # a process that has started is known
                        place = waiting.popleft()
                        running[place] = _start(folders[place])
                        interrupts.deferred = False
                        interrupts.raise_if_waiting()
                    view.show(len(running))
                    wait([process.sentinel for process in running.values()], timeout=1.0)
                    for place in [place for place, process in running.items() if not process.is_alive()]:
                        codes[place] = _ended(folders[place], running.pop(place))
                        view.ended(folders[place], codes[place], len(running))
        except Interrupted as stop:
            _stop(running, stop)
            for place, process in running.items():
                view.ended(folders[place], _ended(folders[place], process), 0)
            raise
    return codes


def _share_cores(num_jobs: int) -> None:
    """Give each job its part of the cores; each would take all of them."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // num_jobs)))  # read when torch is imported


def _start(folder: RunFolder) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # The process that all are forked from must outlive a signal to the whole group (`timeout`, a terminal), else nobody
    # hears how the jobs ended. It inherits what is blocked here; the signal itself comes through after that.
    resource_tracker.ensure_running()  # by itself it would unblock them
    signal.pthread_sigmask(signal.SIG_BLOCK, Interrupts.SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, Interrupts.SIGNALS)
    process = context.Process(target=_job, args=(str(folder.path),), name=folder.path.name)
    process.start()
    return process


def _job(path: str) -> None:
    """What the process of a job does."""
    os.setsid()  # Ctrl-C reaches the launcher alone, which passes it on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, Interrupts.SIGNALS)
    folder = RunFolder(Path(path))
    log = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable()
    prepare_process()
    sys.exit(attempt(*RunFolder.open(folder.path)))


def _ended(folder: RunFolder, process: BaseProcess) -> int:
    """The exit code of a job. One that a signal ended could not write its status itself."""
    process.join()
    code, found = process.exitcode, status.read(folder)
    assert code is not None
    if code < 0:
        memory = "; out of memory, perhaps" if -code == signal.SIGKILL else ""
        reason = f"killed by {signal.Signals(-code).name}{memory}"
        status.end(folder, found or status.begin(folder), status.KILLED, code, reason)
    elif code and found is None:
        status.end(folder, status.begin(folder), status.FAILED, code, f"see {folder.log}")
    return code


def _stop(running: dict[int, BaseProcess], stop: Interrupted) -> None:
    """Pass the signal on and wait for all jobs to save; kill them at a second one."""
    try:
        with Interrupts():
            for process in running.values():
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, stop.exit_code - 128)
            for process in running.values():
                process.join()
    except Interrupted:
        for process in running.values():
            process.kill()


class SweepView:
    """The sweep at a glance: a bar on a terminal, and a line for every job that ends."""

    def __init__(self, console: Console, total: int, num_jobs: int, *, skipped: int) -> None:
        self._console = console
        self._total = total
        self._num_jobs = num_jobs
        self._skipped = skipped
        self._done = self._failed = 0
        self._seconds = 0.0
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[counts]}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bar = self._progress.add_task("sweep", total=total, completed=skipped, counts="")

    def __enter__(self) -> SweepView:
        if self._skipped:
            self._print(f"{self._skipped} of {self._total} jobs are done already")
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, running: int) -> None:
        ended = self._skipped + self._done + self._failed
        self._progress.update(self._bar, completed=ended, counts=self._counts(running))

    def ended(self, folder: RunFolder, code: int, running: int) -> None:
        """Tell of one job that ended."""
        found = status.read(folder)
        assert found is not None
        self._done += code == 0
        self._failed += code != 0
        self._seconds += found.seconds or 0.0
        self.show(running)
        ended = self._skipped + self._done + self._failed
        took = f"{folder.path.name} in {found.seconds or 0:.0f} s"
        self._print(f"{ended}/{self._total} {found.status} {took} ({self._counts(running)})")
        if code:
            self._print(f"    {(found.reason or f'exit code {code}').strip().splitlines()[0]}")
            self._print(f"    its output: {folder.log}; again: {found.command}")

    def _counts(self, running: int) -> str:
        ended = self._done + self._failed
        left = self._total - self._skipped - ended
        eta = f", about {_duration(self._seconds / ended * left / self._num_jobs)} left" if ended and left else ""
        return f"{self._done} done, {running} running, {self._failed} failed, {self._skipped} skipped{eta}"

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
