"""ReAct text <-> chat messages: `Thought: ... / Action: ... / Observation: ...`, steps numbered or not.

    Thought: I need Nolan's age.                      {"role": "assistant", "content": "I need Nolan's age.",
    Action: search[Christopher Nolan age]      <->     "tool_calls": [search, {"query": "Christopher Nolan age"}]}
    Observation: 53                                   {"role": "tool", "content": "53"}

Arguments stand in brackets (FireAct), or as JSON in a line `Action Input: {...}` (ToolLLaMA, LangChain). A thought
without an action is an assistant message without calls. `Final Answer: ...` stays in the content, as does an action
that cannot be read: nothing is repaired. Actions without an observation in between are calls of one message.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, TypedDict

from sagetune.sample import Message, ToolCall

LABEL = re.compile(r"(?:\AQuestion|^(?:Thought|Action Input|Action|Observation|Final Answer))(?: \d+)?: ?", re.M)
BRACKETS = re.compile(r"\s*(\w[\w.-]*)\[(.*)\]\s*", re.S)
ARGUMENT_NAMES = {"search": "query", "finish": "answer"}
OTHER_ARGUMENT = "input"


class Layout(TypedDict, total=False):
    """How a text differs from what `to_react` makes of its messages by itself.

    numbered: the labels that carry the step's number. json: arguments are in `Action Input` lines. end: what follows
    the last line, if no newline. text: the text itself, where it is written yet otherwise.
    """

    numbered: list[str]
    json: bool
    end: str
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """A label with its text. raw: both as they stand. name: the label without number and colon, "" before the first."""

    name: str
    body: str
    raw: str


def from_react(text: str) -> tuple[list[Message], Layout]:
    """The messages in `text`, and what `to_react` has to know to write the very same text again."""
    parts = _split(text)
    messages = _read(parts)
    layout: Layout = {}
    numbered = sorted({part.name for part in parts if re.match(re.escape(part.name) + r" \d", part.raw) and part.name})
    if numbered:
        layout["numbered"] = numbered
    if any(part.name == "Action Input" for part in parts):
        layout["json"] = True
    if text and not text.endswith("\n"):
        layout["end"] = ""
    try:
        written = _write(messages, layout)
    except ValueError:
        written = None
    if written != text:
        layout["text"] = text
    return messages, layout


def to_react(messages: list[Message], layout: Layout | None = None) -> str:
    """The text that `from_react` reads back as `messages`, but for ids and names of tool messages, and loss weights.

    Raises ValueError for what the form cannot hold: a system message, several arguments in brackets, a line within a
    message that begins like a part of its own.
    """
    layout = layout or {}
    given = layout.get("text")
    if given is not None and _said(_read(_split(given))) == _said(messages):
        return given
    text = _write(messages, layout)
    if _said(_read(_split(text))) != _said(messages):
        raise ValueError("messages: ReAct text cannot hold them, it would be read otherwise than written")
    return text


def final_answer(messages: list[Message]) -> str | None:
    """What the last `finish` call answers, else the text after the last `Final Answer:`, else None."""
    for message in reversed(messages):
        for call in reversed(message.get("tool_calls", [])):
            if call["function"]["name"] == "finish":
                return str(call["function"]["arguments"].get(ARGUMENT_NAMES["finish"], ""))
        if message["role"] == "assistant" and "Final Answer:" in message["content"]:
            return message["content"].rpartition("Final Answer:")[2].strip()
    return None


def _split(text: str) -> list[Part]:
    """The parts of `text`; a part's body ends before the newline that stands in front of the next one."""
    labels = list(LABEL.finditer(text))
    starts = [label.start() for label in labels]
    parts = []
    if text and (not starts or starts[0] > 0):
        lead = text[: starts[0]] if starts else text
        parts.append(Part("", lead.removesuffix("\n"), lead))
    for label, end in zip(labels, [*starts, len(text)][1:], strict=True):
        name = re.sub(r"(?: \d+)?: ?$", "", label.group())
        parts.append(Part(name, text[label.end() : end].removesuffix("\n"), text[label.start() : end]))
    return parts


