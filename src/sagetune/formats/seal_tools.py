"""Seal-Tools (`query` and `calling`, a list of calls that may use each other's results) <-> Sample.

A result is named API_call_0, API_call_1, ... in the order of all calls; an argument that uses it holds that name. The
functions stand in `tools` in Seal-Tools' own form; sagetune.beside puts them there.
"""

from __future__ import annotations

from typing import Any

from sagetune.formats.decoding import (
    ask_and_reply,
    decoded,
    new_sample,
    own_fields,
    read_call,
    reply,
    require,
    turns_of,
)
from sagetune.formats.schemas import PYTHON_TYPES, json_functions, own_functions
from sagetune.sample import Sample

USED = ("query", "calling", "tools")
RENAMED = {"api_name": "name", "api_description": "description"}


def from_seal_tools(record: dict[str, Any]) -> Sample:
    """One question and its calls. Where a call has other than one result, `meta["responses"]` keeps their names."""
    calls, responses = [], []
    for index, call in enumerate(turns_of("calling", record["calling"])):
        field = f"calling[{index}]"
        given = decoded(f"{field}.parameters", call.get("parameters"))
        if not isinstance(given, dict):
            raise ValueError(f"{field}.parameters: expected an object, got {given!r:.80}")
        if not isinstance(call.get("api"), str) or not call["api"]:
            raise ValueError(f"{field}.api: expected a function name, got {call.get('api')!r:.80}")
        calls.append(read_call(field, {"name": call["api"], "arguments": given}))
        responses.append(call.get("responses"))
    meta: dict[str, Any] = {} if responses == _one_each(calls) else {"responses": responses}
    tools: list[dict[str, Any]] = []
    types: dict[str, str] = {}
    schemas: dict[str, Any] = {}
    for index, function in enumerate(turns_of("tools", record.get("tools") or [])):
        tool, types_of_tool, rest = _read_function(f"tools[{index}]", function)
        tools.append(tool)
        types |= {f"{index}{place[1:]}": kind for place, kind in types_of_tool.items()}
        schemas |= {str(index): rest} if rest else {}
    meta |= {"schema_types": types} if types else {}
    meta |= {"function_fields": schemas} if schemas else {}
    messages = [{"role": "user", "content": require(record, "query", str, "a string")}, reply(calls)]
    return new_sample(record, messages, used=USED, tools=tools, meta=meta)


def to_seal_tools(sample: Sample) -> dict[str, Any]:
    """Raises ValueError for anything but one question and its calls."""
    query, calls = ask_and_reply(sample, "Seal-Tools")
    meta = dict(sample["meta"])
    responses = meta.pop("responses", _one_each(calls))
    if len(responses) != len(calls):
        raise ValueError(f"meta.responses: names results of {len(responses)} calls, the sample has {len(calls)}")
    calling = [
        {"api": call["name"], "parameters": call["arguments"], **({} if names is None else {"responses": names})}
        for call, names in zip(calls, responses, strict=True)
    ]
    functions = [tool["function"] for tool in sample["tools"]]
    written = own_functions(functions, PYTHON_TYPES, meta.pop("schema_types", {}))
    rest = meta.pop("function_fields", {})
    tools = [_write_function(function, rest.get(str(index), {})) for index, function in enumerate(written)]
    record = {"id": sample["id"], "query": query, "calling": calling}
    return record | ({"tools": tools} if tools else {}) | own_fields(sample, meta)


def _one_each(calls: list[dict[str, Any]]) -> list[list[str]]:
    return [[f"API_call_{index}"] for index in range(len(calls))]


def _read_function(field: str, function: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """An OpenAI function, its types in other words, and what it does not hold: the field of use, the responses."""
    if not isinstance(function.get("api_name"), str):
        raise ValueError(f"{field}.api_name: expected a function name, got {function.get('api_name')!r:.80}")
    properties, required = function.get("parameters", {}), function.get("required", [])
    if not isinstance(properties, dict):
        raise ValueError(f"{field}.parameters: expected an object, got {properties!r:.80}")
    schema = {"type": "dict", "properties": properties, "required": required}
    read = {RENAMED[key]: function[key] for key in RENAMED if key in function} | {"parameters": schema}
    (tool,), types = json_functions([read], PYTHON_TYPES)
    rest = {key: value for key, value in function.items() if key not in (*RENAMED, "parameters", "required")}
    return tool, types, rest


def _write_function(function: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    schema = function.get("parameters") or {}
    written = {key: function[name] for key, name in RENAMED.items() if name in function}
    written |= {"parameters": schema.get("properties", {}), "required": schema.get("required", [])}
    return written | rest
