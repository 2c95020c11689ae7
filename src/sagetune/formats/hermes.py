"""Hermes' XML in text <-> Sample: `<tools>` in the system text, `<tool_call>` and `<tool_response>` in the turns.

As Qwen and SmolLM print it (JSON) and as older Hermes data does (Python's dicts). The turns stand under `conversations`
(from, value) or `messages` (role, content).
"""

from __future__ import annotations

import json
import re
from typing import Any

from sagetune.formats.decoding import (
    decoded_or_literal,
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
from sagetune.formats.sharegpt import SHAREGPT_ROLES
from sagetune.sample import Message, Sample

NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
OPEN, CLOSE = "<tool_call>", "</tool_call>"
TOOLS = re.compile(r"<tools>\s*([\[{].*?)\s*</tools>", re.DOTALL)
RESPONSE = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>\s*", re.DOTALL)
INSTRUCTIONS = re.compile(r"\n{0,2}(# Tools\n\nYou may call|You are a function calling AI model\.)")
"""Where the words begin that tell a model how to call: they belong to the format, not to the conversation."""
BEFORE = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
"""  # Qwen2.5's words
AFTER = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


def is_hermes(turns: list[dict[str, Any]]) -> bool:
    """Whether tools, calls or results stand in the text of `turns`."""
    if any(turn.get("from") == "function_call" or turn.get("tool_calls") for turn in turns):
        return False
    for turn in turns:
        role, text = SHAREGPT_ROLES.get(str(turn.get("from", turn.get("role")))), turn.get("value", turn.get("content"))
        if not isinstance(text, str):
            continue
        if (role == "system" and TOOLS.search(text)) or (role == "assistant" and OPEN in text):
            return True
        if role in ("user", "tool") and text.lstrip().startswith("<tool_response>"):
            return True
    return False


def from_hermes(record: dict[str, Any]) -> Sample:
    """What the text holds, as tools, calls and results.

    `meta["tool_prompt"]` keeps the words around the tools where they are not Qwen's. Raises ValueError for text after a
    call: a message holds its content before its calls.
    """
    name = next(name for name in MESSAGE_LISTS if name in record)
    tools: Any = record.get("tools")
    meta: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []
    turns = turns_of(name, record[name])
    if record.get("system"):
        turns = [{"from": "system", "value": record["system"]}, *turns]
    for index, turn in enumerate(turns):
        key = "value" if "from" in turn else "content"
        field = f"{name}[{index}].{key}"
        role = SHAREGPT_ROLES.get(str(turn.get("from", turn.get("role"))))
        text = read_text(field, turn.get(key))
        if role == "system" and (match := TOOLS.search(text)):
            tools, before, after = _read_tools(field, match[1]), text[: match.start(1)], text[match.end(1) :]
            text = without_instructions(before, after, INSTRUCTIONS, CLOSE)
            if (before, after) != (above(text) + BEFORE, AFTER):
                meta["tool_prompt"] = [before, after]
            if not text:
                continue
        messages += _read_turn(field, str(role or turn.get("from", turn.get("role"))), text, read_loss(turn))
    return new_sample(record, messages, used=(name, "system", "tools"), tools=tools, meta=meta)


def to_hermes(sample: Sample) -> dict[str, Any]:
    """The text as Qwen prints it, the words around the tools as they were read. Results in a row are one turn."""
    meta = dict(sample["meta"])
    messages = list(sample["messages"])
    prompt = meta.pop("tool_prompt", None)
    turns: list[dict[str, Any]] = []
    if sample["tools"]:
        system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
        before, after = prompt or (above(system) + BEFORE, AFTER)
        if without_instructions(before, after, INSTRUCTIONS, CLOSE) != system:
            before, after = above(system) + BEFORE, AFTER
        lines = "\n".join(to_json(tool) for tool in sample["tools"])
        turns.append({"from": "system", "value": f"{before}{lines}{after}"})
    previous = ""
    for message in messages:
        turn = _write_turn(message)
        if message["role"] == previous == "tool":
            turns[-1]["value"] += "\n" + turn["value"]
        else:
            turns.append(turn)
        previous = message["role"]
    return {"id": sample["id"], "conversations": turns} | own_fields(sample, meta)


def above(system: str) -> str:
    """`system` as it stands above the instructions."""
    return f"{system}\n\n" if system else ""


def without_instructions(before: str, after: str, begin: re.Pattern[str], end: str) -> str:
    """The words of a system text that are not about how to call: the text around its tools, less the instructions.

    begin: where they begin, in `before`; where they do not, all words stay. end: the last of them, in `after`.
    """
    found = begin.search(before)
    if found is None:
        return (before.rstrip().removesuffix("<tools>") + after.lstrip().removeprefix("</tools>")).strip()
    return before[: found.start()] + after.rpartition(end)[2]


def _read_tools(field: str, text: str) -> list[Any]:
    """Tools one after the other, or a list of them, as JSON or as Python prints them."""
    try:
        read = list(_values(text))
    except json.JSONDecodeError:
        read = [decoded_or_literal(field, text)]
    return read[0] if len(read) == 1 and isinstance(read[0], list) else read


def _values(text: str) -> Any:
    position = 0
    while position < len(text):
        value, position = json.JSONDecoder().raw_decode(text, position)
        yield value
        position += len(text[position:]) - len(text[position:].lstrip(", \n\t\r"))


def _read_turn(field: str, role: str, text: str, loss: dict[str, Any]) -> list[dict[str, Any]]:
    if role == "assistant" and OPEN in text:
        content, _, _ = text.partition(OPEN)
        calls = _read_calls(field, text[len(content) :])
        return [{"role": role, "content": content.removesuffix("\n"), "tool_calls": calls} | loss]
    if role in ("user", "tool") and text.lstrip().startswith("<tool_response>"):
        if RESPONSE.sub("", text).strip():
            raise ValueError(f"{field}: text beside <tool_response>, which a message cannot hold: {text!r:.80}")
        return [{"role": "tool", "content": match[1]} | loss for match in RESPONSE.finditer(text)]
    return [{"role": role, "content": text} | loss]


def _read_calls(field: str, text: str) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    while text:
        if not text.startswith(OPEN):
            raise ValueError(f"{field}: text after a call, which a message cannot hold: {text!r:.80}")
        text = text.removeprefix(OPEN).lstrip()
        values, text = _read_block(field, text)
        for value in values:
            calls += [read_call(f"{field}: call {len(calls) + 1}", call) for call in _listed(value)]
        text = text.lstrip()
    return calls


def _read_block(field: str, text: str) -> tuple[list[Any], str]:
    """What stands up to the next closing tag, and the text behind it."""
    values = []
    rest = text
    try:
        while rest and not rest.startswith(CLOSE):  # JSON is read first: its strings may hold the closing tag
            value, end = json.JSONDecoder().raw_decode(rest)
            values.append(value)
            rest = rest[end:].lstrip()
    except (json.JSONDecodeError, RecursionError):
        inside, closed, rest = text.partition(CLOSE)
        if closed:
            return [decoded_or_literal(field, inside)], rest
    if not rest.startswith(CLOSE) or not values:
        raise ValueError(f"{field}: {OPEN} without {CLOSE} or without a call: {text!r:.80}")
    return values, rest.removeprefix(CLOSE)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _write_turn(message: Message) -> dict[str, Any]:
    loss = {"loss": message["loss"]} if "loss" in message else {}
    text = message["content"]
    if message["role"] == "tool":
        text = f"<tool_response>\n{text}\n</tool_response>"
    for call in functions_of(message.get("tool_calls", [])):
        text += ("\n" if text else "") + f"{OPEN}\n{to_json(call)}\n{CLOSE}"
    return {"from": NAMES[message["role"]], "value": text} | loss
