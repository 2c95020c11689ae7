"""The task: what is asked, which tools are offered, the state it starts from, and the procedure that solves it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from sagetune.world.domains import DOMAIN_OF, TABLES, TOOLS, is_unseen, tools_in
from sagetune.world.tools import Rows, Tool, could_mean, draw_row
from sagetune.world.values import pool

Call = Callable[..., Any]  # call("tool_name", argument=value, ...) -> the decoded observation


class Reply(NamedTuple):
    """The final answer, and the tokens it must contain to be right. Empty text: the task ends with its last call."""

    text: str
    keys: tuple[str, ...] = ()


def reply(form: str, *keys: Any) -> Reply:
    """A reply whose `{}` are the values that make it right."""
    return Reply(form.format(*keys), tuple(str(key) for key in keys))


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    `solve(call, values)` is the expert's procedure: it calls tools and returns the final reply. `accepts(text, values)`
    judges a free answer (families without a state to compare). `values` are the values the request states, by slot.
    """

    family: str
    split: str
    seed: int
    index: int
    kind: str
    user: str
    tools: tuple[str, ...]
    values: dict[str, Any]
    solve: Callable[[Call, dict[str, Any]], Reply]
    accepts: Callable[[str, dict[str, Any]], bool] | None = None
    rows: Rows = field(default_factory=dict)
    called: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`world/<family>/<split>/<seed>/<index>`, unique over the world."""
        return f"world/{self.family}/{self.split}/{self.seed}/{self.index}"

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains of the tools that the solution calls, in order."""
        return tuple(dict.fromkeys(DOMAIN_OF[name].name for name in self.called))

    @property
    def unseen_tool(self) -> bool:
        """True if the solution calls a tool that train never shows."""
        return any(is_unseen(TOOLS[name]) for name in self.called)


def rng_of(*parts: Any) -> Random:
    """A generator seeded by its parts; the same in every process (string seeds do not use the salted hash)."""
    return Random("/".join(map(str, parts)))


def offer(
    needed: Sequence[Tool], carrier: str, split: str, rng: Random, size: int, avoid: Iterable[str] = ()
) -> tuple[str, ...]:
    """`size` tool names: the needed ones and near misses, shuffled.

    Siblings of the needed tools and their look-alikes in other domains come first, then any tool of the split. A tool
    that the words of the request could mean as well is never offered, so that the right choice is the only one.
    """

    def fits(name: str) -> bool:
        allowed = TOOLS[name].phrases(split) and name not in avoid
        return bool(allowed) and not could_mean(TOOLS[name], DOMAIN_OF[name].objects, carrier)

    domains = {DOMAIN_OF[tool.name].name: DOMAIN_OF[tool.name] for tool in needed}
    siblings = [tool.name for domain in domains.values() for tool in domain.tools if fits(tool.name)]
    alike = [name for tool in needed for name in tool.near if fits(name)]
    others = [tool.name for tool in rng.sample(tools_in(split), 24) if fits(tool.name)]
    rng.shuffle(siblings)
    rng.shuffle(alike)
    chosen = [tool.name for tool in needed]
    for name in (*siblings[:2], *alike[:2], *others, *siblings):
        if len(chosen) >= size:
            break
        if name not in chosen:
            chosen.append(name)
    rng.shuffle(chosen)
    return tuple(chosen)


def rows_for(tool: Tool, values: dict[str, Any], split: str, rng: Random) -> Rows:
    """The rows the call needs (`Tool.needs`), among other rows of the same tables."""
    rows: Rows = {}
    for need in tool.needs:
        table, *pairs = need.split()
        add_row(rows, table, split, rng, **{column: values[argument] for column, argument in map(_pair, pairs)})
    for table in list(rows):
        add_noise(rows, table, split, rng, values)
        add_noise(rows, table, split, rng, values)
    return rows


def add_row(rows: Rows, table: str, split: str, rng: Random, **known: Any) -> dict[str, Any]:
    """Draw a row into `rows`, random but for the known columns, with an id that no other row of the table has."""
    row = draw_row(TABLES[table], split, rng, **known)
    while "id" not in known and any(row["id"] == other["id"] for other in rows.get(table, ())):
        row["id"] = rng.choice(pool("id", split))
    rows.setdefault(table, []).append(row)
    return row


def add_noise(rows: Rows, table: str, split: str, rng: Random, values: dict[str, Any]) -> None:
    """Draw a row that shares no value with the request, so that no lookup for the request can find it."""
    asked = set(values.values())
    row = add_row(rows, table, split, rng)
    while asked.intersection(row.values()):
        rows[table].pop()
        row = add_row(rows, table, split, rng)


def _pair(text: str) -> tuple[str, str]:
    column, argument = text.split("=")
    return column, argument
