"""A record of a file <-> Sample: OpenAI messages + tools, and ShareGPT with function_call and observation turns.

Here, and nowhere else, JSON strings are decoded and missing pieces that follow from the record are filled in. On disk
`tools`, arguments and `meta` are JSON strings: Arrow pads nested objects with nulls and so changes a schema.
"""

from __future__ import annotations

import json
from typing import Any, cast

from sagetune.sample import Message, Sample, ToolCall, check_sample

FORMATS = ("openai", "sharegpt")
MESSAGE_LISTS = ("messages", "traj", "conversations")  # traj: the runs that tau-bench writes
LOSS_KEYS = ("loss", "weight", "loss_weight")  # ours and AgentInstruct's, OpenAI's fine-tuning files, LLaMA-Factory's
MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", *LOSS_KEYS)
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
SHAREGPT_NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def detect(record: dict[str, Any]) -> str:
    """Which of FORMATS `record` is in. Raises ValueError if in none."""
    if not isinstance(record, dict):
        raise ValueError(f"record: expected a JSON object, got {record!r:.80}")
    name = next((name for name in MESSAGE_LISTS if name in record), None)
    if name is None:
        raise ValueError(f"record: needs one of {', '.join(MESSAGE_LISTS)}, has {', '.join(record) or 'no field'}")
    turns = record[name]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{name}: expected a list of objects, got {turns!r:.80}")
    return "sharegpt" if turns and "from" in turns[0] else "openai"


def from_record(record: dict[str, Any]) -> Sample:
    """The checked sample in `record`, whatever its format. Raises ValueError naming the field and the reason."""
    return {"openai": from_openai, "sharegpt": from_sharegpt}[detect(record)](record)


def from_openai(record: dict[str, Any]) -> Sample:
    """OpenAI chat messages under `messages` (or `traj`), `tools` as a list or its JSON.

    Fields beyond the sample's own go to `meta`, those of a message to `meta["message_fields"]` by its index.
    """
    name = next(name for name in MESSAGE_LISTS if name in record)
    fields = {}
    messages = []
    for index, message in enumerate(record[name]):
        messages.append(_openai_message(f"{name}[{index}]", message))
        more = {key: value for key, value in message.items() if key not in MESSAGE_KEYS and value is not None}
        if more:
            fields[str(index)] = more
    return _sample(record, name, messages, {"message_fields": fields} if fields else {})


def to_openai(sample: Sample) -> dict[str, Any]:
    """The record that `from_openai` reads back as `sample`."""
    meta = dict(sample["meta"])
    fields = meta.pop("message_fields", {})
    messages = []
    for index, message in enumerate(sample["messages"]):
        written: dict[str, Any] = {**message, **fields.get(str(index), {})}
        if message.get("tool_calls"):
            written["tool_calls"] = [_write_call(call) for call in message["tool_calls"]]
        messages.append(written)
    return {
        "id": sample["id"],
        "messages": messages,
        "tools": _to_json(sample["tools"]),
        "task": sample["task"],
        "source": sample["source"],
        "meta": _to_json(meta),
    }


def from_sharegpt(record: dict[str, Any]) -> Sample:
    """ShareGPT turns under `conversations`, with `system` and `tools` beside them.

    A function_call turn is one call or a JSON list of parallel calls. Adjacent function_call turns, and a gpt turn
    with the function_call turn right after it, are one assistant message.
    """
    name = next(name for name in MESSAGE_LISTS if name in record)
    messages: list[dict[str, Any]] = []
    if record.get("system"):
        messages.append({"role": "system", "content": _text("system", record["system"])})
    previous = ""
    for index, turn in enumerate(record[name]):
        field = f"{name}[{index}]"
        message = _sharegpt_message(field, turn)
        if turn["from"] == "function_call" and previous in ("gpt", "assistant", "function_call"):
            if messages[-1].get("loss") != message.get("loss"):
                raise ValueError(f"{field}.loss: differs from that of the turn before, with which it is one message")
            messages[-1]["tool_calls"] = [*messages[-1].get("tool_calls", []), *message["tool_calls"]]
        else:
            messages.append(message)
        previous = turn["from"]
    return _sample({key: value for key, value in record.items() if key != "system"}, name, messages, {})


def to_sharegpt(sample: Sample) -> dict[str, Any]:
    """The record that `from_sharegpt` reads back as `sample`, but for call ids and names of tool messages.

    Raises ValueError for what the format cannot hold: a call right after another assistant message.
    """
    messages = list(sample["messages"])
    record: dict[str, Any] = {"id": sample["id"]}
    if messages[0]["role"] == "system" and messages[0]["content"]:
        record["system"] = messages.pop(0)["content"]
    previous = ""
    turns: list[dict[str, Any]] = []
    for message in messages:
        calls = message.get("tool_calls")
        if calls and not message["content"] and previous == "assistant":
            raise ValueError("messages: ShareGPT cannot hold a call right after an assistant message, write OpenAI's")
        turns += _write_turns(message)
        previous = message["role"]
    tools = [tool["function"] if set(tool) <= {"type", "function"} else tool for tool in sample["tools"]]
    rest = {"task": sample["task"], "source": sample["source"], "meta": _to_json(sample["meta"])}
    return record | {"conversations": turns, "tools": _to_json(tools)} | rest


