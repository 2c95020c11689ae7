"""Plans: order-aware F1 that a disjoint plan does not get, data flow, execution in the world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagetune import world
from sagetune.evaluation.calls import Reply
from sagetune.evaluation.scoring.planning import PlanGold, edge_f1, edges, score_in_world, score_plan
from sagetune.sample import FunctionCall

SEAL_TOOLS = Path(__file__).parents[1].parent / "shared/data/seal_tools"


def plan(*names: str, **arguments: Any) -> list[FunctionCall]:
    return [{"name": name, "arguments": arguments} for name in names]


def score(given: list[FunctionCall], gold: list[FunctionCall], **num_responses: int) -> Any:
    return score_plan(Reply("" if given else "I cannot.", given, None), PlanGold(gold, num_responses))


@pytest.mark.parametrize(
    ("given_names", "gold_names", "expected"),
    [
        ("abc", "abc", 1.0),
        ("x", "a", 0.0),  # T-Eval: 1.0
        ("xyz", "abc", 0.0),  # T-Eval: 0.33
        ("cba", "abc", 1 / 3),
        ("acb", "abc", 2 / 3),
        ("abxc", "abc", 6 / 7),
        ("aaaa", "ab", 2 / 6),  # one to one: a repeated call matches once
        ("aba", "aab", 2 / 3),
        ("", "ab", 0.0),
    ],
)
def test_order_aware_f1(given_names: str, gold_names: str, expected: float) -> None:
    scored = score(plan(*given_names), plan(*gold_names))
    assert scored.score == pytest.approx(expected)
    assert scored.correct is (expected == 1)


def longest_increasing_matching(given: str, gold: str) -> int:
    """The definition: the most pairs of equal names that do not cross, by trying everything."""
    if not given or not gold:
        return 0
    skipped = longest_increasing_matching(given[1:], gold)
    place = gold.find(given[0])
    return skipped if place < 0 else max(skipped, 1 + longest_increasing_matching(given[1:], gold[place + 1 :]))


@given(st.text("abc", max_size=6), st.text("abcd", min_size=1, max_size=6))
def test_the_f1_is_that_of_the_definition(given_names: str, gold_names: str) -> None:
    matched = longest_increasing_matching(given_names, gold_names)
    expected = 2 * matched / (len(given_names) + len(gold_names))
    assert score(plan(*given_names), plan(*gold_names)).score == pytest.approx(expected)


def test_arguments_are_a_second_figure() -> None:
    gold = [*plan("a", x=1, y="s"), *plan("b", z=[1])]
    scored = score([*plan("a", x=1, y="t"), *plan("b", z=[1])], gold)
    assert (scored.score, scored.correct, scored.figures["argument_f1"]) == (1.0, False, 2 * 2 / 6)
    assert score([*plan("a", x=True), *plan("b", z=[1])], gold).figures["argument_f1"] == 2 * 1 / 5
    assert score(plan("b", z=[1]), gold).figures["argument_f1"] == 2 * 1 / 4
    assert score(plan("c", x=1, y="s", z=[1]), gold).figures["argument_f1"] == 0
    assert score(plan("a"), plan("a")).figures["argument_f1"] == 1.0
    two = [*plan("a", x=1), *plan("a", x=2)]
    assert score(plan("a", x=2), two).figures["argument_f1"] == 2 * 1 / 3  # paired with the call that it fits better


def test_data_flow() -> None:
    gold = [*plan("find"), *plan("read", id="API_call_1"), *plan("send", text="see API_call_2", to=["API_call_0"])]
    num = {"find": 2, "read": 1}
    assert edges(gold, num) == {
        ("find", 1, "read", "id"): 1,
        ("read", 0, "send", "text"): 1,
        ("find", 0, "send", "to"): 1,
    }
    assert edge_f1(gold, gold, num) == 1.0
    assert score(gold, gold, **num).figures["edge_f1"] == 1.0
    assert score(plan("find", "read", "send"), gold, **num).figures["edge_f1"] == 0.0
    own = [*plan("find"), *plan("read", id="API_call_2")]  # its own response
    assert edges(own, num) == {("", 0, "read", "id"): 1}
    assert edge_f1(own, gold, num) == 0
    assert edge_f1([*gold, gold[1]], gold, num) == pytest.approx(2 * 3 / 7)  # a repeated call matches once
    assert "edge_f1" not in score(plan("a"), plan("a")).figures
    assert edges(plan("a", x=f"API_call_{'9' * 5000}"), num) == {("", 0, "a", "x"): 1}


@pytest.mark.skipif(not SEAL_TOOLS.is_dir(), reason=f"Seal-Tools is not at {SEAL_TOOLS}")
def test_the_plans_of_seal_tools() -> None:
    tools = [json.loads(line) for line in (SEAL_TOOLS / "tool.jsonl").read_text().splitlines()]
    num_responses = {tool["api_name"]: len(tool["responses"]) for tool in tools}
    num_edges = num_plans = 0
    for name in ("dev", "test_in_domain"):
        for line in (SEAL_TOOLS / f"{name}.jsonl").read_text().splitlines():
            calling = json.loads(line)["calling"]
            gold: list[FunctionCall] = [{"name": call["api"], "arguments": call["parameters"]} for call in calling]
            own = {call["api"]: len(call["responses"]) for call in calling}
            scored = score_plan(Reply("", gold, None), PlanGold(gold, {**num_responses, **own}))
            assert (scored.score, scored.correct) == (1.0, True)
            assert set(scored.figures.values()) == {1.0}
            found = edges(gold, {**num_responses, **own})
            assert not [edge for edge in found if not edge[0]], "a gold plan refers to what no earlier call returned"
            num_edges += found.total()
            num_plans += 1
    assert (num_plans, num_edges) == (1400, 72)


@pytest.mark.parametrize("family", world.FAMILIES)
def test_execution_in_the_world(family: str) -> None:
    for task in world.tasks(family, "test", 40):
        messages = world.expert(task)
        assert score_in_world(task, messages).correct
        assert score_in_world(task, messages, error="an unfinished call").parse_failure
        assert score_in_world(task, messages[:1]).parse_failure
        for text in ("", "tool:", task.user, f"User: {task.user}", f"Sure. {task.user}", '{"answer": ', "[" * 10_000):
            scored = score_in_world(task, [messages[0], {"role": "assistant", "content": text}])
            assert scored.score == 0, (task.user, text)
            assert not scored.correct


def test_an_empty_gold_plan_is_told() -> None:
    with pytest.raises(ValueError, match="the gold plan is empty"):
        score(plan("a"), [])
