"""Who acts: one small protocol, and the agents that need no model: an expert, a noisy one, a replay, a function.

An agent is anything with `act(messages, tools) -> assistant message`, sync or async. Two further kinds: an agent that
must know the task (an expert) has `start(episode) -> agent`; a framework that runs its own loop is wrapped in something
with `run_episode(episode)`. `as_agent` tells them apart; anything else is refused, nothing is replaced by a stand-in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from sagetune.sample import Message
from sagetune.trajectories.environment import TaskError
from sagetune.trajectories.episode import BadReply, Episode
from sagetune.trajectories.frameworks import LangChainAgent, SmolagentsAgent, framework_of
from sagetune.trajectories.record import AgentTrajectory, own_messages


class Said(NamedTuple):
    """An assistant message and the tokens that it cost."""

    message: Message
    prompt_tokens: int = 0
    completion_tokens: int = 0


Answer = Message | Said


@runtime_checkable
class Agent(Protocol):
    """Answers a conversation. tools: OpenAI function tools.

    An agent that knows what its answer cost returns Said. Raises BadReply for an answer that cannot be run.
    """

    def act(self, messages: list[Message], tools: list[dict[str, Any]]) -> Answer | Awaitable[Answer]: ...


@runtime_checkable
class TaskAgent(Protocol):
    """An agent made for each episode. What can both act and start is started."""

    def start(self, episode: Episode) -> Agent: ...


@runtime_checkable
class Runner(Protocol):
    """Runs a loop of its own: it calls tools by `episode.call` and answers by `episode.take`. Runs in a thread.

    It lets through what these raise, and raises OutOfSteps where its own limit of steps ends the loop.
    """

    def run_episode(self, episode: Episode) -> None: ...


def as_agent(given: Any) -> Agent | TaskAgent | Runner:
    """The agent that a user handed over: as it is, or wrapped. Raises ValueError saying what is accepted."""
    if isinstance(given, type):
        raise ValueError(f"agent: expected an object, got the class {given.__name__}: call it")
    if isinstance(given, Agent | TaskAgent | Runner):
        return given
    framework = framework_of(given)
    if framework == "smolagents":
        return SmolagentsAgent.around(given)
    if framework == "langchain":
        raise ValueError(
            f"agent: a LangChain {type(given).__name__} keeps the tools that it was made with: hand over "
            f"LangChainAgent(make), where make(tools) builds it with the tools of a task ({LangChainAgent.EXAMPLE})"
        )
    if callable(given):
        return CallableAgent(given)
    raise ValueError(
        "agent: expected something with act(messages, tools), start(episode) or run_episode(episode), a function "
        "(messages, tools) -> assistant message, a smolagents ToolCallingAgent, SmolagentsAgent(make) or "
        f"LangChainAgent(make), got {type(given).__name__}"
    )


class CallableAgent:
    """A plain function (messages, tools) -> assistant message, or the text of one."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def act(self, messages: list[Message], tools: list[dict[str, Any]]) -> Any:
        return self._function(messages, tools)


class ReplayAgent:
    """Says again what recorded trajectories said: that of the same task, method and attempt, or the task's only one."""

    def __init__(self, trajectories: Iterable[AgentTrajectory]) -> None:
        self._by_task: dict[str, list[AgentTrajectory]] = {}
        for trajectory in trajectories:
            self._by_task.setdefault(trajectory.task_id, []).append(trajectory)

    def start(self, episode: Episode) -> Agent:
        """Raises TaskError for an attempt without a record."""
        known = self._by_task.get(episode.task.id, [])
        same = [one for one in known if (one.method, one.attempt) == (episode.method, episode.attempt)]
        found = same or (known if len(known) == 1 else [])
        if not found:
            attempt = f"attempt {episode.attempt} of method {episode.method!r} at task {episode.task.id!r}"
            raise TaskError(f"agent: there is no trajectory of {attempt} to replay")
        return Script(turns_of(own_messages(found[-1])[1]))


class Script:
    """Says the given turns, one after another."""

    def __init__(self, turns: Sequence[Message]) -> None:
        self._turns = iter(turns)

    def act(self, messages: list[Message], tools: list[dict[str, Any]]) -> Message:
        turn = next(self._turns, None)
        if turn is None:
            raise BadReply("the recorded conversation is over, but the task is not")
        return turn


def turns_of(messages: Iterable[Message]) -> list[Message]:
    """The assistant messages."""
    return [message for message in messages if message["role"] == "assistant"]
