"""What an agent did: the reference's TrajectoryStep and AgentTrajectory, to and from messages and JSON lines.

A step is one tool call, or the final answer (action FINISH). A trajectory that was collected also keeps its messages,
from which its steps follow; one that a user builds of steps alone gets its messages from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from sagetune.sample import Message, ToolCall

FINISH = "finish"
"""The action of a step that answers instead of calling a tool; its input is {"answer": text}."""
STATUSES = ("finished", "max_steps", "bad_reply", "timeout", "error")
"""How an attempt ended. bad_reply: what the agent wrote cannot be run. timeout: the task took too long. error: the
infrastructure broke, which is no failure of the agent."""


@dataclass
class TrajectoryStep:
    """One step: the reference's fields, and which of the agent's messages it was part of."""

    thought: str = ""
    """The agent's reasoning before the action."""
    action: str = ""
    """Name of the tool, or FINISH."""
    action_input: dict[str, Any] = field(default_factory=dict)
    """The tool's arguments."""
    observation: str = ""
    """What the environment answered."""
    reward: float = 0.0
    """What this step earned."""
    turn: int | None = None
    """Steps of one turn are parallel calls of one message; None = a message of its own."""


@dataclass
class AgentTrajectory:
    """One attempt at a task: the reference's fields, and what a rerun, a filter and a report need."""

    task_id: str
    instruction: str
    steps: list[TrajectoryStep]
    success: bool = False
    total_reward: float = 0.0
    method: str = ""
    """The prompting method: react, cot, reflexion, or "" if unknown."""
    agent: str = ""
    """Who acted."""
    family: str = ""
    """Family of the task."""
    seed: int = 0
    attempt: int = 0
    """Attempts at one task by one method count from 0."""
    status: str = "finished"
    """One of STATUSES."""
    error: str = ""
    """Why it ended so."""
    cut_off: str = ""
    """The reply that ended the attempt because it was longer than a reply may be, as far as it went."""
    messages: list[Message] = field(default_factory=list)
    """The conversation as it was, without what only the prompting method added; empty = as the steps tell. One that
    follows a failed attempt begins with that attempt, whose messages carry no loss."""
    own_from: int = 0
    """Place in `messages` from which they are this attempt's own."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """OpenAI function tools that were offered."""
    figures: dict[str, float] = field(default_factory=dict)
    """Costs: seconds, retries, prompt_tokens, completion_tokens, refused_calls."""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What makes an attempt the same attempt: (task_id, method, seed, attempt)."""
        return self.task_id, self.method, self.seed, self.attempt


_NUMBER, _TEXT, _OBJECT = {"type": "number"}, {"type": "string"}, {"type": "object"}
_STEP = {
    "type": "object",
    "required": ["action"],
    "additionalProperties": False,
    "properties": {
        "thought": _TEXT, "action": _TEXT, "action_input": _OBJECT, "observation": _TEXT, "reward": _NUMBER,
        "turn": {"type": ["integer", "null"]},
    },
}  # fmt: skip
SCHEMA = {
    "type": "object",
    "required": ["task_id", "instruction", "steps"],
    "additionalProperties": False,
    "properties": {
        "task_id": _TEXT, "instruction": _TEXT, "steps": {"type": "array", "items": _STEP},
        "success": {"type": "boolean"}, "total_reward": _NUMBER, "method": _TEXT, "agent": _TEXT, "family": _TEXT,
        "seed": {"type": "integer"}, "attempt": {"type": "integer"}, "status": {"enum": list(STATUSES)},
        "error": _TEXT, "cut_off": _TEXT, "messages": {"type": "array", "items": _OBJECT},
        "own_from": {"type": "integer", "minimum": 0},
        "tools": {"type": "array", "items": _OBJECT},
        "figures": {"type": "object", "additionalProperties": _NUMBER},
    },
}  # fmt: skip
"""A line of trajectories.jsonl."""


def load_trajectories(path: str | Path) -> list[AgentTrajectory]:
    """The trajectories of a JSONL file, in order; an attempt that broke may come again later.

    Raises ValueError with file, line, field and reason.
    """
    with Path(path).open("rb") as lines:
        return parse_lines(lines, path)


