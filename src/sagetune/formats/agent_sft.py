"""The dialogs of the reference's agent_sft data (`dialog_id, goal, turns, target_tools, metadata, split`) <-> Sample.

A tool turn names its tool (`tool_id`) and holds its `result`; the call itself is only told in the assistant's words. It
becomes a call without arguments of the assistant message before it.
"""

from __future__ import annotations

from typing import Any

from sagetune.formats.decoding import functions_of, new_sample, own_fields, require, to_json, turns_of
from sagetune.sample import Sample

ROLES = ("system", "user", "assistant", "tool")
KEPT = ("goal", "metadata", "split")


def from_agent_sft(record: dict[str, Any]) -> Sample:
    """`goal`, `metadata` and `split` go to `meta`; turns with more than their own fields also to `meta["turns"]`."""
    targets = record.get("target_tools") or []
    if not isinstance(targets, list) or not all(isinstance(name, str) and name for name in targets):
        raise ValueError(f"target_tools: expected a list of tool ids, got {targets!r:.80}")
    messages: list[dict[str, Any]] = []
    kept = {}
    for index, turn in enumerate(turns_of("turns", record["turns"])):
        message = _read_turn(f"turns[{index}]", turn)
        if message["role"] == "tool":
            _add_call(f"turns[{index}]", turn, messages, targets)
        if turn != _write_turn(message, turn.get("tool_id")):
            kept[str(index)] = turn
        messages.append(message)
    read = {"id": require(record, "dialog_id", str, "a string"), **record}
    if record.get("goal") == _first_question(messages):
        del read["goal"]
    tools = [{"name": name} for name in targets]
    used = ("dialog_id", "turns", "target_tools")
    return new_sample(read, messages, used=used, tools=tools, meta={"turns": kept} if kept else {})


def to_agent_sft(sample: Sample) -> dict[str, Any]:
    """Raises ValueError where a call and its result do not follow each other, or a call has arguments."""
    meta = dict(sample["meta"])
    kept = meta.pop("turns", {})
    turns: list[dict[str, Any]] = []
    unanswered: list[dict[str, Any]] = []
    for index, message in enumerate(sample["messages"]):
        calls = functions_of(message.get("tool_calls", []))
        if any(call["arguments"] for call in calls):
            raise ValueError(f"messages[{index}].tool_calls: a dialog holds no arguments of calls")
        if message["role"] == "tool" and not unanswered:
            raise ValueError(f"messages[{index}]: a dialog holds a result only right after its call")
        turn = _write_turn({**message}, unanswered.pop(0)["name"] if message["role"] == "tool" else None)
        before = kept.get(str(index))
        turns.append(before if before is not None and _agrees(before, turn) else turn)
        unanswered += calls
    record: dict[str, Any] = {"dialog_id": sample["id"], "goal": _first_question(sample["messages"]), "turns": turns}
    record["target_tools"] = [tool["function"]["name"] for tool in sample["tools"]]
    return record | {key: meta.pop(key) for key in KEPT if key in meta} | own_fields(sample, meta)


def _read_turn(field: str, turn: dict[str, Any]) -> dict[str, Any]:
    if turn.get("role") not in ROLES:
        raise ValueError(f"{field}.role: must be one of {', '.join(ROLES)}, got {turn.get('role')!r:.80}")
    name = "result" if turn["role"] == "tool" and turn.get("result") is not None else "content"
    content = turn.get(name)
    if name == "result" and not isinstance(content, str):
        content = to_json(content)
    if not isinstance(content, str):
        raise ValueError(f"{field}.{name}: expected a string, got {content!r:.80}")
    return {"role": turn["role"], "content": content}


def _write_turn(message: Any, tool_id: Any) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "tool", "tool_id": tool_id, "result": message["content"]}
    return {"role": message["role"], "content": message["content"]}


def _add_call(field: str, turn: dict[str, Any], messages: list[dict[str, Any]], targets: list[str]) -> None:
    if turn.get("tool_id") not in targets:
        given = turn.get("tool_id")
        raise ValueError(f"{field}.tool_id: must be one of target_tools ({', '.join(targets)}), got {given!r:.80}")
    caller = next((message for message in reversed(messages) if message["role"] != "tool"), None)
    if caller is None or caller["role"] != "assistant":
        raise ValueError(f"{field}: a tool turn must follow an assistant turn")
    call = {"id": "", "type": "function", "function": {"name": turn["tool_id"], "arguments": {}}}
    caller["tool_calls"] = [*caller.get("tool_calls", []), call]


def _agrees(before: dict[str, Any], turn: dict[str, Any]) -> bool:
    """Whether a kept turn still says what the sample does now."""
    return _write_turn(_read_turn("", before), before.get("tool_id")) == turn


def _first_question(messages: Any) -> str:
    return next((message["content"] for message in messages if message["role"] == "user"), "")
