"""Where an agent acts: one protocol, the embedded world's implementation of it, and the tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from sagetune import world
from sagetune.sample import Message, ToolCall


class TaskError(ValueError):
    """What a user asked for cannot be attempted: it stops a collection, where anything else breaks one attempt."""


class StepResult(NamedTuple):
    """What a tool call led to. failed: the tool refused it; its error is the observation. done: the task is over."""

    observation: str
    done: bool = False
    failed: bool = False
    reward: float = 0.0


@runtime_checkable
class Environment(Protocol):
    """One task's world. Made anew for each attempt; used by one attempt alone."""

    @property
    def tools(self) -> list[dict[str, Any]]:
        """OpenAI function tools that are offered."""

    def reset(self) -> list[Message]:
        """Put everything at its start; the opening messages: a system message if there is one, the user's request."""

    def step(self, call: ToolCall) -> StepResult:
        """Run a call of an assistant message. Bad input is an observation; an exception is a defect of the world."""

    def reply(self, content: str) -> str | None:
        """What the user says to a message without a call; None = nothing, the task is over."""

    def score(self, messages: list[Message]) -> float:
        """How well the whole conversation solves the task, 0 to 1."""

    def close(self) -> None:
        """Let go of what the environment holds."""


@dataclass(frozen=True, slots=True)
class AgentTask:
    """What an agent is to do. make: a fresh environment. gold: a solution, where one is known: an expert replays it."""

    id: str
    instruction: str
    make: Callable[[], Environment]
    family: str = ""
    gold: tuple[Message, ...] = ()


class WorldEnvironment:
    """A task of the embedded world. Its families that end with one call are over after it."""

    def __init__(self, task: world.Task) -> None:
        self._task = task
        self.reset()

    @property
    def tools(self) -> list[dict[str, Any]]:
        return self._environment.tools

    def reset(self) -> list[Message]:
        self._environment = world.Environment(self._task)
        return [{"role": "user", "content": self._task.user}]

    def step(self, call: ToolCall) -> StepResult:
        observation = self._environment.step(call)
        return StepResult(observation, done=self._task.family != "planning", failed=observation.startswith('{"error":'))

    def reply(self, content: str) -> str | None:
        return None

    def score(self, messages: list[Message]) -> float:
        return self._environment.score(messages)

    def close(self) -> None:
        """Nothing is held."""


class OneReply:
    """A conversation that the agent's next message ends; calls lead nowhere."""

    def __init__(self, messages: list[Message], tools: list[dict[str, Any]]) -> None:
        self._messages = messages
        self._tools = tools

    @property
    def tools(self) -> list[dict[str, Any]]:
        return self._tools

    def reset(self) -> list[Message]:
        return list(self._messages)

    def step(self, call: Any) -> StepResult:
        return StepResult("", done=True)

    def reply(self, content: str) -> str | None:
        return None

    def score(self, messages: list[Message]) -> float:
        return 0.0  # judged afterwards, from the record

    def close(self) -> None:
        """Nothing is held."""


def one_reply(
    item_id: str, family: str, messages: list[Message], tools: list[dict[str, Any]], gold: Message
) -> AgentTask:
    """A task that is over with the agent's next message."""
    asked = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    return AgentTask(item_id, asked, lambda: OneReply(messages, tools), family, (gold,))
