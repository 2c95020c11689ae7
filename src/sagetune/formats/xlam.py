"""xLAM / APIGen (`query`, and `tools` and `answers` as JSON strings) <-> Sample.

Its tools come as JSON Schema or, as in xlam-function-calling-60k, as `{argument: {"type": "str, optional", ...}}`.
"""

from __future__ import annotations

from typing import Any

from sagetune.formats.decoding import (
    ask_and_reply,
    bare_tools,
    decoded,
    new_sample,
    own_fields,
    read_call,
    reply,
    require,
    to_json,
    turns_of,
)
from sagetune.formats.schemas import JSON_TYPES, PYTHON_TYPES
from sagetune.sample import Sample

OPTIONAL = ", optional"


def from_xlam(record: dict[str, Any]) -> Sample:
    """One question and the calls that answer it; an empty list of answers means that nothing is called."""
    functions = turns_of("tools", decoded("tools", record["tools"]))
    written: dict[str, str] = {}
    tools = [_with_schema(str(index), function, written) for index, function in enumerate(functions)]
    answers = turns_of("answers", decoded("answers", record["answers"]))
    calls = [read_call(f"answers[{index}]", answer) for index, answer in enumerate(answers)]
    messages = [{"role": "user", "content": require(record, "query", str, "a string")}, reply(calls)]
    meta = {"argument_types": written} if written else {}
    return new_sample(record, messages, used=("query", "tools", "answers"), tools=tools, meta=meta)


def to_xlam(sample: Sample) -> dict[str, Any]:
    """Tools as the flat arguments of xlam-function-calling-60k where those can hold them, else with their schema."""
    query, calls = ask_and_reply(sample, "xLAM")
    meta = dict(sample["meta"])
    written = meta.pop("argument_types", {})
    functions = [_flat(str(index), tool, written) for index, tool in enumerate(bare_tools(sample["tools"]))]
    record = {"id": sample["id"]} if sample["id"] else {}
    record |= {"query": query, "tools": to_json(functions), "answers": to_json(calls)}
    return record | own_fields(sample, meta)


def _with_schema(place: str, function: dict[str, Any], written: dict[str, str]) -> dict[str, Any]:
    """`function` with JSON Schema as parameters; argument types that its types do not lead back to go to `written`."""
    flat = function.get("parameters")
    if not isinstance(flat, dict) or not flat or not all(_is_argument(argument) for argument in flat.values()):
        return function
    properties, required = {}, []
    for name, argument in flat.items():
        kind = argument.get("type")
        schema = {key: value for key, value in argument.items() if key != "type"}
        base, optional, _ = kind.partition(OPTIONAL) if kind is not None else ("", OPTIONAL, "")
        renamed = JSON_TYPES.get(base.partition("[")[0].lower()) or (base if base in PYTHON_TYPES else None)
        if renamed is not None:
            schema["type"] = renamed
        if not optional:
            required.append(name)
        if kind is not None and kind != _argument_type(renamed, name in required):
            written[f"{place}.{name}"] = kind
        properties[name] = schema
    return {**function, "parameters": {"type": "object", "properties": properties, "required": required}}


def _is_argument(value: Any) -> bool:
    """Whether `value` describes an argument, and is not a part of a JSON Schema such as `properties`."""
    return isinstance(value, dict) and isinstance(value.get("type", ""), str)


def _argument_type(renamed: str | None, required: bool) -> str | None:
    if renamed is None:
        return None
    return PYTHON_TYPES[renamed] + ("" if required else OPTIONAL)


def _flat(place: str, function: dict[str, Any], written: dict[str, str]) -> dict[str, Any]:
    """The inverse of `_with_schema`; `function` itself where it has none."""
    schema = function.get("parameters")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not all(isinstance(inner, dict) for inner in properties.values()):
        return function
    required = schema.get("required") or []  # type: ignore[union-attr]
    flat = {}
    for name, inner in properties.items():
        kind = inner.get("type")
        named = _argument_type(kind, name in required) if kind is None or kind in PYTHON_TYPES else kind
        named = written.get(f"{place}.{name}", named)
        flat[name] = {key: value for key, value in inner.items() if key != "type"}
        flat[name] |= {"type": named} if named is not None else {}
    written_flat = {**function, "parameters": flat}
    return written_flat if _with_schema(place, written_flat, {}) == function else function
