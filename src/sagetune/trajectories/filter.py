"""TrajectoryFilter: which attempts are worth learning from. The reference's class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sagetune.config.trajectories import MIN_REWARD
from sagetune.trajectories.record import AgentTrajectory, own_messages

REASONS = (
    "infrastructure",  # the attempt broke, which says nothing about the agent
    "not_successful",
    "low_reward",
    "too_many_steps",
    "repeated_action",
    "refused_calls",
    "known_instruction",
    "duplicate",
    "not_among_the_shortest",
)
"""Why a trajectory is left out; the first that applies counts."""


class TrajectoryFilter:
    """Keeps good trajectories.

    min_reward: total_reward at least. max_steps: steps at most. max_repeats: how often one action with one input may be
    taken. max_refused: calls that a tool refused at most. shortest: trajectories of a task and method at most, the
    shortest first. against: instructions that must not be trained on, such as an evaluation set's. Of trajectories with
    the same instruction and steps one stays.
    """

    def __init__(
        self,
        min_reward: float = MIN_REWARD,
        require_success: bool = True,
        max_steps: int | None = None,
        *,
        max_repeats: int | None = None,
        max_refused: int | None = None,
        shortest: int | None = None,
        against: Iterable[str] = (),
    ) -> None:
        limits = (("max_steps", max_steps, 1), ("max_repeats", max_repeats, 1), ("shortest", shortest, 1))
        for name, value, least in (*limits, ("max_refused", max_refused, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name} must be null or at least {least}, got {value}")
        self._min_reward = min_reward
        self._require_success = require_success
        self._max_steps = max_steps
        self._max_repeats = max_repeats
        self._max_refused = max_refused
        self._shortest = shortest
        self._against = {_plain(instruction) for instruction in against}

    def filter(self, trajectories: Sequence[AgentTrajectory]) -> list[AgentTrajectory]:
        """Those to keep, in their order."""
        reasons = self.reasons(trajectories)
        return [trajectory for trajectory, reason in zip(trajectories, reasons, strict=True) if reason is None]

    def get_stats(self, trajectories: Sequence[AgentTrajectory]) -> dict[str, Any]:
        """`kept` and `total`; `reasons`: how many each reason left out, which with kept add up to total; `tasks` and
        `methods`: kept and total of each family of tasks (of each task, where it has no family) and prompting method.
        """
        reasons = self.reasons(trajectories)
        pairs = list(zip(trajectories, reasons, strict=True))
        counts = Counter(reason for reason in reasons if reason is not None)
        return {
            "kept": len(pairs) - counts.total(),
            "total": len(pairs),
            "reasons": {reason: counts[reason] for reason in REASONS if counts[reason]},
            "tasks": _shares((trajectory.family or trajectory.task_id, reason) for trajectory, reason in pairs),
            "methods": _shares((trajectory.method, reason) for trajectory, reason in pairs),
        }

    def reasons(self, trajectories: Sequence[AgentTrajectory]) -> list[str | None]:
        """Why each is left out; None = it is kept."""
        found = [self._fault(trajectory) for trajectory in trajectories]
        seen: set[str] = set()
        for place, trajectory in enumerate(trajectories):
            content = repr((trajectory.instruction, [(s.thought, s.action, s.action_input) for s in trajectory.steps]))
            if found[place] is None and content in seen:
                found[place] = "duplicate"
            elif found[place] is None:
                seen.add(content)
        if self._shortest is not None:
            for place in self._surplus(trajectories, found, self._shortest):
                found[place] = "not_among_the_shortest"
        return found

    def _fault(self, trajectory: AgentTrajectory) -> str | None:
        actions = Counter(repr((step.action, step.action_input)) for step in trajectory.steps)
        repeats = max(actions.values(), default=0)
        refused = trajectory.figures.get("refused_calls", 0)
        faults = {
            "infrastructure": trajectory.status == "error",
            "not_successful": self._require_success and not trajectory.success,
            "low_reward": trajectory.total_reward < self._min_reward,
            "too_many_steps": self._max_steps is not None and len(trajectory.steps) > self._max_steps,
            "repeated_action": self._max_repeats is not None and repeats > self._max_repeats,
            "refused_calls": self._max_refused is not None and refused > self._max_refused,
            "known_instruction": _plain(trajectory.instruction) in self._against,
        }
        return next((name for name, applies in faults.items() if applies), None)

    @staticmethod
    def _surplus(trajectories: Sequence[AgentTrajectory], found: list[str | None], most: int) -> list[int]:
        places: dict[tuple[str, str], list[int]] = {}
        for place, trajectory in enumerate(trajectories):
            if found[place] is None:
                places.setdefault((trajectory.task_id, trajectory.method), []).append(place)
        ordered = (sorted(group, key=lambda place: len(trajectories[place].steps)) for group in places.values())
        return [place for group in ordered for place in group[most:]]


def preference_pairs(trajectories: Iterable[AgentTrajectory]) -> list[dict[str, Any]]:
    """A record of each pair of `successes_and_failures`: {"id", "prompt", "chosen", "rejected", "tools"}.

    prompt: the opening messages; chosen, rejected: what followed.
    """
    pairs = []
    for name, chosen, rejected in successes_and_failures(trajectories):
        (prompt, better), (_, worse) = own_messages(chosen), own_messages(rejected)
        pair = {"prompt": prompt, "chosen": better, "rejected": worse}
        pairs.append({"id": name, **pair, "tools": chosen.tools})
    return pairs


def successes_and_failures(
    trajectories: Iterable[AgentTrajectory],
) -> Iterator[tuple[str, AgentTrajectory, AgentTrajectory]]:
    """A name, a success and a failure of one task: its first of each, its second of each, and so on.

    An attempt that broke is no failure, and one that came after a failed one answers to that, not to the prompt: both
    are left out.
    """
    by_task: dict[str, tuple[list[AgentTrajectory], list[AgentTrajectory]]] = {}
    for trajectory in trajectories:
        opening, own = own_messages(trajectory)
        if trajectory.status != "error" and own and trajectory.own_from <= len(opening):
            by_task.setdefault(trajectory.task_id, ([], []))[not trajectory.success].append(trajectory)
    for task_id, (good, bad) in by_task.items():
        for number, (chosen, rejected) in enumerate(zip(good, bad, strict=False)):
            yield f"{task_id}#{number}", chosen, rejected


def _shares(pairs: Iterable[tuple[str, str | None]]) -> dict[str, dict[str, int]]:
    shares: dict[str, dict[str, int]] = {}
    for name, reason in pairs:
        share = shares.setdefault(name, {"kept": 0, "total": 0})
        share["kept"] += reason is None
        share["total"] += 1
    return shares


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
