"""The file of attempts: each is written when it is over, and a stopped collection goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from sagetune.trajectories.record import AgentTrajectory, parse_lines, to_line

Key = tuple[str, str, int, int]
START = b'{"task_id"'


class RunFile:
    """A JSONL file of trajectories, open for more. done: what need not be attempted again, by key.

    setup: what makes attempts comparable (who acts, and the limits); it stands in `<path>.setup.json`. A last line that
    a kill cut short is taken away. An attempt that the infrastructure broke is made again; the later record of a key
    counts. Raises ValueError if the file holds anything else, was made by another setup, or is in use.
    """

    def __init__(self, path: Path, setup: dict[str, Any]) -> None:
        self._path = path
        self._setup = setup
        self._lock = FileLock(f"{path}.lock")
        self.done: dict[Key, AgentTrajectory] = {}

    def __enter__(self) -> RunFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"{self._path} is in use by another collection: give another file") from error
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.release()

    def write(self, trajectory: AgentTrajectory) -> None:
        """Add an attempt; it is with the operating system when this returns."""
        self._file.write(to_line(trajectory))
        self._file.flush()

    def _open(self) -> None:
        earlier = _whole_lines(self._path) if self._path.is_file() else []
        self._check_setup(earlier)
        self.done = finished(earlier)
        self._file = self._path.open("a", encoding="utf-8")

    def _check_setup(self, earlier: list[AgentTrajectory]) -> None:
        beside = Path(f"{self._path}.setup.json")
        known = dict(self._setup)
        if earlier:  # a file without its setup still tells who acted
            known = json.loads(beside.read_text()) if beside.is_file() else {**known, "agent": earlier[-1].agent}
        differing = [name for name in self._setup if known.get(name) != self._setup[name]]
        if differing:
            told = "; ".join(f"{name} was {known.get(name)!r}, is {self._setup[name]!r}" for name in differing)
            raise ValueError(f"{self._path} was collected otherwise ({told}): give another file, or the same options")
        beside.write_text(json.dumps(self._setup, indent=1) + "\n")


def finished(trajectories: list[AgentTrajectory]) -> dict[Key, AgentTrajectory]:
    """The last record of each attempt that did not break, by key."""
    last = {trajectory.key: trajectory for trajectory in trajectories}
    return {key: trajectory for key, trajectory in last.items() if trajectory.status != "error"}


def _whole_lines(path: Path) -> list[AgentTrajectory]:
    """The trajectories in the file, which ends with a whole line when this returns."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    rest = content[whole:]
    if rest and not (rest.startswith(START) or START.startswith(rest)):
        raise ValueError(f"{path} holds something else than attempts: give another file")
    trajectories = parse_lines(content[:whole].splitlines(), path)
    if rest:
        with path.open("rb+") as file:
            file.truncate(whole)
    return trajectories