def parse_lines(lines: Iterable[bytes], path: str | Path) -> list[AgentTrajectory]:
    """`load_trajectories` for lines of the file `path`."""
    return [_read(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def save_trajectories(trajectories: Iterable[AgentTrajectory], path: str | Path) -> None:
    """Write a JSONL file that `load_trajectories` reads back as the same."""
    with Path(path).open("w", encoding="utf-8") as file:
        file.writelines(to_line(trajectory) for trajectory in trajectories)


def to_line(trajectory: AgentTrajectory) -> str:
    """One line of JSON with its end. `tools` and arguments stand as objects: the file is not made for Arrow."""
    return json.dumps(asdict(trajectory), ensure_ascii=False) + "\n"


def from_dict(record: Any) -> AgentTrajectory:
    """The trajectory that `dataclasses.asdict` wrote. Raises ValueError naming the field and the reason."""
    error = next(Draft202012Validator(SCHEMA).iter_errors(record), None)
    if error is not None:
        raise ValueError(f"{error.json_path.removeprefix('$.')}: {error.message:.200}")
    steps = [TrajectoryStep(**step) for step in record["steps"]]
    return AgentTrajectory(**{**record, "steps": steps})


def _read(line: bytes, place: str) -> AgentTrajectory:
    try:
        return from_dict(json.loads(line))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{place}: record: is not valid JSON ({error})") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def steps_of(messages: Sequence[Message]) -> list[TrajectoryStep]:
    """The steps that the assistant messages took: each call with its observation, or a FINISH without a call."""
    observed = {message["tool_call_id"]: message["content"] for message in messages if "tool_call_id" in message}
    steps = []
    turns = (message for message in messages if message["role"] == "assistant")
    for turn, message in enumerate(turns):
        calls = message.get("tool_calls", [])
        if not calls:
            steps.append(TrajectoryStep("", FINISH, {"answer": message["content"]}, turn=turn))
        for place, call in enumerate(calls):
            function, thought = call["function"], message["content"] if not place else ""
            seen = observed.get(call["id"], "")
            steps.append(TrajectoryStep(thought, function["name"], function["arguments"], seen, turn=turn))
    return steps


def messages_of(trajectory: AgentTrajectory) -> list[Message]:
    """The conversation: as it was recorded, else the instruction and one message a step, its observation behind it.

    A FINISH is an answer, unless a tool of this name was offered.
    """
    if trajectory.messages:
        return list(trajectory.messages)
    offered = {tool["function"]["name"] for tool in trajectory.tools}
    messages: list[Message] = [{"role": "user", "content": trajectory.instruction}]
    number = 0
    for group in _turns(trajectory.steps):
        thought = "\n".join(step.thought for step in group if step.thought)
        if group[0].action == FINISH and FINISH not in offered:
            answer = str(group[0].action_input.get("answer", ""))
            messages.append({"role": "assistant", "content": "\n".join(part for part in (thought, answer) if part)})
            continue
        calls: list[ToolCall] = []
        for step in group:
            number += 1
            function = {"name": step.action, "arguments": step.action_input}
            calls.append({"id": f"call_{number}", "type": "function", "function": function})  # type: ignore[typeddict-item]
        messages.append({"role": "assistant", "content": thought, "tool_calls": calls})
        for call, step in zip(calls, group, strict=True):
            name = step.action
            messages.append({"role": "tool", "content": step.observation, "tool_call_id": call["id"], "name": name})
    return messages


def own_messages(trajectory: AgentTrajectory) -> tuple[list[Message], list[Message]]:
    """The opening messages, and what this attempt added to them."""
    messages = messages_of(trajectory)
    first = next((place for place, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    return messages[:first], messages[max(trajectory.own_from, first) :]


def _turns(steps: Sequence[TrajectoryStep]) -> Iterator[list[TrajectoryStep]]:
    group: list[TrajectoryStep] = []
    for step in steps:
        if group and (step.turn is None or step.turn != group[-1].turn):
            yield group
            group = []
        group.append(step)
    if group:
        yield group
