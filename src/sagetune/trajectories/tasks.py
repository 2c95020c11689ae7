"""What a user hands over as a task -> AgentTask; and a reference to data -> tasks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from sagetune import sources, world
from sagetune.evaluation.answers import exact_match
from sagetune.sample import Message, Sample
from sagetune.trajectories.bfcl import bfcl_tasks
from sagetune.trajectories.environment import AgentTask, StepResult, WorldEnvironment
from sagetune.trajectories.search import search_tasks

SHAPES = "an AgentTask, a task or a sample of the embedded world, or a dict with instruction and answer"


class QuestionEnvironment:
    """A question without tools; the answer is judged by exact match as FireAct does it."""

    def __init__(self, instruction: str, answer: str) -> None:
        self._instruction = instruction
        self._answer = answer

    @property
    def tools(self) -> list[dict[str, Any]]:
        return []

    def reset(self) -> list[Message]:
        return [{"role": "user", "content": self._instruction}]

    def step(self, call: Any) -> StepResult:
        return StepResult(f"there is no tool {call['function']['name']}", failed=True)

    def reply(self, content: str) -> str | None:
        return None

    def score(self, messages: list[Message]) -> float:
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        return float(bool(said) and exact_match(said[-1].strip().split("\n")[-1].removeprefix("Answer:"), self._answer))

    def close(self) -> None:
        """Nothing is held."""


def tasks_of(reference: str) -> list[AgentTask]:
    """The tasks of `search:<path>` or `bfcl:<folder>`. Raises ValueError as `check_tasks` does."""
    sources.check_tasks(reference)
    kind, _, place = reference.partition(":")
    return search_tasks(place) if kind == "search" else bfcl_tasks(place)


def as_task(value: Any) -> AgentTask:
    """Raises ValueError for anything that is no task."""
    if isinstance(value, AgentTask):
        return value
    if isinstance(value, world.Task):
        return world_task(value)
    if isinstance(value, Mapping) and value.get("source") == "world" and "messages" in value:
        return _of_sample(value)  # type: ignore[arg-type]
    if isinstance(value, Mapping) and {"instruction", "answer"} <= set(value):
        instruction, answer = str(value["instruction"]), str(value["answer"])
        name = str(value.get("task_id") or value.get("id") or instruction)
        gold: Message = {"role": "assistant", "content": answer}
        make = partial(QuestionEnvironment, instruction, answer)
        return AgentTask(name, instruction, make, str(value.get("family", "")), (gold,))
    raise ValueError(f"tasks: expected {SHAPES}, got {value!r:.120}")


def world_task(task: world.Task) -> AgentTask:
    return AgentTask(task.id, task.user, lambda: WorldEnvironment(task), task.family, tuple(world.expert(task)))


def _of_sample(sample: Sample) -> AgentTask:
    task = world.task_of(sample)
    return AgentTask(sample["id"], task.user, lambda: WorldEnvironment(task), sample["task"], tuple(sample["messages"]))
