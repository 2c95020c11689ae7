"""What a domain is made of: tables, tools that read and write them, and the phrasings that ask for each tool."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random
from sqlite3 import Connection
from typing import Any

from sagetune.world.phrasing import Template, expand
from sagetune.world.values import KINDS, parse_fields, pool

Run = Callable[[Connection, dict[str, Any]], Any]
Rows = dict[str, list[dict[str, Any]]]


class ToolError(Exception):
    """A tool refused: unknown id, not enough money. It becomes the observation `{"error": ...}`."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. `fields` is `"title:title time?:time"` (name, kind, ? = optional).

    `cue` matches the verbs that ask for it; with a word for the domain's objects it tells whether a request could mean
    this tool. `needs` names the rows that must exist: `"events id=event_id"` is a table, then column=argument pairs.
    `near` are look-alikes in other domains. A tool without `train` phrasings never occurs in train.
    """

    name: str
    description: str
    fields: str
    run: Run
    cue: str
    needs: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def kinds(self) -> dict[str, str]:
        """Argument name -> kind of value."""
        return {name: kind for name, (kind, _) in parse_fields(self.fields).items()}

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the required arguments, in schema order."""
        return tuple(name for name, (_, required) in parse_fields(self.fields).items() if required)

    def phrases(self, split: str) -> tuple[str, ...]:
        """The grammar strings of `split`; empty if the tool does not exist there."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[split]


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain: `objects` matches the nouns it is about; `tables` maps a table to its columns and their kinds."""

    name: str
    objects: str
    tables: dict[str, str]
    tools: tuple[Tool, ...]


@cache
def schema_of(tool: Tool) -> dict[str, Any]:
    """The tool in OpenAI function form. Shared between samples: do not change it in place."""
    properties = {name: KINDS[kind].schema for name, kind in tool.kinds.items()}
    parameters = {"type": "object", "properties": properties, "required": list(tool.required)}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


@cache
def complete_templates(tool: Tool, split: str) -> tuple[Template, ...]:
    """The templates that state every required argument."""
    return tuple(item for item in expand(tool.phrases(split)) if not set(item.dropped) & set(tool.required))


@cache
def lacking_templates(tool: Tool, split: str) -> tuple[Template, ...]:
    """The templates that lack exactly one required argument."""
    return tuple(item for item in expand(tool.phrases(split)) if len(set(item.dropped) & set(tool.required)) == 1)


def label_of(tool: Tool, argument: str) -> str:
    """How a person calls the argument: "email address" for `to`, "event id" for `event_id`."""
    return KINDS[tool.kinds[argument]].label or argument.replace("_", " ")


@cache
def could_mean(tool: Tool, objects: str, carrier: str) -> bool:
    """True if a request with these words could mean the tool: it names one of its objects and one of its verbs."""
    return bool(_search(objects, carrier) and _search(tool.cue, carrier))


def _search(words: str, text: str) -> bool:
    return re.search(rf"\b(?:{words})\b", text, re.IGNORECASE) is not None


# -- state: rows that fit, and the four things most tools do with a table


def draw_row(fields: str, split: str, rng: Random, **known: Any) -> dict[str, Any]:
    """A row with random values of the split in every column but the known ones; `id` is drawn too."""
    row = {"id": rng.choice(pool("id", split))}
    for column, (kind, _) in parse_fields(fields).items():
        row[column] = rng.choice(pool(kind, split))
    return row | known


def insert(table: str) -> Run:
    """A tool that adds a row made of its arguments; columns without one stay empty."""

    def run(db: Connection, arguments: dict[str, Any]) -> Any:
        columns, marks = ", ".join(arguments), ", ".join("?" * len(arguments))
        cursor = db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(arguments.values()))
        return {"id": cursor.lastrowid}

    return run


def find(table: str, *shown: str) -> Run:
    """A tool that lists the rows whose columns equal its arguments, by id."""

    def run(db: Connection, arguments: dict[str, Any]) -> Any:
        return _select(db, table, shown, arguments)

    return run


def get(table: str, *shown: str) -> Run:
    """A tool that returns the one row its arguments name, and refuses if there is none."""

    def run(db: Connection, arguments: dict[str, Any]) -> Any:
        rows = _select(db, table, shown, arguments)
        if not rows:
            raise ToolError(_unknown(table, arguments))
        return rows[0]

    return run


def remove(table: str) -> Run:
    """A tool that deletes the rows its arguments name, and refuses if there are none."""

    def run(db: Connection, arguments: dict[str, Any]) -> Any:
        where, values = _where(table, arguments)
        if not db.execute(f"DELETE FROM {table} WHERE {where}", values).rowcount:
            raise ToolError(_unknown(table, arguments))
        return {"status": "deleted"}

    return run


def change(table: str, key: str, **columns: str) -> Run:
    """A tool that writes its other arguments into the row that `key` names; `columns` renames arguments."""

    def run(db: Connection, arguments: dict[str, Any]) -> Any:
        named = {key: arguments[key]}
        where, values = _where(table, named)
        new = {columns.get(name, name): value for name, value in arguments.items() if name != key}
        assignments = ", ".join(f"{column} = ?" for column in new)
        if not db.execute(f"UPDATE {table} SET {assignments} WHERE {where}", (*new.values(), *values)).rowcount:
            raise ToolError(_unknown(table, named))
        return {"status": "updated"}

    return run


def mark(table: str, column: str, value: Any) -> Run:
    """A tool that writes one fixed value into the row its argument names."""

    def run(db: Connection, arguments: dict[str, Any]) -> Any:
        where, values = _where(table, arguments)
        if not db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value, *values)).rowcount:
            raise ToolError(_unknown(table, arguments))
        return {"status": "updated"}

    return run


def _select(db: Connection, table: str, shown: tuple[str, ...], arguments: dict[str, Any]) -> list[dict[str, Any]]:
    where, values = _where(table, arguments)
    rows = db.execute(f"SELECT {', '.join(shown)} FROM {table} WHERE {where} ORDER BY id", values)
    return [dict(zip(shown, row, strict=True)) for row in rows]


def _where(table: str, arguments: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
    columns = ("id" if name == f"{table[:-1]}_id" else name for name in arguments)
    return " AND ".join(f"{column} = ?" for column in columns), tuple(arguments.values())


def _unknown(table: str, arguments: dict[str, Any]) -> str:
    return f"no {table[:-1]} with " + ", ".join(f"{name} {value}" for name, value in arguments.items())
