"""OpenAI chat messages and tools <-> Sample, and the runs of tau-bench, which hold such messages under `traj`.

On disk `tools`, arguments and `meta` are JSON strings: Arrow pads nested objects with nulls and so changes a schema.
"""

from __future__ import annotations

from typing import Any

from sagetune.formats.decoding import (
    LOSS_KEYS,
    new_sample,
    own_fields,
    read_call,
    read_loss,
    read_text,
    to_json,
    turns_of,
)
from sagetune.sample import Sample, ToolCall

MESSAGE_LISTS = ("messages", "traj", "conversations")  # traj: the runs that tau-bench writes
MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", *LOSS_KEYS)
TAU_BENCH_FIELDS = ("task_id", "reward", "info", "trial")


def from_openai(record: dict[str, Any]) -> Sample:
    """OpenAI chat messages under `messages` (or `traj`), `tools` as a list or its JSON.

    Fields beyond the sample's own go to `meta`, those of a message to `meta["message_fields"]` by its index.
    """
    name = next(name for name in MESSAGE_LISTS if name in record)
    fields = {}
    messages = []
    for index, message in enumerate(turns_of(name, record[name])):
        messages.append(_read_message(f"{name}[{index}]", message))
        more = {key: value for key, value in message.items() if key not in MESSAGE_KEYS and value is not None}
        if more:
            fields[str(index)] = more
    meta = {"message_fields": fields} if fields else {}
    return new_sample(record, messages, used=(name, "tools"), tools=record.get("tools"), meta=meta)


def to_openai(sample: Sample) -> dict[str, Any]:
    """The record that `from_openai` reads back as `sample`."""
    meta = dict(sample["meta"])
    messages = _write_messages(sample, meta.pop("message_fields", {}))
    return {
        "id": sample["id"],
        "messages": messages,
        "tools": to_json(sample["tools"]),
        "task": sample["task"],
        "source": sample["source"],
        "meta": to_json(meta),
    }


def to_tau_bench(sample: Sample) -> dict[str, Any]:
    """A run as tau-bench writes it: the messages under `traj`, its own fields out of `meta` beside them."""
    meta = dict(sample["meta"])
    messages = _write_messages(sample, meta.pop("message_fields", {}))
    for message in messages:
        if message.get("tool_calls"):
            message["content"] = message["content"] or None
    record = {field: meta.pop(field) for field in TAU_BENCH_FIELDS if field in meta}
    record |= {"traj": messages} | own_fields(sample, meta)
    record |= {"id": sample["id"]} if sample["id"] else {}
    return record | ({"tools": to_json(sample["tools"])} if sample["tools"] else {})


def _read_message(field: str, message: dict[str, Any]) -> dict[str, Any]:
    if message.get("function_call") is not None:
        raise ValueError(f"{field}.function_call: the old form of a call, write tool_calls")
    read = {"role": message.get("role"), "content": read_text(f"{field}.content", message.get("content"))}
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ValueError(f"{field}.tool_calls: expected a list, got {calls!r:.80}")
    if calls:
        read["tool_calls"] = [read_call(f"{field}.tool_calls[{i}]", call) for i, call in enumerate(calls)]
    read |= {key: message[key] for key in ("tool_call_id", "name") if message.get(key) is not None}
    return read | read_loss(message)


def _write_messages(sample: Sample, fields: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    messages = []
    for index, message in enumerate(sample["messages"]):
        written: dict[str, Any] = {**message, **fields.get(str(index), {})}
        if message.get("tool_calls"):
            written["tool_calls"] = [_write_call(call) for call in message["tool_calls"]]
        messages.append(written)
    return messages


def _write_call(call: ToolCall) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": to_json(function["arguments"])}}
