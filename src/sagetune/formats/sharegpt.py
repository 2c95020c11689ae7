"""ShareGPT with function_call and observation turns <-> Sample, and AgentInstruct, its form with `loss` flags.

AgentInstruct (THUDM/AgentTuning) and AgentTraj (AgentGym) hold text turns alone: the agent's actions and what it
observes are part of the text. A gpt turn without `loss` is trained on.
"""

from __future__ import annotations

from typing import Any

from sagetune.formats.decoding import (
    bare_tools,
    decoded,
    functions_of,
    new_sample,
    own_fields,
    read_call,
    read_loss,
    read_text,
    to_json,
    turns_of,
)
from sagetune.formats.openai import MESSAGE_LISTS
from sagetune.sample import Message, Sample

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


def from_sharegpt(record: dict[str, Any]) -> Sample:
    """ShareGPT turns under `conversations`, with `system` and `tools` beside them.

    A function_call turn is one call or a JSON list of parallel calls. Adjacent function_call turns, and a gpt turn
    with the function_call turn right after it, are one assistant message.
    """
    name = next(name for name in MESSAGE_LISTS if name in record)
    messages: list[dict[str, Any]] = []
    if record.get("system"):
        messages.append({"role": "system", "content": read_text("system", record["system"])})
    previous = ""
    for index, turn in enumerate(turns_of(name, record[name])):
        field = f"{name}[{index}]"
        message = _read_turn(field, turn)
        if turn["from"] == "function_call" and previous in ("gpt", "assistant", "function_call"):
            if messages[-1].get("loss") != message.get("loss"):
                raise ValueError(f"{field}.loss: differs from that of the turn before, with which it is one message")
            messages[-1]["tool_calls"] = [*messages[-1].get("tool_calls", []), *message["tool_calls"]]
        else:
            messages.append(message)
        previous = turn["from"]
    return new_sample(record, messages, used=(name, "system", "tools"), tools=record.get("tools"))


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
    rest = {"task": sample["task"], "source": sample["source"], "meta": to_json(sample["meta"])}
    return record | {"conversations": turns, "tools": to_json(bare_tools(sample["tools"]))} | rest


def from_agent_instruct(record: dict[str, Any]) -> Sample:
    """ShareGPT turns with their `loss`; the id stands under `id` or, in AgentGym's files, under `item_id`."""
    sample = from_sharegpt(record)
    return {**sample, "id": sample["id"] or str(sample["meta"].get("item_id") or "")}


def to_agent_instruct(sample: Sample) -> dict[str, Any]:
    """Text turns, each with `loss`: null for what is not the agent's. Raises ValueError for tools and calls."""
    if sample["tools"]:
        raise ValueError("tools: AgentInstruct holds text alone")
    meta = dict(sample["meta"])
    name = "item_id" if sample["id"] and meta.get("item_id") == sample["id"] else "id"
    if name == "item_id":
        del meta["item_id"]
    turns = []
    for index, message in enumerate(sample["messages"]):
        if message["role"] == "tool" or message.get("tool_calls"):
            raise ValueError(f"messages[{index}]: AgentInstruct holds text alone, not calls and their results")
        turn: dict[str, Any] = {"from": SHAREGPT_NAMES[message["role"]], "value": message["content"]}
        if message["role"] != "assistant":
            turn |= {"loss": message.get("loss")}
        turns.append(turn | ({"loss": message["loss"]} if "loss" in message else {}))
    return {name: sample["id"], "conversations": turns} | own_fields(sample, meta)


def _read_turn(field: str, turn: dict[str, Any]) -> dict[str, Any]:
    name = turn.get("from")
    if not isinstance(name, str) or name not in SHAREGPT_ROLES:
        raise ValueError(f"{field}.from: must be one of {', '.join(SHAREGPT_ROLES)}, got {name!r:.80}")
    if name != "function_call":
        content = read_text(f"{field}.value", turn.get("value"))
        return {"role": SHAREGPT_ROLES[name], "content": content} | read_loss(turn)
    value = decoded(f"{field}.value", turn.get("value"))
    calls = value if isinstance(value, list) else [value]
    read = [read_call(f"{field}.value[{i}]", call) for i, call in enumerate(calls)]
    return {"role": "assistant", "content": "", "tool_calls": read} | read_loss(turn)


def _write_turns(message: Message) -> list[dict[str, Any]]:
    loss = {"loss": message["loss"]} if "loss" in message else {}
    calls = functions_of(message.get("tool_calls", []))
    turns = []
    if message["content"] or not calls:
        turns.append({"from": SHAREGPT_NAMES[message["role"]], "value": message["content"]} | loss)
    if calls:
        turns.append({"from": "function_call", "value": to_json(calls[0] if len(calls) == 1 else calls)} | loss)
    return turns