def _sample(record: dict[str, Any], name: str, messages: list[dict[str, Any]], meta: dict[str, Any]) -> Sample:
    own = ("id", "tools", "task", "source", "meta", name)
    given = _decoded("meta", record.get("meta") or {})
    if not isinstance(given, dict):
        raise ValueError(f"meta: expected an object, got {given!r:.80}")
    more = {key: value for key, value in record.items() if key not in own}
    _pair_calls(messages)
    sample: Sample = {
        "id": str(record.get("id") or ""),
        "messages": cast(list[Message], messages),
        "tools": _tools(record.get("tools")),
        "task": str(record.get("task") or ""),
        "source": str(record.get("source") or ""),
        "meta": given | more | meta,
    }
    check_sample(sample)
    return sample


def _openai_message(field: str, message: dict[str, Any]) -> dict[str, Any]:
    if message.get("function_call") is not None:
        raise ValueError(f"{field}.function_call: the old form of a call, write tool_calls")
    read = {"role": message.get("role"), "content": _text(f"{field}.content", message.get("content"))}
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ValueError(f"{field}.tool_calls: expected a list, got {calls!r:.80}")
    if calls:
        read["tool_calls"] = [_call(f"{field}.tool_calls[{i}]", call) for i, call in enumerate(calls)]
    read |= {key: message[key] for key in ("tool_call_id", "name") if message.get(key) is not None}
    return read | _loss(message)


def _sharegpt_message(field: str, turn: dict[str, Any]) -> dict[str, Any]:
    name = turn.get("from")
    if name not in SHAREGPT_ROLES:
        raise ValueError(f"{field}.from: must be one of {', '.join(SHAREGPT_ROLES)}, got {name!r:.80}")
    if name != "function_call":
        content = _text(f"{field}.value", turn.get("value"))
        return {"role": SHAREGPT_ROLES[name], "content": content} | _loss(turn)
    value = _decoded(f"{field}.value", turn.get("value"))
    calls = value if isinstance(value, list) else [value]
    read = [_call(f"{field}.value[{i}]", call) for i, call in enumerate(calls)]
    return {"role": "assistant", "content": "", "tool_calls": read} | _loss(turn)


def _loss(message: dict[str, Any]) -> dict[str, Any]:
    given = [message[key] for key in LOSS_KEYS if message.get(key) is not None]
    return {"loss": given[0]} if given else {}


def _text(field: str, content: Any) -> str:
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


def _call(field: str, call: Any) -> dict[str, Any]:
    """A call in full form, from `{"id", "function": {"name", "arguments"}}` or `{"name", "arguments"}`."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise ValueError(f"{field}: expected an object with name and arguments, got {call!r:.80}")
    arguments = _decoded(f"{field}.function.arguments", function.get("arguments") or {})
    known = {"type": "function", "function": {"name": function.get("name"), "arguments": arguments}}
    return {"id": call["id"] if call.get("id") else "", **known}


def _pair_calls(messages: list[dict[str, Any]]) -> None:
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


def _tools(tools: Any) -> list[dict[str, Any]]:
    tools = _decoded("tools", tools) if tools else []
    if not isinstance(tools, list):
        raise ValueError(f"tools: expected a list, got {tools!r:.80}")
    return [_wrapped(f"tools[{index}]", tool) for index, tool in enumerate(tools)]


def _wrapped(field: str, tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise ValueError(f"{field}: expected an object, got {tool!r:.80}")
    if "function" in tool:
        return {"type": "function"} | tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _write_call(call: ToolCall) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _to_json(function["arguments"])}}


def _write_turns(message: Message) -> list[dict[str, Any]]:
    loss = {"loss": message["loss"]} if "loss" in message else {}
    calls = [call["function"] for call in message.get("tool_calls", [])]
    turns = []
    if message["content"] or not calls:
        turns.append({"from": SHAREGPT_NAMES[message["role"]], "value": message["content"]} | loss)
    if calls:
        turns.append({"from": "function_call", "value": _to_json(calls[0] if len(calls) == 1 else calls)} | loss)
    return turns


def _decoded(field: str, value: Any) -> Any:
    """`value`, read as JSON if it is a string."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{field}: is not valid JSON ({error}): {value!r:.80}") from error


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
