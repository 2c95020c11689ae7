"""The running world: one in-memory SQLite database per task, tools that act on it, the expert, and the checker."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from sagetune.sample import Message, ToolCall
from sagetune.world.domains import DOMAIN_OF, TOOLS
from sagetune.world.task import Task
from sagetune.world.tools import ToolError, schema_of
from sagetune.world.values import KINDS, parse_fields


class Environment:
    """The state of one task and the offered tools. `reset` starts over; nothing is shared between environments."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.tools = [schema_of(TOOLS[name]) for name in task.tools]
        self.reset()

    def reset(self) -> None:
        """Put the state back to the beginning of the task."""
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        tables: dict[str, str] = {}
        for domain in {DOMAIN_OF[name].name: DOMAIN_OF[name] for name in self.task.tools}.values():
            tables |= domain.tables
        self._tables = tuple(tables)
        self._db.executescript("".join(_create(table, fields) for table, fields in tables.items()))
        for table, rows in self.task.rows.items():
            for row in rows:
                marks = ", ".join("?" * len(row))
                self._db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Run a tool; returns its result, or `{"error": ...}`, as compact JSON. Never raises for what the caller sent."""
        return json.dumps(self._run(name, dict(arguments)), ensure_ascii=False, separators=(",", ":"))

    def step(self, tool_call: ToolCall) -> str:
        """`call` for a tool call of an assistant message."""
        return self.call(tool_call["function"]["name"], tool_call["function"]["arguments"])

    def snapshot(self) -> dict[str, list[dict[str, Any]]]:
        """The whole state: table -> rows by id."""
        return {table: self._rows(table) for table in self._tables}

    def score(self, messages: list[Message]) -> float:
        """1.0 if the messages solve the task (see :func:`sagetune.world.checking.check`), else 0.0."""
        from sagetune.world.checking import check  # the checker replays in an environment, so it stands below

        return float(check(self.task, messages).passed)

    def _run(self, name: str, arguments: dict[str, Any]) -> Any:
        if name not in self.task.tools:
            return {"error": f"unknown tool {name}"}
        for error in validator_of(name).iter_errors(arguments):
            return {"error": error.message}
        try:
            return TOOLS[name].run(self._db, arguments)
        except ToolError as refusal:
            return {"error": str(refusal)}

    def _rows(self, table: str) -> list[dict[str, Any]]:
        cursor = self._db.execute(f"SELECT * FROM {table} ORDER BY id")
        columns = [column[0] for column in cursor.description]
        return [dict(zip(columns, row, strict=True)) for row in cursor]


@cache
def validator_of(name: str) -> Draft202012Validator:
    """Validator of a tool's arguments: its schema, and no argument beside it; dates must be real dates."""
    parameters = schema_of(TOOLS[name])["function"]["parameters"]
    return Draft202012Validator(
        parameters | {"additionalProperties": False}, format_checker=Draft202012Validator.FORMAT_CHECKER
    )


def _create(table: str, fields: str) -> str:
    columns = ["id INTEGER PRIMARY KEY"]
    for column, (kind, _) in parse_fields(fields).items():
        columns.append(f"{column} {'INTEGER' if KINDS[kind].schema['type'] == 'integer' else 'TEXT'}")
    return f"CREATE TABLE {table} ({', '.join(columns)});"


def expert(task: Task) -> list[Message]:
    """The solution, by really calling the tools: user, assistant and tool messages, then the final answer if any.

    Raises RuntimeError if a tool refuses the expert, which would be a defect of the world.
    """
    environment = Environment(task)
    messages: list[Message] = [{"role": "user", "content": task.user}]

    def call(tool: str, /, **arguments: Any) -> Any:
        call_id = f"call_{sum(message['role'] == 'tool' for message in messages) + 1}"
        function: ToolCall = {"id": call_id, "type": "function", "function": {"name": tool, "arguments": arguments}}
        observation = environment.step(function)
        messages.append({"role": "assistant", "content": "", "tool_calls": [function]})
        messages.append({"role": "tool", "content": observation, "tool_call_id": call_id, "name": tool})
        decoded = json.loads(observation)
        if isinstance(decoded, dict) and "error" in decoded:
            raise RuntimeError(f"{task.id}: {tool} refused {arguments}: {decoded['error']}")
        return decoded

    final = task.solve(call, task.values).text
    if final:
        return [*messages, {"role": "assistant", "content": final}]
    return messages[:-1]  # a task that ends with its call ends before the observation


