"""A rollout: one attempt of the policy at a task, with the very tokens that it drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sagetune.chat import IGNORE_INDEX, Encoded
from sagetune.trajectories.local import Drawn
from sagetune.trajectories.record import AgentTrajectory


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a reward function gets."""

    trajectory: AgentTrajectory
    """The conversation and how it ended; a last reply that could not be read is not part of it."""
    turns: list[Drawn]
    """Each reply as tokens."""
    replies: list[str]
    """Each reply as text."""
    cut_off: bool
    """Whether the last reply reached the longest length allowed before it ended."""

    @property
    def num_tokens(self) -> int:
        """Drawn tokens."""
        return sum(len(turn.tokens) for turn in self.turns)

    @property
    def unread(self) -> str | None:
        """The last reply, where it could not be read."""
        taken = sum(message["role"] == "assistant" for message in self.trajectory.messages)
        return self.replies[-1] if len(self.replies) > taken else None

    def recorded(self, **figures: float) -> AgentTrajectory:
        """The trajectory for a file of them; `figures` join its own, and what could not be read follows the error."""
        told, unread = self.trajectory.error, self.unread
        if unread is not None and not self.cut_off:  # one that was cut off stands in the trajectory
            told = f"{told}\n{unread}"
        return replace(self.trajectory, error=told, figures=self.trajectory.figures | figures)


def rows_of(turns: Sequence[Drawn], name: str) -> list[Encoded]:
    """The sequences to train on: labels at drawn tokens alone, each behind exactly what the model saw when it drew it.

    A turn whose prompt goes on from the turn before, token by token, joins its row; one whose prompt does not (the
    template or the parser writes a reply in other tokens than the model drew) begins a row of its own.
    """
    rows: list[tuple[list[int], list[int]]] = []
    for turn in turns:
        before, labels = rows[-1] if rows else ([], [])
        if rows and turn.prompt[: len(before)] == before:
            rows.pop()
        else:
            before, labels = [], []
        masked = [IGNORE_INDEX] * (len(turn.prompt) - len(before))
        rows.append((turn.prompt + turn.tokens, [*labels, *masked, *turn.tokens]))
    return [Encoded(name, "", ids, labels, None, 0) for ids, labels in rows]
