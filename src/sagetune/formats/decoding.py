"""What all formats share: JSON strings, text, tools and calls of a record -> the parts of a Sample, and back.

Every function that decodes takes the name of its field first, so that a ValueError can say where the fault is.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from types import UnionType
from typing import Any, cast

from sagetune.sample import Message, Sample, ToolCall, check_sample, check_tool

LOSS_KEYS = ("loss", "weight", "loss_weight")  # ours and AgentInstruct's, OpenAI's fine-tuning files, LLaMA-Factory's
OWN_FIELDS = ("id", "task", "source", "meta")
NO_CALL = "None of the available tools can do this with what I know."
"""The gold turn of a question that no call answers: a benchmark says that nothing is called, not what is said."""


def new_sample(
    record: dict[str, Any],
    messages: list[dict[str, Any]],
    *,
    used: Iterable[str],
    tools: Any,
    meta: dict[str, Any] | None = None,
) -> Sample:
    """The checked sample with these messages; fields of `record` beyond `used` and OWN_FIELDS go to `meta`."""
    given = decoded("meta", record.get("meta") or {})
    if not isinstance(given, dict):
        raise ValueError(f"meta: expected an object, got {given!r:.80}")
    left = {key: value for key, value in record.items() if key not in (*OWN_FIELDS, *used)}
    pair_calls(messages)
    sample: Sample = {
        "id": str(record.get("id") or ""),
        "messages": cast(list[Message], messages),
        "tools": read_tools(tools),
        "task": str(record.get("task") or ""),
        "source": str(record.get("source") or ""),
        "meta": given | left | (meta or {}),
    }
    check_sample(sample)
    return sample


def own_fields(sample: Sample, meta: dict[str, Any]) -> dict[str, Any]:
    """The fields that `new_sample` reads back as `sample`'s own; a format without them carries only the filled ones."""
    fields: dict[str, Any] = {key: sample[key] for key in ("task", "source") if sample[key]}
    return fields | ({"meta": to_json(meta)} if meta else {})


def require(record: dict[str, Any], field: str, kind: type | UnionType, name: str) -> Any:
    """The value of `field`, which has to be a `kind`; `name` says so in words."""
    value = record.get(field)
    if not isinstance(value, kind):
        raise ValueError(f"{field}: expected {name}, got {value!r:.80}")
    return value


def turns_of(field: str, value: Any) -> list[dict[str, Any]]:
    """`value`, if it is a list of objects."""
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise ValueError(f"{field}: expected a list of objects, got {value!r:.80}")
    return value


def read_text(field: str, content: Any) -> str:
    """The text of a string, of nothing, or of a list of text parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ValueError(f"{field}: expected a string, null or a list of text parts, got {content!r:.80}")
    texts = []
    for index, part in enumerate(content):
        text = part.get("text", part.get("value")) if isinstance(part, dict) else part
        if not isinstance(text, str) or (isinstance(part, dict) and part.get("type") != "text"):
            raise ValueError(f"{field}[{index}]: only text parts can be trained on, got {part!r:.80}")
        texts.append(text)
    return "".join(texts)


def read_loss(message: dict[str, Any]) -> dict[str, Any]:
    """The weight of a message or turn, as a part of a Message: empty where none is given."""
    given = [message[key] for key in LOSS_KEYS if message.get(key) is not None]
    return {"loss": given[0]} if given else {}


def read_call(field: str, call: Any) -> dict[str, Any]:
    """A call in full form, from `{"id", "function": {"name", "arguments"}}` or `{"name", "arguments"}`."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise ValueError(f"{field}: expected an object with name and arguments, got {call!r:.80}")
    arguments = decoded(f"{field}.function.arguments", function.get("arguments") or {})
    if not isinstance(call.get("id") or "", str):
        raise ValueError(f"{field}.id: expected a string, got {call['id']!r:.80}")
    known = {"type": "function", "function": {"name": function.get("name"), "arguments": arguments}}
    return {"id": call.get("id") or "", **known}


def read_tools(tools: Any) -> list[dict[str, Any]]:
    """OpenAI function tools, from a list of them or of their functions, or from its JSON."""
    tools = decoded("tools", tools) if tools else []
    if not isinstance(tools, list):
        raise ValueError(f"tools: expected a list, got {tools!r:.80}")
    wrapped = [_wrapped(f"tools[{index}]", tool) for index, tool in enumerate(tools)]
    for index, tool in enumerate(wrapped):
        check_tool(f"tools[{index}]", tool)
    return wrapped


def bare_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The functions alone, where nothing stands beside them; `read_tools` wraps them again."""
    return [tool["function"] if set(tool) <= {"type", "function"} else tool for tool in tools]


def functions_of(calls: list[ToolCall]) -> list[dict[str, Any]]:
    """`{"name", "arguments"}` of each call."""
    return [{"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in calls]


def reply(calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant message that makes these calls, or says that there is none to make."""
    if not calls:
        return {"role": "assistant", "content": NO_CALL}
    return {"role": "assistant", "content": "", "tool_calls": calls}


def ask_and_reply(sample: Sample, format: str) -> tuple[str, list[dict[str, Any]]]:
    """What the user asks and the functions called in answer, if `sample` is this one exchange."""
    roles = [message["role"] for message in sample["messages"]]
    if roles != ["user", "assistant"]:
        raise ValueError(f"messages: {format} holds one user and one assistant message, has {', '.join(roles)}")
    asked, answer = sample["messages"]
    calls = answer.get("tool_calls", [])
    if (answer["content"] != NO_CALL) if not calls else answer["content"]:
        raise ValueError(f"messages[1].content: {format} holds calls without text, got {answer['content']!r:.80}")
    return asked["content"], functions_of(calls)


def decoded(field: str, value: Any) -> Any:
    """`value`, read as JSON if it is a string."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{field}: is not valid JSON ({error}): {value!r:.80}") from error


def decoded_or_literal(field: str, value: str) -> Any:
    """`value`, read as JSON or, as older files print it, as a Python literal."""
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"{field}: is neither JSON nor a Python literal ({error}): {value!r:.80}") from error


def to_json(value: Any) -> str:
    """Compact enough to read, not escaped: the JSON that every format's strings hold."""
    return json.dumps(value, ensure_ascii=False)


def pair_calls(messages: list[dict[str, Any]]) -> None:
    """Give calls without an id one, and tool messages without one that of the oldest unanswered call."""
    calls = [call for message in messages for call in message.get("tool_calls", [])]
    used = {call["id"] for call in calls}
    free = (name for name in (f"call_{number}" for number in range(1, 2 * len(calls) + 1)) if name not in used)
    unanswered: list[str] = []
    for message in messages:
        for call in message.get("tool_calls", []):
            call["id"] = call["id"] or next(free)
            unanswered.append(call["id"])
        if message["role"] != "tool":
            continue
        if "tool_call_id" not in message and unanswered:
            message["tool_call_id"] = unanswered[0]
        if message.get("tool_call_id") in unanswered:
            unanswered.remove(message["tool_call_id"])


def _wrapped(field: str, tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise ValueError(f"{field}: expected an object, got {tool!r:.80}")
    if "function" in tool:
        return {"type": "function"} | tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
