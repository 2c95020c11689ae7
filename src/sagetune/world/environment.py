"""The running world: one in-memory SQLite database per task, tools that act on it, the expert, and the checker."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from sagetune.sample import Message, ToolCall
from sagetune.world.domains import DOMAIN_OF, DOMAINS, TABLE_DOMAIN, TOOLS
from sagetune.world.task import Task
from sagetune.world.tools import Domain, ToolError, schema_of
from sagetune.world.values import KINDS, parse_fields


class Environment:
    """The state of one task and the offered tools. `reset` starts over; nothing is shared between environments."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.tools = [schema_of(TOOLS[name]) for name in task.tools]
        self.reset()

    def reset(self) -> None:
        """Put the state back to the beginning of the task."""
        # Agents' frameworks call tools from threads of their own, one at a time.
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._domains: set[str] = set()
        for table, rows in self.task.rows.items():
            self._create(TABLE_DOMAIN[table])
            for row in rows:
                marks = ", ".join("?" * len(row))
                self._db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Run a tool; returns its result, or `{"error": ...}`, as compact JSON. Bad input never raises."""
        return json.dumps(self._run(name, dict(arguments)), ensure_ascii=False, separators=(",", ":"))

    def step(self, tool_call: ToolCall) -> str:
        """`call` for a tool call of an assistant message."""
        return self.call(tool_call["function"]["name"], tool_call["function"]["arguments"])

    def snapshot(self) -> dict[str, list[dict[str, Any]]]:
        """The whole state: table -> rows by id, for the domains of all offered tools."""
        for name in self.task.tools:
            self._create(DOMAIN_OF[name])
        return {table: self._rows(table) for name in self._domains for table in DOMAINS[name].tables}

    def score(self, messages: list[Message]) -> float:
        """1.0 if the messages solve the task (see :func:`check`), else 0.0."""
        return float(check(self.task, messages).passed)

    def _run(self, name: str, arguments: dict[str, Any]) -> Any:
        if name not in self.task.tools:
            return {"error": f"unknown tool {name}"}
        error = next(validator_of(name).iter_errors(arguments), None)
        if error is not None:
            return {"error": error.message}
        self._create(DOMAIN_OF[name])
        try:
            return TOOLS[name].run(self._db, arguments)
        except ToolError as refusal:
            return {"error": str(refusal)}
        except OverflowError:
            return {"error": "a number is larger than 64 bits hold"}

    def _create(self, domain: Domain) -> None:
        if domain.name not in self._domains:  # tables come with the first use: most calls touch one domain
            self._domains.add(domain.name)
            self._db.executescript(_tables_of(domain.name))

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


@cache
def _tables_of(domain: str) -> str:
    """The statements that create the tables of a domain."""
    statements = []
    for table, fields in DOMAINS[domain].tables.items():
        columns = ["id INTEGER PRIMARY KEY"]
        for column, (kind, _) in parse_fields(fields).items():
            columns.append(f"{column} {'INTEGER' if KINDS[kind].schema['type'] == 'integer' else 'TEXT'}")
        statements.append(f"CREATE TABLE {table} ({', '.join(columns)});")
    return "".join(statements)


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether messages solve a task, and if not, why."""

    passed: bool
    reason: str = ""


def check(task: Task, messages: list[Message]) -> Verdict:
    """Judge a conversation by what its assistant messages do; it is replayed, its own observations are not trusted.

    Free answers (`task.accepts`): no call, and the last answer is accepted. Planning: the state at the end equals the
    expert's, the final answer is right, and every argument and key of the answer stands in the request or in an
    observation that came before (so that a lookup cannot be skipped by a lucky guess). Otherwise: exactly the one right
    call, with exactly the stated arguments.
    """
    calls = [call for message in messages for call in message.get("tool_calls", [])]
    answer = next((turn["content"] for turn in reversed(messages) if turn["role"] == "assistant"), "")
    if task.accepts is not None:
        if calls:
            return Verdict(False, f"called {calls[0]['function']['name']}, but the task needs no call")
        return Verdict(True) if task.accepts(answer, task.values) else Verdict(False, f"wrong answer: {answer!r:.120}")
    if task.family == "planning":
        return _check_plan(task, messages, answer)
    wanted = {"name": task.called[0], "arguments": task.values}
    if [call["function"] for call in calls] == [wanted] and _types(calls[0]["function"]["arguments"]) == _types(
        task.values
    ):
        return Verdict(True)
    return Verdict(False, f"expected exactly the call {wanted}, got {[call['function'] for call in calls]}")


def _types(arguments: Mapping[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in arguments.items()}  # 1 == True == 1.0, but not as an argument


def _check_plan(task: Task, messages: list[Message], answer: str) -> Verdict:
    environment, ideal = Environment(task), Environment(task)
    keys = task.solve(lambda tool, /, **arguments: json.loads(ideal.call(tool, arguments)), task.values).keys
    seen, observations = _tokens(task.user), dict[str, str]()
    for message in messages:
        for call in message.get("tool_calls", []):
            unknown = _tokens(*call["function"]["arguments"].values()) - seen
            if unknown:
                return Verdict(
                    False, f"{call['function']['name']}: {sorted(unknown)} was not stated or observed before"
                )
            observations[call["id"]] = environment.step(call)
            seen |= _tokens(observations[call["id"]])
        if message["role"] == "tool" and message["content"] != observations.get(message.get("tool_call_id", "")):
            return Verdict(False, f"not the world's observation: {message['content']!r:.120}")
    if environment.snapshot() != ideal.snapshot():
        return Verdict(False, "the final state differs from the expert's")
    said, right = _tokens(answer), _tokens(*keys)
    stray = {token for token in said - right - _tokens(task.user) if token[0].isdigit()}
    if not right <= said & seen or stray:
        return Verdict(False, f"wrong answer: {answer!r:.120} must state {keys}, as observed, and no other number")
    return Verdict(True)


def _tokens(*texts: Any) -> set[str]:
    """Words, numbers, dates, addresses in lower case; JSON text falls into its names and values."""
    found = re.findall(r"[\w@.:+-]+", " ".join(map(str, texts)).lower())
    return {token.strip(".:,-") for token in found} - {""}
