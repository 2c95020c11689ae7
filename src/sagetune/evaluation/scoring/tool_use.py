"""Calls against the allowed answers of BFCL: function name and typed arguments.

The rules are those of BFCL's AST checker for Python (bfcl-eval 2026.3.23, eval_checker/ast_eval/ast_checker.py), in
which four things differ on purpose: parallel calls are matched as well as possible, where that checker's first fit
rejects some orders of right calls; what makes it raise is wrong here; an irrelevant request needs a readable reply, not
just one without a decodable call; a relevant request needs a call of a function that is offered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sagetune.evaluation.calls import Reply
from sagetune.evaluation.scoring.verdict import Scored, judged, not_an_abstention, shorten, unreadable
from sagetune.sample import FunctionCall

CATEGORIES = ("simple", "multiple", "parallel", "parallel_multiple", "irrelevance", "relevance")
Allowed = Mapping[str, Mapping[str, Sequence[Any]]]
"""One gold call as BFCL writes it: {function: {parameter: allowed values}}; "" among them: it may be left out."""

PYTHON_TYPES: dict[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict,
    "any": str,
}  # fmt: skip
NOT_CALLED = "another function than"
FORGIVEN = re.compile(r"[ ,./\-_*^]")  # "April 1, 2024" and "april 1 2024" are one value


@dataclass(frozen=True, slots=True)
class ToolUseGold:
    """A BFCL item. functions: its function documents; answers: gold calls, [] for irrelevance and relevance."""

    category: str
    functions: Sequence[Mapping[str, Any]]
    answers: Sequence[Allowed] = ()
    prompt: str = ""


def category_of(item_id: str) -> str:
    """The category in the id of a BFCL item: simple_python_3 -> simple, live_parallel_multiple_0-0-0 -> ..."""
    name = re.sub(r"_(python_)?\d+(-\d+)*$", "", item_id).removeprefix("live_")
    if name not in CATEGORIES:
        raise ValueError(f"a BFCL id must begin with one of {', '.join(CATEGORIES)} or live_, got {item_id!r}")
    return name


def score_tool_use(reply: Reply, gold: ToolUseGold, *, dots_allowed: bool = True) -> Scored:
    """1 if the calls are the gold calls in any order (or, by category, if there is none, or any), else 0.

    dots_allowed: False where the caller had to offer "a.b" as "a_b", as some APIs demand. Figures: `name`, the share of
    gold calls whose name is called; `calls`, the share that is matched in full, one to one; both are 0 if a call too
    many or too few was made. Irrelevance and relevance, which have no gold calls, have no figures.
    """
    if gold.category not in CATEGORIES:
        raise ValueError(f"category must be one of {', '.join(CATEGORIES)}, got {gold.category!r}")
    offered = [_spelled(function["name"], dots_allowed) for function in gold.functions]
    if failure := not_an_abstention(reply, gold.prompt, offered):
        return unreadable(failure, ("name", "calls") if gold.answers else ())
    if gold.category == "irrelevance":
        return judged(not reply.calls, f"called {[call['name'] for call in reply.calls]!r:.80}, no tool fits")
    if gold.category == "relevance":
        return judged(any(call["name"] in offered for call in reply.calls), "called none of the offered functions")
    if len(reply.calls) != len(gold.answers):
        return judged(False, f"{len(reply.calls)} calls for {len(gold.answers)}", {"name": 0.0, "calls": 0.0})
    return _match(reply.calls, gold, dots_allowed)


def _match(calls: list[FunctionCall], gold: ToolUseGold, dots_allowed: bool) -> Scored:
    wanted = [
        (_spelled(name, dots_allowed), name, allowed) for answer in gold.answers for name, allowed in answer.items()
    ]
    faults = [
        [wrong_call(call, spelled, _document(gold.functions, name), allowed) for call in calls]
        for spelled, name, allowed in wanted
    ]
    taken = _assign([[not fault for fault in row] for row in faults])
    shared_names = Counter(call["name"] for call in calls) & Counter(spelled for spelled, _, _ in wanted)
    figures = {"name": shared_names.total() / len(calls), "calls": len(taken) / len(calls)}
    if len(taken) == len(wanted):
        return judged(True, "", figures)
    unmet = next(row for index, row in enumerate(faults) if index not in taken.values())
    left = [fault for column, fault in enumerate(unmet) if column not in taken]
    return judged(False, next((fault for fault in left if not fault.startswith(NOT_CALLED)), left[0]), figures)


def _assign(fits: Sequence[Sequence[bool]]) -> dict[int, int]:
    """The largest one-to-one assignment, column -> row, by augmenting paths (Kuhn 1955)."""
    taken: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column in (column for column, fit in enumerate(fits[row]) if fit and column not in tried):
            tried.add(column)
            if column not in taken or place(taken[column], tried):
                taken[column] = row
                return True
        return False

    for row in range(len(fits)):
        place(row, set())
    return taken


def wrong_call(call: FunctionCall, name: str, function: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]]) -> str:
    """Why `call` is not the gold call (`name`, `allowed`) of the documented `function`; "" if it is."""
    given = call["arguments"]
    if call["name"] != name:
        return f"{NOT_CALLED} {name}: {call['name']!r:.60}"
    if missing := [parameter for parameter in function["parameters"].get("required", ()) if parameter not in given]:
        return f"{name}: without the required {missing[0]}"
    for parameter, value in given.items():
        if parameter not in function["parameters"]["properties"] or parameter not in allowed:
            return f"{name}: {parameter!r:.60} is not expected"
        if fault := _wrong_value(value, function["parameters"]["properties"][parameter], allowed[parameter]):
            return f"{name}.{parameter}: {fault}"
    if left_out := [key for key, values in allowed.items() if key not in given and "" not in values]:
        return f"{name}: without {left_out[0]}, which is not optional here"
    return ""


def _wrong_value(value: Any, schema: Mapping[str, Any], allowed: Sequence[Any]) -> str:
    """Why `value` is none of the allowed ones; "" if it is.

    The type must be the schema's, or else the first allowed value's (BFCL: a variable stands for the value).
    """
    wanted, gold_type = PYTHON_TYPES[schema["type"]], _first_type(allowed)
    inner = PYTHON_TYPES[schema["items"]["type"]] if schema["type"] in ("array", "tuple") else None
    given = float if wanted is float and type(value) is int else type(value)
    if given is not wanted and given is not gold_type:
        return f"expected {schema['type']}, got {shorten(value)}"
    if given is wanted and inner is not None and not _has_inner_type(value, inner, allowed):
        return f"expected {schema['type']} of {schema['items']['type']}, got {shorten(value)}"
    is_variable = gold_type is not None and gold_type is not wanted
    is_allowed = value in allowed if is_variable else _is_among(value, wanted, inner, allowed)
    return "" if is_allowed else f"{shorten(value)} is not among {shorten(allowed)}"


def _first_type(allowed: Sequence[Any]) -> type | None:
    return next((type(value) for value in allowed if value != ""), None)


def _has_inner_type(value: list[Any], inner: type, allowed: Sequence[Any]) -> bool:
    """One level deep; an allowed "" lets every inner type pass, as in BFCL."""
    return any(
        not isinstance(gold, list) or all(type(item) in (inner, _first_type(gold)) for item in value)
        for gold in allowed
    )


def _is_among(value: Any, wanted: type, inner: type | None, allowed: Sequence[Any]) -> bool:
    if wanted is dict:
        return any(_same_dict(value, gold) for gold in allowed)
    if wanted is list and inner is dict:
        return any(len(value) == len(gold) and all(map(_same_dict, value, gold)) for gold in allowed)
    if wanted is list:
        return [_forgiven(item) for item in value] in [[_forgiven(item) for item in gold] for gold in allowed]
    return _forgiven(value) in [_forgiven(gold) for gold in allowed] if wanted is str else value in allowed


def _same_dict(value: Any, gold: Any) -> bool:
    """Each key has its list of allowed values; "" among them: it may be left out."""
    if not isinstance(value, dict) or not isinstance(gold, dict):
        return False
    known = all(
        key in gold and _forgiven(item) in [_forgiven(option) for option in gold[key]] for key, item in value.items()
    )
    return known and all(key in value or "" in options for key, options in gold.items())


def _forgiven(value: Any) -> Any:
    """A string without the differences that BFCL forgives; anything else as it is."""
    return FORGIVEN.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _document(functions: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    found = next((function for function in functions if function["name"] == name), None)
    if found is None:
        raise ValueError(f"answers: {name!r} is none of the functions {[function['name'] for function in functions]}")
    return found


def _spelled(name: str, dots_allowed: bool) -> str:
    return name if dots_allowed else name.replace(".", "_")
