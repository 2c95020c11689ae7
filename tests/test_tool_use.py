"""Tool use is scored as BFCL's checker scores it, but for the differences that the module argues for."""

from __future__ import annotations

import json
from importlib.util import find_spec
from itertools import permutations
from typing import Any

import pytest

import bfcl_cases
from sagetune.evaluation.calls import Reply, parse_reply
from sagetune.evaluation.scoring.tool_use import ToolUseGold, category_of, score_tool_use

needs_data = pytest.mark.skipif(not bfcl_cases.DATA.is_dir(), reason=f"BFCL's data is not at {bfcl_cases.DATA}")
needs_bfcl = pytest.mark.skipif(
    find_spec("bfcl_eval") is None, reason="bfcl-eval is not here: pip install --no-deps bfcl-eval mpmath"
)
UNSOLVABLE = {
    *("parallel_multiple_12", "parallel_multiple_26", "live_multiple_862-181-3", "live_multiple_964-207-0"),
    *("live_simple_106-63-0", "live_simple_112-68-0", "live_multiple_507-149-4"),
}
"""Items whose own answer BFCL's checker rejects: a fault of the gold record."""
DIFFERING = {("parallel_178", "reordered_calls")}
"""Where BFCL's first fit rejects right calls because of their order: the only verdict of 227,786 that differs."""


def function(name: str = "book", **parameters: Any) -> dict[str, Any]:
    return {"name": name, "parameters": {"properties": parameters, "required": list(parameters)[:1]}}


def score(calls: list[Any], *answers: dict[str, Any], category: str = "parallel", **parameters: Any) -> Any:
    gold = ToolUseGold(category, [function(**parameters), function("other")], answers, "Book a table.")
    return score_tool_use(Reply("", [{"name": name, "arguments": arguments} for name, arguments in calls], None), gold)


@needs_data
@needs_bfcl
def test_the_verdict_is_that_of_bfcl() -> None:
    counts = bfcl_cases.compare(every=29)
    differing = {key: number for key, number in counts.items() if key[1] is not key[2]}
    print(f"{counts.total()} replies, {sum(differing.values())} verdicts differ: {differing}")
    assert counts.total() > 6_000
    assert {kind for kind, _, _ in differing} <= {"reordered_calls"}  # see DIFFERING


def test_the_recorded_verdicts_of_bfcl() -> None:
    rows = bfcl_cases.lines(bfcl_cases.VECTORS)
    assert sum(len(row["cases"]) for row in rows) > 250
    for row in rows:
        gold = ToolUseGold(category_of(row["id"]), row["functions"], row["answers"])
        for kind, calls, valid in row["cases"]:
            expected = valid is not ((row["id"], kind) in DIFFERING)
            assert bfcl_cases.ours(gold, calls) is expected, (row["id"], kind)


@needs_data
def test_the_solution_of_every_item_scores() -> None:
    wrong = {
        item_id
        for category in bfcl_cases.ANSWERABLE
        for item_id, gold in bfcl_cases.items(category)
        if not bfcl_cases.ours(gold, bfcl_cases.solution(gold))
    }
    assert wrong == UNSOLVABLE  # 7 of 2,351


@needs_data
@pytest.mark.parametrize(("category", "number"), [("irrelevance", 240), ("live_irrelevance", 884)])
def test_irrelevance_needs_a_readable_reply(category: str, number: int) -> None:
    golds = [gold for _, gold in bfcl_cases.items(category)]
    assert len(golds) == number
    for gold in golds[::4]:
        assert score_tool_use(parse_reply("None of the functions can do that."), gold).correct
        for text in ("", "tool:", gold.prompt, "[" * 10_000, '<tool_call>{"name": "f"', '{"name": "f"', "\u00bf!"):
            scored = score_tool_use(parse_reply(text), gold)
            assert scored.parse_failure
            assert not scored.correct
        call = json.dumps({"name": gold.functions[0]["name"] if gold.functions else "f", "arguments": {}})
        called = score_tool_use(parse_reply(f"<tool_call>{call}</tool_call>"), gold)
        assert (called.correct, called.parse_failure) == (False, False)


@needs_data
def test_relevance_needs_a_call_of_what_is_offered() -> None:
    golds = [gold for _, gold in bfcl_cases.items("live_relevance")]
    assert len(golds) == 16
    for gold in golds:
        offered = Reply("", [{"name": gold.functions[0]["name"], "arguments": {}}], None)
        assert score_tool_use(offered, gold).correct
        assert not score_tool_use(Reply("", [{"name": "invented", "arguments": {}}], None), gold).correct
        held_back = score_tool_use(Reply("I cannot do that.", [], None), gold)
        assert (held_back.correct, held_back.parse_failure) == (False, False)