def _read(parts: list[Part]) -> list[Message]:
    messages: list[Message] = []
    num_calls = 0
    for index, part in enumerate(parts):
        after = parts[index + 1] if index + 1 < len(parts) else None
        call = _call(part, after, f"call_{num_calls + 1}")
        if part.name == "Question":
            messages.append({"role": "user", "content": part.body})
        elif part.name == "Observation":
            messages.append(_observation(part.body, messages))
        elif part.name in ("", "Thought"):
            messages.append({"role": "assistant", "content": part.body})
        elif call is not None:
            _add_call(messages, call)
            num_calls += 1
        elif part.name != "Action Input" or _call(parts[index - 1], part, "") is None:
            _add_text(messages, part.raw.removesuffix("\n"))
    return messages


def _call(part: Part, after: Part | None, name: str) -> ToolCall | None:
    """The call that an action part is, with its input after it; None if it is no action or cannot be read."""
    if part.name != "Action":
        return None
    if after is not None and after.name == "Action Input":
        try:
            arguments = json.loads(after.body)
        except (json.JSONDecodeError, RecursionError):
            return None
        tool = part.body.strip()
        if not tool or not isinstance(arguments, dict):
            return None
        return {"id": name, "type": "function", "function": {"name": tool, "arguments": arguments}}
    found = BRACKETS.fullmatch(part.body)
    if found is None:
        return None
    argument = ARGUMENT_NAMES.get(found[1], OTHER_ARGUMENT)
    return {"id": name, "type": "function", "function": {"name": found[1], "arguments": {argument: found[2]}}}


def _observation(body: str, messages: list[Message]) -> Message:
    """A tool message; it answers the oldest call without an answer of the last assistant message, if there is one."""
    answered = []
    for message in reversed(messages):
        if message["role"] == "tool":
            answered.append(message.get("tool_call_id"))
            continue
        waiting = [call["id"] for call in message.get("tool_calls", []) if call["id"] not in answered]
        if waiting:
            return {"role": "tool", "content": body, "tool_call_id": waiting[0]}
        break
    return {"role": "tool", "content": body}


def _add_call(messages: list[Message], call: ToolCall) -> None:
    if messages and messages[-1]["role"] == "assistant" and not _has_label(messages[-1]["content"]):
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})


def _add_text(messages: list[Message], text: str) -> None:
    """A line that is kept with its label: below the thought before it, or in a message of its own."""
    if messages and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
        messages[-1]["content"] += f"\n{text}"
    else:
        messages.append({"role": "assistant", "content": text})


def _has_label(content: str) -> bool:
    return LABEL.search(content) is not None


def _write(messages: list[Message], layout: Layout) -> str:
    numbered, as_json = layout.get("numbered", []), layout.get("json", False)
    lines = []
    step = 0
    for message in messages:
        step += message["role"] == "assistant"
        labels = {name: f"{name} {step}" if name in numbered else name for name in ("Thought", "Action", "Observation")}
        labels["Action Input"] = f"Action Input {step}" if "Action Input" in numbered else "Action Input"
        if message["role"] == "user":
            lines.append(f"Question: {message['content']}\n")
        elif message["role"] == "tool":
            lines.append(f"{labels['Observation']}: {message['content']}\n")
        elif message["role"] == "assistant":
            lines += _write_turn(message, labels, as_json)
        else:
            raise ValueError(f"messages: ReAct text has no place for a message of role {message['role']!r}")
    text = "".join(lines)
    return text if "end" not in layout else text.removesuffix("\n") + layout["end"]


def _write_turn(message: Message, labels: dict[str, str], as_json: bool) -> list[str]:
    calls, content = message.get("tool_calls", []), message["content"]
    lines = []
    if content or not calls:
        lines.append(f"{content}\n" if LABEL.match(content) else f"{labels['Thought']}: {content}\n")
    for call in calls:
        function = call["function"]
        if as_json:
            arguments = json.dumps(function["arguments"], ensure_ascii=False)
            lines.append(f"{labels['Action']}: {function['name']}\n{labels['Action Input']}: {arguments}\n")
        else:
            lines.append(f"{labels['Action']}: {function['name']}[{_bracketed(function['name'], function)}]\n")
    return lines


def _bracketed(name: str, function: Any) -> str:
    argument = ARGUMENT_NAMES.get(name, OTHER_ARGUMENT)
    given = function["arguments"]
    if set(given) != {argument} or not isinstance(given[argument], str):
        raise ValueError(f"messages: brackets hold one text, {argument!r}, of {name}; write layout={{'json': True}}")
    return given[argument]


def _said(messages: list[Message]) -> list[Any]:
    """What is compared: roles, contents and calls, without ids."""
    return [
        [message["role"], message["content"], [call["function"] for call in message.get("tool_calls", [])]]
        for message in messages
    ]
