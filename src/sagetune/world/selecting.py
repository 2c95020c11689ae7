"""Family `tool_selection`: one request, one right call among near misses."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from sagetune.world.domains import is_unseen, tools_in
from sagetune.world.phrasing import fill
from sagetune.world.task import Call, Reply, Task, offer, rng_of, rows_for
from sagetune.world.tools import Tool, complete_templates

UNSEEN_EVERY = 4  # in dev and test every fourth task needs a tool that train never shows


def tool_selection(split: str, seed: int, index: int) -> Task:
    """Task `index`: the tools take turns in an order drawn from the seed, three to five tools are offered."""
    return call_task("tool_selection", split, seed, index, index)


def call_task(family: str, split: str, seed: int, index: int, turn: int) -> Task:
    """A task that is solved by exactly one call; `turn` counts the calls of this kind in the family."""
    tool, count = _tool_at(split, seed, turn)
    filled = fill(complete_templates(tool, split), tool.kinds, split, count, f"{family}/{split}/{seed}/{tool.name}")
    rng = rng_of(family, split, seed, index)
    values = {name: filled.values[name] for name in tool.kinds if name in filled.values}  # in schema order
    return Task(
        family, split, seed, index,
        kind="call" if family == "timing" else tool.name,
        user=filled.text,
        tools=offer([tool], filled.template.carrier, split, rng, rng.choice((3, 4, 5))),
        values=values,
        solve=partial(single_call, tool.name),
        rows=rows_for(tool, values, split, rng),
        called=(tool.name,),
    )  # fmt: skip


def single_call(tool: str, call: Call, values: dict[str, Any]) -> Reply:
    """The expert's procedure: call `tool` with the values stated."""
    call(tool, **values)
    return Reply("")


def _tool_at(split: str, seed: int, turn: int) -> tuple[Tool, int]:
    """The tool of a turn, and how often it came before."""
    shared, held_out = _orders(split, seed)
    if not held_out:
        return shared[turn % len(shared)], turn // len(shared)
    group, rest = divmod(turn, UNSEEN_EVERY)
    if rest == UNSEEN_EVERY - 1:
        return held_out[group % len(held_out)], group // len(held_out)
    turn = group * (UNSEEN_EVERY - 1) + rest
    return shared[turn % len(shared)], turn // len(shared)


@cache
def _orders(split: str, seed: int) -> tuple[tuple[Tool, ...], tuple[Tool, ...]]:
    tools = list(tools_in(split))
    rng_of("tools", split, seed).shuffle(tools)
    return tuple(tool for tool in tools if not is_unseen(tool)), tuple(tool for tool in tools if is_unseen(tool))
