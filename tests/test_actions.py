"""Scoring of actions: what counts as the same, what does not, and what is counted where."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagetune.config import EvaluationConfig, ModelConfig
from sagetune.evaluation.actions import (
    ActionScore,
    decision_points,
    evaluate_actions,
    num_cut_off,
    read_cut_off,
    score_action,
    summarize,
)
from sagetune.evaluation.calls import canonical, parse_reply, render_reply
from sagetune.models import load_model, load_tokenizer
from sagetune.sample import Sample
from test_calls import assistant, functions, json_values


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def score(gold: dict[str, Any], written: dict[str, Any] | str) -> Any:
    return score_action(gold, parse_reply(written if isinstance(written, str) else render_reply(written)))


@given(st.sampled_from(["", "I look it up."]), st.lists(functions, min_size=1, max_size=3), st.randoms())
def test_the_experts_own_calls_are_right_in_any_order(content: str, calls: list[dict[str, Any]], random: Any) -> None:
    shuffled = random.sample(calls, len(calls))
    assert score(assistant("", *calls), assistant(content, *shuffled)).exact_match


@given(json_values, json_values)
def test_values_are_equal_exactly_if_their_json_is(one: Any, other: Any) -> None:
    def text(value: Any) -> str:  # floats without a fraction are the integers that they equal
        return json.dumps(json.loads(json.dumps(value), parse_float=number), sort_keys=True)

    def number(digits: str) -> float | int:
        return int(float(digits)) if float(digits).is_integer() else float(digits)

    assert (canonical(one) == canonical(other)) == (text(one) == text(other))


@pytest.mark.parametrize(
    ("gold", "written", "same"),
    [
        (1, 1.0, True),
        (1, "1", False),
        (1, True, False),
        (0, False, False),
        (0, None, False),
        ("a b", "a  b", False),
        ("Anna", "anna", False),
        ([1, 2], [2, 1], False),
        ({"a": 1, "b": [{}]}, {"b": [{}], "a": 1}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
    ],
)
def test_arguments_are_compared_with_their_types(gold: Any, written: Any, same: bool) -> None:
    scored = score(assistant("", call("f", x=gold)), assistant("", call("f", x=written)))
    assert (scored.exact_match, scored.arguments_correct, scored.name_correct) == (same, same, True)


def test_the_same_call_twice_is_not_the_call_once() -> None:
    once, twice = assistant("", call("f")), assistant("", call("f"), call("f"))
    assert not score(once, twice).exact_match
    assert not score(twice, once).exact_match


def test_arguments_that_belong_to_the_other_call_are_wrong() -> None:
    gold = assistant("", call("f", x=1), call("g", x=2))
    scored = score(gold, assistant("", call("f", x=2), call("g", x=1)))
    assert (scored.exact_match, scored.name_correct, scored.arguments_correct) == (False, True, True)


def test_text_is_compared_as_a_reader_sees_it() -> None:
    gold = {"role": "assistant", "content": "The café opens at 9."}
    assert score(gold, " the cafe\u0301  opens\nat 9. ").exact_match
    assert not score(gold, "The café opens at 10.").exact_match


def test_a_call_where_the_expert_answers_is_wrong_even_with_the_same_text() -> None:
    gold = {"role": "assistant", "content": "Which day?"}
    assert not score(gold, assistant("Which day?", call("f"))).exact_match


@pytest.mark.parametrize("gold", [assistant("", call("f")), {"role": "assistant", "content": "Which day?"}])
def test_a_reply_that_cannot_be_read_is_wrong_and_no_abstention(gold: dict[str, Any]) -> None:
    scored = score(gold, '<tool_call>{"name": "f", "argu')
    assert scored.parse_failure
    assert not any((scored.exact_match, scored.name_correct, scored.arguments_correct, scored.abstained))


def row(task: str, gold: dict[str, Any], written: dict[str, Any] | str) -> dict[str, Any]:
    scored = score(gold, written)
    names = ("exact_match", "name_correct", "arguments_correct", "parse_failure", "abstained")
    return {"task": task, "gold_calls": len(gold.get("tool_calls", [])), **{n: getattr(scored, n) for n in names}}


def test_holding_back_earns_nothing_where_the_expert_calls() -> None:
    asks, calls = {"role": "assistant", "content": "Which day?"}, assistant("", call("f"))
    report = summarize([row("timing", asks, "Which day?"), row("timing", calls, "Which day?"), row("plan", calls, "{")])
    assert (report.name_accuracy.value, report.name_accuracy.n) == (0, 2)
    assert (report.exact_match.value, report.exact_match.n) == (1 / 3, 3)
    assert report.decision_accuracy.value == 1 / 3
    assert report.by_task["timing"]["exact_match"]["value"] == 0.5


SAMPLE: Sample = {
    "id": "s",
    "task": "planning",
    "source": "",
    "meta": {},
    "tools": [{"type": "function", "function": {"name": "f", "description": "F.", "parameters": {}}}],
    "messages": [
        {"role": "user", "content": "Do it."},
        assistant("", call("f")),
        {"role": "tool", "tool_call_id": "call_0", "name": "f", "content": "ok"},
        {"role": "assistant", "content": "Hm.", "loss": False},
        {"role": "assistant", "content": "Done."},
    ],
}


def test_every_assistant_turn_with_a_loss_is_a_decision_on_the_true_history() -> None:
    items = decision_points([SAMPLE])
    assert [item.id for item in items] == ["s#1", "s#4"]
    assert items[1].messages == SAMPLE["messages"][:4]
    assert items[1].gold == SAMPLE["messages"][4]


def test_a_reply_that_does_not_end_has_decided_nothing() -> None:
    """Rambling until it is cut off is not the decision to call nothing; a call that stands there was one."""
    held_back = score_action({"role": "assistant", "content": "Which day?"}, read_cut_off("Well, let me think about"))
    assert held_back == ActionScore(False, False, False, parse_failure=True, abstained=False)
    called = assistant("", call("f"))
    assert score_action(called, read_cut_off(render_reply(called))).exact_match
    assert read_cut_off('<tool_call>{"name"').error == parse_reply('<tool_call>{"name"').error


def test_the_experts_turns_that_no_model_can_write_are_counted() -> None:
    """A turn takes its tokens and the stop token."""
    tokenizer = load_tokenizer("embedded:tiny", ModelConfig())
    longest = max(len(tokenizer.encode(render_reply(item.gold))) for item in decision_points([SAMPLE]))
    assert num_cut_off([SAMPLE], tokenizer, longest + 1) == (0, 2)
    assert num_cut_off([SAMPLE], tokenizer, longest) == (1, 2)
    assert num_cut_off([], tokenizer, longest) == (0, 0)


def test_evaluate_actions_reports_each_decision() -> None:
    config = ModelConfig()
    tokenizer, model = load_tokenizer("embedded:tiny", config), load_model("embedded:tiny", config)
    done: list[int] = []
    report = evaluate_actions(model, tokenizer, [SAMPLE], EvaluationConfig(max_new_tokens=4), done.append)
    assert (report.n, sum(done)) == (2, 2)
    assert [item["gold"] for item in report.items] == [
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
        "Done.",
    ]
    assert report.items[0]["prompt"].endswith("assistant\n")
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert "items" not in report.to_dict(items=False)
