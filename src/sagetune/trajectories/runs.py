"""The file of attempts: each is written when it is over, and a stopped collection goes on where it was."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from sagetune.trajectories.record import AgentTrajectory, load_trajectories, to_line

Key = tuple[str, str, int, int]


class RunFile:
    """A JSONL file of trajectories, open for more. done: what need not be attempted again, by key.

    A last line that a kill cut short is taken away. An attempt that the infrastructure broke is made again; the later
    record of a key counts. Raises ValueError if the file is another agent's.
    """

    def __init__(self, path: Path, agent: str, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            _drop_torn_line(path)
        earlier = load_trajectories(path) if path.is_file() else []
        others = {trajectory.agent for trajectory in earlier} - {agent}
        if others:
            raise ValueError(f"{path} holds attempts of {', '.join(sorted(others))}, not of {agent}: give another file")
        last = {trajectory.key: trajectory for trajectory in earlier}
        self.done: dict[Key, AgentTrajectory] = {
            key: trajectory for key, trajectory in last.items() if trajectory.status != "error"
        }
        self._path = path

    def __enter__(self) -> RunFile:
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, trajectory: AgentTrajectory) -> None:
        """Add an attempt; it is with the operating system when this returns."""
        self._file.write(to_line(trajectory))
        self._file.flush()


def _drop_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