@pytest.mark.parametrize(
    ("schema", "allowed", "value", "correct"),
    [
        ({"type": "integer"}, [3], 3, True),
        ({"type": "integer"}, [3], 3.0, False),
        ({"type": "integer"}, [1], True, False),
        ({"type": "integer"}, [3], "3", False),
        ({"type": "integer"}, ["x"], "x", True),  # a variable
        ({"type": "integer"}, ["x y"], "X y", False),  # which is compared to the letter
        ({"type": "float"}, [3.0], 3, True),
        ({"type": "float"}, [3.0], 10**400, False),
        ({"type": "boolean"}, [True], 1, False),
        ({"type": "string"}, ["April 1, 2024"], "april 1 2024", True),
        ({"type": "string"}, ["it's"], 'it"s', True),
        ({"type": "string"}, ["a", ""], " ./", True),  # forgiven down to nothing
        ({"type": "array", "items": {"type": "integer"}}, [[1, 2]], [2, 1], False),
        ({"type": "array", "items": {"type": "float"}}, [[1.5, 2.0]], [1.5, 2], False),  # int for float: outermost only
        ({"type": "array", "items": {"type": "string"}}, [["A b"]], ["ab"], True),
        ({"type": "array", "items": {"type": "dict"}}, [[{"k": ["v"]}], ""], ["text"], False),  # here BFCL raises
        ({"type": "array", "items": {"type": "dict"}}, [[{"k": ["v", ""]}]], [{}], True),
        ({"type": "dict"}, [{"k": ["v"]}], {"k": "V"}, True),
        ({"type": "dict"}, [{"k": ["v"]}], {"k": "v", "more": 1}, False),
        ({"type": "dict"}, [{"k": ["v"]}], {}, False),
    ],
)
def test_values(schema: dict[str, Any], allowed: list[Any], value: Any, correct: bool) -> None:
    assert score([("book", {"x": value})], {"book": {"x": allowed}}, x=schema).correct is correct


def test_figures_and_reasons() -> None:
    text = {"type": "string"}
    answers = ({"book": {"x": ["a"]}}, {"book": {"x": ["b"]}})
    half = score([("book", {"x": "a"}), ("book", {"x": "c"})], *answers, x=text)
    assert (half.score, half.figures) == (0.0, {"name": 1.0, "calls": 0.5})
    assert half.reason == "book.x: 'c' is not among ['b']"
    assert score([("book", {"x": "a"}), ("other", {})], *answers, x=text).figures == {"name": 0.5, "calls": 0.5}
    assert score([("book", {"x": "a"})], *answers, x=text).reason == "1 calls for 2"
    assert "required x" in score([("book", {})], {"book": {"x": ["a"]}}, x=text).reason
    assert score([("book", {"x": "a"})], {"book": {"x": ["a"], "y": [1]}}, x=text, y=text).reason.endswith(
        "optional here"
    )


def test_the_order_of_parallel_calls_is_free_even_where_first_fit_fails() -> None:
    text = {"type": "string"}
    answers = ({"book": {"x": ["a", "b"]}}, {"book": {"x": ["a"]}})
    for values in permutations("ab"):
        assert score([("book", {"x": value}) for value in values], *answers, x=text).correct


def test_dots_may_have_to_be_underscores() -> None:
    gold = ToolUseGold("simple", [function("a.b")], [{"a.b": {}}])
    free = ToolUseGold("simple", [{"name": "a.b", "parameters": {"properties": {}, "required": []}}], [{"a.b": {}}])
    call = Reply("", [{"name": "a_b", "arguments": {}}], None)
    assert score_tool_use(call, free, dots_allowed=False).correct
    assert not score_tool_use(call, gold).correct


def test_a_call_in_another_notation_is_no_abstention() -> None:
    gold = ToolUseGold("irrelevance", [function("book")], (), "Book.")
    assert score_tool_use(parse_reply("[book(x='a')]"), gold).parse_failure
    assert score_tool_use(parse_reply("I have no tool to book that."), gold).correct


def test_bad_records_are_told() -> None:
    with pytest.raises(ValueError, match="category must be one of"):
        score_tool_use(Reply("no", [], None), ToolUseGold("java", []))
    with pytest.raises(ValueError, match="is none of the functions"):
        score_tool_use(Reply("", [{"name": "f", "arguments": {}}], None), ToolUseGold("simple", [], [{"f": {}}]))
    assert category_of("live_parallel_multiple_0-0-0") == "parallel_multiple"
    with pytest.raises(ValueError, match="a BFCL id"):
        category_of("multi_turn_base_3")
