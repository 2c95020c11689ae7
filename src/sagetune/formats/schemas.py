"""Parameter schemas that name types as Python or BFCL do (dict, float, tuple, str) <-> JSON Schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

JSON_TYPES: dict[str, str | None] = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "list": "array",
    "str": "string",
    "int": "integer",
    "bool": "boolean",
    "any": None,  # JSON Schema says so by leaving `type` out
}
BFCL_TYPES = {"object": "dict", "number": "float"}
PYTHON_TYPES = BFCL_TYPES | {"string": "str", "integer": "int", "boolean": "bool", "array": "list"}
SCHEMAS = ("parameters", "response")  # BFCL's multi-turn functions say what they return
INNER = ("items", "additionalProperties")


def json_functions(
    functions: list[dict[str, Any]], own_types: dict[str, str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Functions with JSON Schema as `parameters`, and those types, by place, that `own_types` does not lead back to."""
    changed: dict[str, str] = {}

    def rename(place: str, kind: str | None) -> str | None:
        if kind is None:
            return None
        renamed = JSON_TYPES.get(kind, kind)
        if renamed is None or own_types.get(renamed, renamed) != kind:
            changed[place] = kind
        return renamed

    return _with_types(functions, rename), changed


def own_functions(
    functions: list[dict[str, Any]], own_types: dict[str, str], changed: dict[str, str]
) -> list[dict[str, Any]]:
    """The inverse of `json_functions`."""

    def rename(place: str, kind: str | None) -> str | None:
        named = changed.get(place)
        if named is not None and JSON_TYPES.get(named, named) == kind:
            return named
        return own_types.get(kind, kind) if kind is not None else None

    return _with_types(functions, rename)


def _with_types(functions: list[dict[str, Any]], rename: Callable[[str, str | None], str | None]) -> list[Any]:
    renamed = []
    for index, function in enumerate(functions):
        schemas = {key: function[key] for key in SCHEMAS if isinstance(function.get(key), dict)}
        read = {key: _schema(schema, f"{index}.{key}", rename) for key, schema in schemas.items()}
        renamed.append({**function, **read})
    return renamed


def _schema(schema: dict[str, Any], place: str, rename: Callable[[str, str | None], str | None]) -> dict[str, Any]:
    written = dict(schema)
    kind = schema.get("type")
    if kind is None or isinstance(kind, str):
        renamed = rename(place, kind)
        if renamed is None:
            written.pop("type", None)
        else:
            written["type"] = renamed
    properties = schema.get("properties")
    if isinstance(properties, dict):
        written["properties"] = {
            name: _schema(inner, f"{place}.{name}", rename) if isinstance(inner, dict) else inner
            for name, inner in properties.items()
        }
    for key in INNER:
        if isinstance(schema.get(key), dict):
            written[key] = _schema(schema[key], f"{place}[{key}]", rename)
    return written
