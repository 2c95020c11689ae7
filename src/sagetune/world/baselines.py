"""What no learning achieves on a family: its chance level and a trivial baseline, computed on real tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from statistics import mean
from typing import Any

from sagetune.sample import Message
from sagetune.world.domains import TOOLS
from sagetune.world.environment import check, expert
from sagetune.world.task import Task
from sagetune.world.timing import KINDS_OF_TIMING, NO_TOOL
from sagetune.world.tools import Tool
from sagetune.world.values import KINDS

_DATE, _TIME, _EMAIL = r"\d{4}-\d\d-\d\d", r"\b\d\d:\d\d\b", r"[\w.]+@[\w.]+\w"


def chance_and_trivial(tasks: Sequence[Task]) -> dict[str, float]:
    """`chance` and `trivial` (both 0 to 1) of tasks of one family, and what else is known of it.

    tool_selection: `chance` = right tool by a uniform pick; `trivial` = exact call by word overlap and pattern filling;
    also `first_tool` and `overlap_tool`, how often the first tool, and the tool with most words in common, is right.
    planning: `chance` = all tools of the plan, in order, by uniform picks; `trivial` = one overlap call, then "Done.".
    timing: `chance` = one of four kinds; `trivial` = always refuse. general: `chance` = a random word of the request as
    the answer; `trivial` = its last word. Every trivial answer is judged by `check`. Raises ValueError without tasks.
    """
    if not tasks:
        raise ValueError("num: must be at least 1 to measure a baseline, got 0")
    if tasks[0].family == "tool_selection":
        return _of_selection(tasks)
    if tasks[0].family == "planning":
        return {"chance": mean(_random_plan(task) for task in tasks), "trivial": _rate(tasks, [
            [*_overlap_call(task), _say("Done.")] for task in tasks])}  # fmt: skip
    if tasks[0].family == "timing":
        return {"chance": 1 / len(KINDS_OF_TIMING), "trivial": _rate(tasks, [[_say(NO_TOOL)] for _ in tasks]),
                "overlap_call": _rate(tasks, [_overlap_call(task) for task in tasks])}  # fmt: skip
    return {"chance": mean(_random_word(task) for task in tasks),
            "trivial": _rate(tasks, [[_say(_said(task)[-1])] for task in tasks])}  # fmt: skip


def _of_selection(tasks: Sequence[Task]) -> dict[str, float]:
    return {
        "chance": mean(1 / len(task.tools) for task in tasks),
        "trivial": _rate(tasks, [_overlap_call(task) for task in tasks]),
        "first_tool": mean(float(task.tools[0] == task.called[0]) for task in tasks),
        "overlap_tool": mean(float(_overlap_tool(task).name == task.called[0]) for task in tasks),
    }


def _rate(tasks: Sequence[Task], conversations: Sequence[list[Message]]) -> float:
    return mean(float(check(task, messages).passed) for task, messages in zip(tasks, conversations, strict=True))


def _say(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _overlap_call(task: Task) -> list[Message]:
    tool = _overlap_tool(task)
    function: Any = {"name": tool.name, "arguments": _guessed(tool, task.user)}
    return [
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
    ]


def _overlap_tool(task: Task) -> Tool:
    """The offered tool whose name and description share most words with the request; the first of equals."""
    request = set(re.findall(r"[a-z]+", task.user.lower()))

    def overlap(name: str) -> int:
        return len(request & set(re.findall(r"[a-z]+", f"{name} {TOOLS[name].description}".replace("_", " ").lower())))

    return TOOLS[max(task.tools, key=overlap)]


def _guessed(tool: Tool, text: str) -> dict[str, Any]:
    """Required arguments by pattern: dates, times, addresses, integers in their order; other strings: the last word."""
    dates, times, emails = (re.findall(pattern, text) for pattern in (_DATE, _TIME, _EMAIL))
    integers = re.findall(r"(?<![\w:@-])\d+(?![\w:-])", re.sub(_DATE, " ", text))
    arguments: dict[str, Any] = {}
    for name in tool.required:
        found = {"date": dates, "time": times, "email": emails}.get(tool.kinds[name], integers)
        if KINDS[tool.kinds[name]].schema["type"] == "integer":
            arguments[name] = int(found.pop(0)) if found else 0
        elif found is not integers and found:
            arguments[name] = found.pop(0)
        else:
            arguments[name] = text.split()[-1].strip(".?!,")
    return arguments


def _random_plan(task: Task) -> float:
    calls = sum("tool_calls" in message for message in expert(task))
    return prod([1 / len(task.tools)] * calls)


def _said(task: Task) -> list[str]:
    return re.findall(r"[\w-]+", task.user)


def _random_word(task: Task) -> float:
    return mean(float(check(task, [_say(word)]).passed) for word in _said(task))
