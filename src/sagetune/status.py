"""status.json: how a run stands, from its start on, and the command that carries it on or out again. No torch."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sagetune.files import write_json
from sagetune.runfolder import RunFolder

RUNNING, DONE, FAILED, INTERRUPTED, KILLED = "running", "done", "failed", "interrupted", "killed"
FAULT, REFUSED = 1, 2
"""Exit codes of a failed run: a fault while it ran, and an input that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The content of status.json. What is not known yet is None."""

    status: str
    """running, done, failed (it raised), interrupted (it was asked to stop, and saved) or killed."""
    reason: str | None = None
    """Why it is not done, in one line or a few."""
    traceback: str | None = None
    command: str
    """The command line that does this very run: from its checkpoint if there is one."""
    started: str
    """Time of the last attempt, ISO 8601, UTC."""
    ended: str | None = None
    seconds: float | None = None
    """From `started` to `ended`."""
    exit_code: int | None = None
    """0, 1 failed, 2 refused, 130 or 143 interrupted; minus the signal's number if killed."""
    pid: int


def begin(folder: RunFolder) -> Status:
    """Write that this process is at work in `folder`."""
    status = Status(status=RUNNING, command=command_of(folder), started=_now(), pid=os.getpid())
    _write(folder, status)
    return status


def end(
    folder: RunFolder,
    begun: Status,
    status: str,
    exit_code: int,
    reason: str | None = None,
    error: BaseException | None = None,
) -> None:
    """Write how the run ended. error: what it raised, for the traceback."""
    ended = _now()
    seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(begun.started)).total_seconds()
    trace = "".join(traceback.format_exception(error)) if error is not None else None
    found: dict[str, Any] = {"status": status, "reason": reason, "traceback": trace, "exit_code": exit_code}
    _write(folder, dataclasses.replace(begun, **found, ended=ended, seconds=seconds))


def refuse(folder: RunFolder, command: str, reason: str, exit_code: int) -> None:
    """Write that the folder's configuration cannot be run."""
    begun = Status(status=FAILED, command=command, started=_now(), pid=os.getpid())
    end(folder, begun, FAILED, exit_code, reason)


def read(folder: RunFolder) -> Status | None:
    """How the run of `folder` stands; None if it never began. One whose process is gone without a word was killed."""
    if not folder.status.is_file():
        return None
    status = Status(**json.loads(folder.status.read_text(encoding="utf-8")))
    if status.status == RUNNING and not folder.is_claimed():
        return dataclasses.replace(status, status=KILLED, reason=f"its process {status.pid} is gone")
    return status


def is_done(folder: RunFolder) -> bool:
    status = read(folder)
    return status is not None and status.status == DONE


def command_of(folder: RunFolder) -> str:
    """The command that does the run of `folder`, as its config.yaml says: quoted for Hydra, then for the shell."""
    return shlex.join(["sagetune", "train", f"resume={quoted(str(folder.path))}"])


def quoted(value: str) -> str:
    """A value as Hydra's grammar reads it: as it is where it has plain characters alone."""
    if re.fullmatch(r"[A-Za-z0-9_./-]+", value):
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\'", re.sub(r"(\\+)$", r"\1\1", value))
    return f"'{escaped}'"


def _write(folder: RunFolder, status: Status) -> None:
    write_json(folder.status, dataclasses.asdict(status))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
