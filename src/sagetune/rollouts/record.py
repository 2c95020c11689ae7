"""rollouts.jsonl: what the policy did, an AgentTrajectory a line, as each update comes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from sagetune.files import write_text
from sagetune.rollouts.algorithms import Lesson
from sagetune.trajectories.record import to_line


class RolloutFile:
    """`load_trajectories` reads it; `figures` of a line has the update, the reward, the mean advantage of a token and
    the drawn tokens beside its costs. A line's `seed` is its update, too, so that no two have one key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def rewind(self, update: int) -> None:
        """Drop the lines of `update` and later ones, which a run that goes on makes again, and a line cut short."""
        if self._path.is_file():
            whole = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = (line for line in whole if line.endswith("\n") and json.loads(line)["figures"]["update"] < update)
            write_text(self._path, "".join(kept))

    def write(self, update: int, lesson: Lesson) -> None:
        seen = lesson.experience
        advantages = (lesson.advantages.sum(1) / seen.mask.sum(1)).tolist()
        self._append(
            to_line(rollout.recorded(update=update, reward=reward, advantage=advantage, tokens=rollout.num_tokens))
            for rollout, reward, advantage in zip(seen.rollouts, seen.scores.tolist(), advantages, strict=True)
        )

    def _append(self, lines: Iterable[str]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
