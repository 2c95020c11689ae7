"""ToolACE (the functions as a JSON list in the system text, calls as `[f(a=1), g(b="x")]`) <-> Sample."""

from __future__ import annotations

import json
import re
from typing import Any

from sagetune.formats.call_lists import read_call_list, write_call
from sagetune.formats.decoding import (
    bare_tools,
    functions_of,
    new_sample,
    own_fields,
    read_loss,
    read_text,
    read_tools,
    to_json,
    turns_of,
)
from sagetune.formats.hermes import above, without_instructions
from sagetune.formats.schemas import BFCL_TYPES, json_functions, own_functions
from sagetune.formats.sharegpt import SHAREGPT_ROLES
from sagetune.sample import Message, Sample

NAMES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
FUNCTIONS = re.compile(r'\[\s*\{\s*"')
INSTRUCTIONS = re.compile(r"\n{0,2}You are an expert in composing functions\.")
END = "NO other text MUST be included."
BEFORE = """You are an expert in composing functions. You are given a question and a set of possible functions.
Based on the question, you will need to make one or more function/tool calls to achieve the purpose.
If none of the function can be used, point it out. If the given question lacks the parameters required by the function,
also point it out. You should only return the function call in tools call sections.
Here is a list of functions in JSON format that you can invoke:
"""
AFTER = f""".
Should you decide to return the function call(s).
Put it in the format of [func1(params_name=params_value, params_name2=params_value2...), func2(params)]

{END}"""


def is_toolace(record: dict[str, Any]) -> bool:
    """Whether the system text holds a list of functions and no field does."""
    system = record.get("system")
    return record.get("tools") in (None, "") and isinstance(system, str) and _split(system) is not None


def from_toolace(record: dict[str, Any]) -> Sample:
    """Tools from the system text, calls from the assistant's turns.

    `meta["tool_prompt"]` keeps the words around the functions where they are not ToolACE's. A tool turn that lists as
    many results as there were calls is as many messages.
    """
    split = _split(read_text("system", record.get("system")))
    if split is None:
        raise ValueError("system: holds no JSON list of functions")
    before, functions, after = split
    read, types = json_functions(functions, BFCL_TYPES)
    tools = read_tools(read)
    system = without_instructions(before, after, INSTRUCTIONS, END)
    meta: dict[str, Any] = {"schema_types": types} if types else {}
    if (before, after) != (above(system) + BEFORE, AFTER):
        meta["tool_prompt"] = [before, after]
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for index, turn in enumerate(turns_of("conversations", record["conversations"])):
        messages += _read_turn(f"conversations[{index}]", turn, tools, messages)
    return new_sample(record, messages, used=("conversations", "system"), tools=tools, meta=meta)


def to_toolace(sample: Sample) -> dict[str, Any]:
    """Raises ValueError for names and values that Python's form of a call cannot hold, and for a call with text."""
    meta = dict(sample["meta"])
    messages = list(sample["messages"])
    types = meta.pop("schema_types", {})
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    if not sample["tools"]:
        raise ValueError("tools: is empty, and ToolACE is known by the list of functions in its system text")
    before, after = meta.pop("tool_prompt", None) or (above(system) + BEFORE, AFTER)
    if without_instructions(before, after, INSTRUCTIONS, END) != system:
        before, after = above(system) + BEFORE, AFTER
    functions = own_functions(bare_tools(sample["tools"]), BFCL_TYPES, types)
    first = len(sample["messages"]) - len(messages)
    turns = [_write_turn(f"messages[{index}]", message) for index, message in enumerate(messages, start=first)]
    record = {"id": sample["id"]} if sample["id"] else {}
    return record | {"system": before + to_json(functions) + after, "conversations": turns} | own_fields(sample, meta)


def _split(system: str) -> tuple[str, list[dict[str, Any]], str] | None:
    """The text before a JSON list of functions, the list, and the text behind it."""
    for match in FUNCTIONS.finditer(system):
        try:
            functions, end = json.JSONDecoder().raw_decode(system, match.start())
        except (json.JSONDecodeError, RecursionError):
            continue
        if all(isinstance(function, dict) and "name" in function for function in functions):
            return system[: match.start()], functions, system[end:]
    return None


def _read_turn(
    field: str, turn: dict[str, Any], tools: list[dict[str, Any]], before: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    role = SHAREGPT_ROLES.get(str(turn.get("from")))
    if role is None:
        raise ValueError(f"{field}.from: must be one of {', '.join(NAMES.values())}, got {turn.get('from')!r:.80}")
    text = read_text(f"{field}.value", turn.get("value"))
    message = {"role": role, "content": text} | read_loss(turn)
    if role == "assistant" and (calls := read_call_list(f"{field}.value", text, tools)):
        made = [{"id": "", "type": "function", "function": call} for call in calls]
        return [message | {"content": "", "tool_calls": made}]
    num_calls = len(before[-1].get("tool_calls", [])) if before else 0
    results = _results(text) if role == "tool" and num_calls > 1 else []
    if len(results) == num_calls > 1:
        return [message | {"content": to_json(result)} for result in results]
    return [message]


def _results(text: str) -> list[Any]:
    try:
        results = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return []
    return results if isinstance(results, list) else []


def _write_turn(field: str, message: Message) -> dict[str, Any]:
    loss = {"loss": message["loss"]} if "loss" in message else {}
    calls = message.get("tool_calls", [])
    if calls and message["content"]:
        raise ValueError(f"{field}.content: ToolACE cannot hold text and calls in one message")
    text = message["content"]
    if calls:
        written = (write_call(f"{field}.tool_calls[{i}]", call) for i, call in enumerate(functions_of(calls)))
        text = f"[{', '.join(written)}]"
    return {"from": NAMES[message["role"]], "value": text} | loss
