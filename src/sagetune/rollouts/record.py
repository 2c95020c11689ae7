"""rollouts.jsonl: what the policy did, an AgentTrajectory a line, as each update comes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from sagetune.files import write_bytes
from sagetune.rollouts.algorithms import Lesson
from sagetune.trajectories.record import to_line


class RolloutFile:
    """`load_trajectories` reads it; `figures` of a line has the update, counted from 1 as in the metrics, the reward,
    the mean advantage of a token and the drawn tokens beside its costs. A line's `seed` is the number of updates before
    it, so no two have one key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def rewind(self, updates: int) -> None:
        """Keep the lines of the first `updates` updates: what follows is made again by a run that goes on, and the last
        line may have been cut short.
        """
        if self._path.is_file():
            with self._path.open("rb") as lines:  # bytes: a cut can go through a character
                whole = [line for line in lines if line.endswith(b"\n")]
            kept = (line for line in whole if json.loads(line)["figures"]["update"] <= updates)
            write_bytes(self._path, b"".join(kept))

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
