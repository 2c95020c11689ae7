"""Text of an assistant turn <-> its content and its tool calls, in the Hermes form that our template writes.

A reply that tries to call a tool and fails is an error with a reason. It is never taken for a reply without calls: a
scorer that did so would reward a broken model for holding back.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from sagetune.sample import FunctionCall, Message

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FOREIGN_CALL = re.compile(r"<(tool_call|function=|functioncall)")
BARE_CALL = re.compile(r'\s*(```\w*\s*)?\[?\s*\{\s*"(name|function|arguments|parameters|tool)"\s*:')
MAX_DEPTH = 64
"""Deepest nesting of arguments; far above any tool's schema, below what Python can walk recursively."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote: text for the user, calls of tools, or neither because of `error`."""

    content: str
    calls: list[FunctionCall]
    error: str | None


def render_reply(message: Message) -> str:
    """The text of an assistant message: its content, then each call as `<tool_call>` JSON `</tool_call>`."""
    parts = [message["content"]] if message["content"] else []
    for call in message.get("tool_calls", []):
        function = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        parts.append(f"{OPEN}\n{json.dumps(function, ensure_ascii=False)}\n{CLOSE}")
    return "\n".join(parts)


def parse_reply(text: str) -> Reply:
    """Read the assistant turn `text`; the inverse of `render_reply`.

    Returns the content before the calls without outer whitespace, and the calls in order with decoded arguments. What
    cannot be executed as written gives a Reply with the reason in `error` and no calls; nothing is repaired.
    """
    content, opened, _ = text.partition(OPEN)
    calls: list[FunctionCall] = []
    position = len(content)
    try:
        _check_content(content, is_whole=not opened)
        while position < len(text):
            call, position = _read_call(text, position)
            calls.append(call)
    except (ValueError, RecursionError) as error:  # RecursionError: the JSON decoder's own on absurd nesting
        return Reply(content.strip(), [], str(error))
    return Reply(content.strip(), calls, None)


def _check_content(content: str, is_whole: bool) -> None:
    if is_whole and not content.strip():
        raise ValueError("the reply is empty")
    if CLOSE in content:
        raise ValueError(f"{CLOSE} without {OPEN}")
    if FOREIGN_CALL.search(content):
        raise ValueError(f"a call that does not begin with {OPEN}")
    if is_whole and BARE_CALL.match(content):
        raise ValueError(f"a call outside of {OPEN} and {CLOSE}")


def _read_call(text: str, position: int) -> tuple[FunctionCall, int]:
    """The call that starts at `position`, and where the next one starts."""
    if not text.startswith(OPEN, position):
        raise ValueError(f"text after a call: {text[position : position + 40]!r}")
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    try:
        decoded, end = decoder.raw_decode(text, _skip_space(text, position + len(OPEN)))
    except json.JSONDecodeError as error:
        reason = "an unfinished call" if CLOSE not in text[position:] else "a call that is not JSON"
        raise ValueError(f"{reason}: {error.msg} at character {error.pos}") from error
    end = _skip_space(text, end)
    if not text.startswith(CLOSE, end):
        raise ValueError(f"the JSON of a call is not followed by {CLOSE}")
    return function_call(decoded), _skip_space(text, end + len(CLOSE))


def function_call(decoded: Any) -> FunctionCall:
    """`{"name", "arguments"}` with decoded arguments. Raises ValueError for what is no call of a tool."""
    if not isinstance(decoded, dict):
        raise ValueError(f"a call must be a JSON object, got {type(decoded).__name__}")
    name, arguments = decoded.get("name"), decoded.get("arguments")
    if not isinstance(name, str) or not name:
        raise ValueError("a call without a name")
    if isinstance(arguments, str):  # as OpenAI's API writes them
        arguments = json.loads(arguments, parse_constant=_refuse_constant)
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {name} must be an object, got {type(arguments).__name__}")
    if _is_deeper(arguments, MAX_DEPTH):
        raise ValueError(f"the arguments of {name} are nested deeper than {MAX_DEPTH}")
    return {"name": name, "arguments": arguments}


def canonical(value: Any) -> Any:
    """A hashable stand-in: equal exactly where the JSON values are. 1 is 1.0 but neither "1" nor true."""
    if isinstance(value, dict):
        return "object", frozenset((key, canonical(item)) for key, item in value.items())
    if isinstance(value, list):
        return "array", tuple(canonical(item) for item in value)
    return ("number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__), value


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return bool(level)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
