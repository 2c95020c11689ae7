"""The Berkeley Function Calling Leaderboard <-> Sample: a question with its functions and its allowed answers.

`question` holds turns of messages; `ground_truth` and, for multi-turn questions, `function` come from other files:
sagetune.beside puts them there. The gold of a sample takes the first allowed value of each argument. A multi-turn
answer is a list of Python calls for each turn; results of tools are in no file.
"""

from __future__ import annotations

from typing import Any

from sagetune.formats.call_lists import read_calls, write_call
from sagetune.formats.decoding import (
    NO_CALL,
    bare_tools,
    functions_of,
    new_sample,
    own_fields,
    read_text,
    read_tools,
    reply,
    require,
    to_json,
    turns_of,
)
from sagetune.formats.schemas import BFCL_TYPES, json_functions, own_functions
from sagetune.sample import Message, Sample

USED = ("question", "function", "ground_truth")
KEPT = ("initial_config", "path", "involved_classes", "excluded_function", "missed_function")
MORE_FUNCTIONS = "\nI have updated some more functions you can choose from. What about now?"  # BFCL's prompt
ANY_CALL = "One of the available tools can do this."
"""The last message of a relevance question, which asks for any call at all; it has no loss."""


def from_bfcl(record: dict[str, Any]) -> Sample:
    """Functions with JSON Schema types; where BFCL's own do not follow from them, `meta["schema_types"]` keeps them.

    `meta["ground_truth"]` keeps answers that allow more than the gold. Functions that BFCL gives only in a later turn
    (`missed_function`) stand in that turn's user message and are not among the tools. The replies that a question
    itself contains are not trained on.
    """
    functions = turns_of("function", record.get("function"))
    missing = record.get("missed_function") or {}
    if not isinstance(missing, dict) or not all(isinstance(names, list) for names in missing.values()):
        raise ValueError(f"missed_function: expected an object of turn -> function names, got {missing!r:.80}")
    late = [name for names in missing.values() for name in names]
    hidden = {str(place): function for place, function in enumerate(functions) if function.get("name") in late}
    read, types = json_functions([function for function in functions if function.get("name") not in late], BFCL_TYPES)
    every = read_tools(json_functions(functions, {})[0])
    turns = _turns(record)
    golds, is_multi_turn = _golds(record, len(turns))
    messages: list[dict[str, Any]] = []
    for index, (turn, gold) in enumerate(zip(turns, golds, strict=True)):
        field = f"question[{index}]"
        messages += turn or [_late_functions(field, missing.get(str(index)), functions)]
        messages.append(_reply(f"ground_truth[{index}]" if is_multi_turn else "ground_truth", gold, every))
    meta: dict[str, Any] = {"schema_types": types} if types else {}
    meta |= {"missed_docs": hidden} if hidden else {}
    if "ground_truth" in record and record["ground_truth"] != _write_golds(_calls(messages), is_multi_turn):
        meta["ground_truth"] = record["ground_truth"]
    return new_sample(record, messages, used=USED, tools=read, meta=meta)


def to_bfcl(sample: Sample) -> dict[str, Any]:
    """One record with `ground_truth` in it: the kept answers as long as the sample's calls are their gold.

    Raises ValueError for results of tools and for text beside calls.
    """
    meta = dict(sample["meta"])
    functions = own_functions(bare_tools(sample["tools"]), BFCL_TYPES, meta.pop("schema_types", {}))
    for place, function in sorted(meta.pop("missed_docs", {}).items(), key=lambda item: int(item[0])):
        functions.insert(int(place), function)
    turns, golds = _split(sample)
    truth = meta.pop("ground_truth", None)
    record: dict[str, Any] = {"id": sample["id"], "question": turns, "function": functions}
    record |= {key: meta.pop(key) for key in KEPT if key in meta}
    is_multi_turn = len(turns) > 1 or "involved_classes" in record
    if is_multi_turn or golds[0] or not _category(sample["id"]):
        record["ground_truth"] = _write_golds(golds, is_multi_turn)
    if truth is not None and _calls(from_bfcl(record | {"ground_truth": truth})["messages"]) == golds:
        record["ground_truth"] = truth
    return record | own_fields(sample, meta)


def _turns(record: dict[str, Any]) -> list[list[dict[str, Any]]]:
    turns = []
    for index, turn in enumerate(require(record, "question", list, "a list of turns")):
        messages = []
        for place, message in enumerate(turns_of(f"question[{index}]", turn)):
            content = read_text(f"question[{index}][{place}].content", message.get("content"))
            asked = {"role": message.get("role"), "content": content}
            messages.append(asked | ({"loss": False} if asked["role"] == "assistant" else {}))
        turns.append(messages)
    return turns


def _golds(record: dict[str, Any], num_turns: int) -> tuple[list[Any], bool]:
    """The answer to each turn, and whether it is in the form of several turns; None is any call."""
    if "ground_truth" not in record:
        category = _category(str(record.get("id")))
        if not category:
            raise ValueError(
                "ground_truth: is missing; it is read from possible_answer/<the same file name> beside the questions"
            )
        return [[] if category == "irrelevance" else None] * num_turns, False
    truth = require(record, "ground_truth", list, "a list of calls or of turns")
    is_multi_turn = all(isinstance(turn, list) for turn in truth) and (bool(truth) or num_turns > 1)
    golds = truth if is_multi_turn else [truth]
    if len(golds) != num_turns:
        raise ValueError(f"ground_truth: has {len(golds)} turns, question has {num_turns}")
    return golds, is_multi_turn


