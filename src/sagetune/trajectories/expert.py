"""An agent that knows every solution, thinks aloud as its prompting method asks, and errs as often as it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from sagetune.sample import FunctionCall, Message
from sagetune.trajectories.agents import turns_of
from sagetune.trajectories.environment import TaskError
from sagetune.trajectories.episode import BadReply, Episode
from sagetune.trajectories.prompting import AFTER_STEPS

ON_COURSE = "So far all went as it should, so I go on with my plan."
GIVEN_UP = "I could not find that out."


class ExpertAgent:
    """Follows each task's own solution. With error_rate each step is, with that chance, a wrong one instead: another
    tool, a wrong argument, or an answer that gives up. The errors depend on seed and episode alone.
    """

    def __init__(self, error_rate: float = 0.0, *, seed: int = 0) -> None:
        if not 0 <= error_rate <= 1:
            raise ValueError(f"error_rate must be in [0, 1], got {error_rate}")
        self._error_rate = error_rate
        self._seed = seed

    def start(self, episode: Episode) -> Expert:
        """Raises TaskError for a task whose solution is not known."""
        turns = turns_of(episode.task.gold)
        if not turns:
            raise TaskError(f"agent: the expert has no solution of task {episode.task.id!r}; use a model as the agent")
        rng = Random(f"{self._seed}/{episode.task.id}/{episode.method}/{episode.seed}/{episode.attempt}")
        thoughts = thoughts_of(turns, episode)
        wrong = [rng.random() < self._error_rate for _ in turns]
        spoilt = [_spoilt(turn, episode.tools, rng) if bad else turn for turn, bad in zip(turns, wrong, strict=True)]
        return Expert([_thinking(turn, thought) for turn, thought in zip(spoilt, thoughts, strict=True)])


class Expert:
    """The expert at one task."""

    def __init__(self, turns: Sequence[Message]) -> None:
        self._turns = list(turns)
        self._next = 0

    async def act(self, messages: list[Message], tools: list[dict[str, Any]]) -> Message:
        if self._next == len(self._turns):
            raise BadReply("the solution is over, but the task is not")
        turn = self._turns[self._next]
        self._next += 1
        asked_to_reflect = messages[-1]["content"] == AFTER_STEPS.format(num=self._next - 1)
        if asked_to_reflect and turn.get("tool_calls"):
            return {**turn, "content": f"{ON_COURSE} {turn['content']}".strip()}
        return turn


def thoughts_of(turns: Sequence[Message], episode: Episode) -> list[str]:
    """What the expert says before each of its turns that has a call and no thought of its own."""
    if episode.method == "plain":
        return [""] * len(turns)
    names = [[call["function"]["name"] for call in turn.get("tool_calls", [])] for turn in turns]
    calls = [name for group in names for name in group]
    purposes = {name: f"call {name}" for name in calls}
    purposes |= {tool["function"]["name"]: _purpose(tool["function"]) for tool in episode.tools}
    if episode.method == "cot":
        steps = [f"{number}. {purposes[name]} with {name}." for number, name in enumerate(calls, start=1)]
        return [f"Step by step: {' '.join(steps)}" if calls and not place else "" for place in range(len(turns))]
    thoughts = []
    for place, group in enumerate(names):
        start = "To do this I have to" if not place else "That is done. Next I have to"
        wanted = " and ".join(f"{purposes[name]} with {name}" for name in group)
        thoughts.append(f"{start} {wanted}." if group else "")
    if episode.previous is not None and thoughts[0]:
        thoughts[0] = f"One of my steps was wrong, so I check each this time. {thoughts[0]}"
    return thoughts


def _purpose(function: dict[str, Any]) -> str:
    text = function.get("description") or f"call {function['name']}"
    return text[:1].lower() + text[1:].split(". ")[0].rstrip(".")


def _thinking(turn: Message, thought: str) -> Message:
    return {**turn, "content": thought} if thought and turn.get("tool_calls") and not turn["content"] else turn


def _spoilt(turn: Message, tools: list[dict[str, Any]], rng: Random) -> Message:
    calls = turn.get("tool_calls", [])
    if not calls:
        return {**turn, "content": GIVEN_UP}
    bad = rng.randrange(len(calls))
    function = _wrong(calls[bad]["function"], tools, rng)
    spoilt = [{**call, "function": function} if place == bad else call for place, call in enumerate(calls)]
    return {**turn, "tool_calls": spoilt}  # type: ignore[typeddict-item]


def _wrong(function: FunctionCall, tools: list[dict[str, Any]], rng: Random) -> FunctionCall:
    """Another tool, or one argument that is not the right one."""
    others = [tool["function"]["name"] for tool in tools if tool["function"]["name"] != function["name"]]
    if others and (not function["arguments"] or rng.random() < 0.5):
        return {"name": rng.choice(others), "arguments": function["arguments"]}
    if not function["arguments"]:
        return {"name": function["name"], "arguments": {"unknown": True}}
    name = rng.choice(sorted(function["arguments"]))
    value = function["arguments"][name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        "name": function["name"],
        "arguments": {**function["arguments"], name: value + 1 if number else f"{value} x"},
    }
