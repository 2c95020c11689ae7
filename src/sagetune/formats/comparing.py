"""Two samples -> the first field in which they differ, call ids aside."""

from __future__ import annotations

import copy
from typing import Any

from sagetune.formats.decoding import pair_calls
from sagetune.sample import Sample


def first_difference(sample: Sample, other: Sample) -> str | None:
    """The path of the first field that differs, None if there is none.

    Ids of calls count only for which message answers which call; a tool message's name only where it is not the
    called function's.
    """
    return _difference("", _comparable(sample), _comparable(other))


def _comparable(sample: Sample) -> dict[str, Any]:
    messages: list[dict[str, Any]] = copy.deepcopy([dict(message) for message in sample["messages"]])
    pair_calls(messages)
    unanswered: list[dict[str, Any]] = []
    number = 0
    for message in messages:
        for call in message.get("tool_calls", []):
            number += 1
            unanswered.append({"id": call["id"], "number": number, "name": call["function"]["name"]})
            call["id"] = number
        call = next((call for call in unanswered if call["id"] == message.get("tool_call_id")), None)
        if message["role"] == "tool" and call is not None:
            unanswered.remove(call)
            message["tool_call_id"] = call["number"]
            if message.get("name") == call["name"]:
                del message["name"]
    return {**sample, "messages": messages}


def _difference(field: str, value: Any, other: Any) -> str | None:
    if isinstance(value, dict) and isinstance(other, dict):
        pairs = ((f"{field}.{key}", value.get(key), other.get(key)) for key in {**value, **other})
        same = value.keys() == other.keys()
    elif isinstance(value, list) and isinstance(other, list):
        pairs = ((f"{field}[{place}]", *both) for place, both in enumerate(zip(value, other, strict=False)))
        same = len(value) == len(other)
    else:
        return None if value == other and type(value) is type(other) else field.removeprefix(".")
    inner = next((found for pair in pairs if (found := _difference(*pair)) is not None), None)
    return inner if inner is not None or same else field.removeprefix(".")