def _category(id: str) -> str:
    """The part of an id that says what is right without an answer: no call, or any; else ''."""
    return next((kind for kind in ("irrelevance", "relevance") if kind in id), "")


def _late_functions(field: str, names: Any, functions: list[dict[str, Any]]) -> dict[str, Any]:
    found = [function for function in functions if function.get("name") in (names or [])]
    if not found:
        raise ValueError(f"{field}: is empty, and missed_function names no known function for it")
    return {"role": "user", "content": to_json(json_functions(found, {})[0]) + MORE_FUNCTIONS}


def _reply(field: str, gold: Any, tools: list[dict[str, Any]]) -> dict[str, Any]:
    if gold is None:
        return {"role": "assistant", "content": ANY_CALL, "loss": False}
    calls = []
    for index, call in enumerate(gold):
        place = f"{field}[{index}]"
        if isinstance(call, str):
            calls += read_calls(place, call, tools)
            continue
        if not isinstance(call, dict) or len(call) != 1:
            raise ValueError(f"{place}: expected one function with its arguments, got {call!r:.80}")
        ((name, allowed),) = call.items()
        schema = next((t["function"].get("parameters") for t in tools if t["function"].get("name") == name), None)
        calls.append({"name": name, "arguments": _first_allowed(f"{place}.{name}", allowed, schema, is_nested=False)})
    return reply([{"id": "", "type": "function", "function": call} for call in calls])


def _first_allowed(field: str, allowed: Any, schema: Any, *, is_nested: bool) -> dict[str, Any]:
    """The first allowed value of each argument; "" allows to leave it out, which is done unless it is required."""
    if not isinstance(allowed, dict):
        raise ValueError(f"{field}: expected an object of allowed values, got {allowed!r:.80}")
    schema = schema if isinstance(schema, dict) else {}
    properties, required = schema.get("properties") or {}, schema.get("required") or []
    chosen = {}
    for name, values in allowed.items():
        if not isinstance(values, list):
            raise ValueError(f"{field}.{name}: expected a list of allowed values, got {values!r:.80}")
        if not values or (values[0] == "" and name not in required):
            continue
        value = next((value for value in values if value != ""), "")
        chosen[name] = value if is_nested else _without_choices(f"{field}.{name}", value, properties.get(name))
    return chosen


def _without_choices(field: str, value: Any, schema: Any) -> Any:
    """An object's values are lists of allowed ones again, one level deep; so are those of objects in a list."""
    if isinstance(value, dict):
        return _first_allowed(field, value, schema, is_nested=True)
    if isinstance(value, list):
        inner = schema.get("items") if isinstance(schema, dict) else None
        return [_without_choices(field, item, inner) if isinstance(item, dict) else item for item in value]
    return value


def _is_asked(message: Any) -> bool:
    """Whether a message belongs to the question."""
    return message["role"] != "assistant" or (message.get("loss") is False and message["content"] != ANY_CALL)


def _split(sample: Sample) -> tuple[list[list[dict[str, Any]]], list[list[dict[str, Any]]]]:
    """The turns of a question and the calls that answer each."""
    turns: list[list[dict[str, Any]]] = [[]]
    golds: list[list[dict[str, Any]]] = []
    for index, message in enumerate(sample["messages"]):
        if message["role"] == "tool":
            raise ValueError(f"messages[{index}]: BFCL holds no results of tools")
        if _is_asked(message):
            turns[len(golds) :] = [[*(turns[len(golds)] if len(turns) > len(golds) else []), *_asked(message)]]
            continue
        calls = functions_of(message.get("tool_calls", []))
        if message["content"] not in (("",) if calls else (NO_CALL, ANY_CALL)):
            given = message["content"]
            raise ValueError(f"messages[{index}].content: BFCL holds calls without text, got {given!r:.80}")
        golds.append(calls)
    if len(golds) != len(turns):
        raise ValueError("messages: BFCL holds turns that end in a reply with a loss")
    return turns, golds


def _calls(messages: Any) -> list[list[dict[str, Any]]]:
    """The calls of each reply."""
    return [functions_of(message.get("tool_calls", [])) for message in messages if not _is_asked(message)]


def _asked(message: Message) -> list[dict[str, Any]]:
    if message["role"] == "user" and message["content"].endswith(MORE_FUNCTIONS):
        return []
    return [{"role": message["role"], "content": message["content"]}]


def _write_golds(golds: list[list[dict[str, Any]]], is_multi_turn: bool) -> list[Any]:
    if is_multi_turn:
        return [[write_call("messages", call) for call in calls] for calls in golds]
    return [
        {call["name"]: {name: [_with_choices(value)] for name, value in call["arguments"].items()}} for call in golds[0]
    ]


def _with_choices(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: [inner] for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_choices(item) if isinstance(item, dict) else item for item in value]
    return value
