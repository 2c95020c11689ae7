"""Calls printed as Python, `[f(a=1), g(b="x")]` (ToolACE, BFCL's prompt mode) <-> name and arguments.

Text is only ever parsed: literals become values, and whatever else Python would evaluate is refused.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from typing import Any

CALL_LIST = re.compile(r"\[\s*([^\[\](){}\"'=,]+)\(.*\)\s*\]", re.DOTALL)
CALL_NAME = re.compile(r"[^\[\](){}\"'=,\s]+( [^\[\](){}\"'=,\s]+)*")  # ToolACE's names have spaces, dots and slashes
OPENING, CLOSING = "([{", ")]}"
JSON_NAMES = {"true": True, "false": False, "null": None}


def read_call_list(field: str, text: str, tools: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The calls that `text` consists of; None if it is not a list of calls but ordinary text.

    A list that begins with an offered tool and cannot be read is a ValueError.
    """
    match = CALL_LIST.fullmatch(text.strip())
    if match is None:
        return None
    try:
        return read_calls(field, text.strip()[1:-1], tools)
    except ValueError:
        if match[1].strip() in (tool["function"]["name"] for tool in tools):
            raise
        return None


def read_calls(field: str, text: str, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`{"name", "arguments"}` of each of the calls in `text`, which stand between commas.

    Arguments without a name are named after the tool's parameters in their order.
    """
    calls = []
    position = 0
    while position < len(text):
        start = text.find("(", position)
        name = text[position : start if start >= 0 else len(text)].strip()
        if start < 0 or not CALL_NAME.fullmatch(name):
            raise ValueError(f"{field}: expected name(argument=value, ...), got {text[position:]!r:.80}")
        end = _closing(field, text, start)
        calls.append({"name": name, "arguments": _arguments(field, name, text[start : end + 1], tools)})
        rest = text[end + 1 :].lstrip()
        if rest and not rest.startswith(","):
            raise ValueError(f"{field}: expected a comma after a call, got {rest!r:.80}")
        position = len(text) - len(rest) + 1 if rest else len(text)
    return calls


def write_call(field: str, call: dict[str, Any]) -> str:
    """`name(argument=value, ...)`. Raises ValueError for names that this form cannot hold."""
    if not CALL_NAME.fullmatch(call["name"]):
        raise ValueError(f"{field}.name: a call in Python's form cannot be named {call['name']!r:.80}")
    for name, value in call["arguments"].items():
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{field}.arguments: Python's form needs an identifier, got {name!r:.80}")
        try:
            json.dumps(value, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"{field}.arguments.{name}: Python's form cannot hold {value!r:.80}") from error
    return f"{call['name']}({', '.join(f'{name}={value!r}' for name, value in call['arguments'].items())})"


def _closing(field: str, text: str, start: int) -> int:
    """The position of the bracket that closes the one at `start`."""
    depth, quote, position = 0, "", start
    while position < len(text):
        character = text[position]
        if quote:
            position += character == "\\"
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth -= 1
            if depth == 0:
                return position
        position += 1
    raise ValueError(f"{field}: a call that is not closed: {text[start:]!r:.80}")


def _arguments(field: str, name: str, text: str, tools: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        call = ast.parse(f"_{text}", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{field}: the arguments of {name} are not Python's: {text!r:.80}") from error
    if not isinstance(call, ast.Call) or any(named.arg is None for named in call.keywords):
        raise ValueError(f"{field}: the arguments of {name} must be named values, got {text!r:.80}")
    parameters = next((_parameters(tool) for tool in tools if tool["function"]["name"] == name), [])
    if len(call.args) > len(parameters):
        raise ValueError(f"{field}: {name} has {len(call.args)} arguments without a name and {len(parameters)} known")
    named = dict(zip(parameters, call.args, strict=False))
    named |= {str(given.arg): given.value for given in call.keywords}
    return {key: _value(f"{field}: {name}.{key}", node) for key, node in named.items()}


def _parameters(tool: dict[str, Any]) -> list[str]:
    return list((tool["function"].get("parameters") or {}).get("properties") or {})


def _value(field: str, node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(field, item) for item in items]
        case ast.Dict(keys=keys, values=values):
            names = [_value(field, key) if key is not None else None for key in keys]
            if all(isinstance(name, str) for name in names):
                return {name: _value(field, value) for name, value in zip(names, values, strict=True)}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Name(id=name) if name in JSON_NAMES:
            return JSON_NAMES[name]
    raise ValueError(f"{field}: expected a literal, got {ast.unparse(node)!r:.80}")
