"""Whether to call, and which tool: verdicts and the figures over many."""

from __future__ import annotations

import math

import pytest

from sagetune.evaluation.calls import Reply, parse_reply
from sagetune.evaluation.scoring.selection import score_candidates, score_ranking, score_selection, selection_report
from sagetune.evaluation.scoring.timing import DECISIONS, decision_of, score_timing, timing_report

CALLED = Reply("", [{"name": "book", "arguments": {}}], None)


def test_a_decision_is_a_call_a_readable_refusal_or_neither() -> None:
    assert decision_of(CALLED) == "call"
    assert decision_of(parse_reply("None of my tools can do that.")) == "hold"
    for text in ("", "tool:", "Book it!", "<tool_call>{", "book(x=1)", '"name": "book"', "[[[["):
        assert decision_of(parse_reply(text), "book it!", ["book"]) == "unreadable", text


@pytest.mark.parametrize(("should_call", "called", "correct"), [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_timing_of_one_item(should_call: int, called: int, correct: int) -> None:
    scored = score_timing(CALLED if called else Reply("No tool fits.", [], None), bool(should_call))
    assert (scored.score, scored.correct, scored.parse_failure) == (correct, bool(correct), False)
    assert score_timing(parse_reply(""), bool(should_call)).parse_failure


def test_figures_of_timing() -> None:
    decisions = [
        *[(True, "call")] * 6, *[(True, "hold")] * 3, (True, "unreadable"),
        *[(False, "call")] * 2, *[(False, "hold")] * 1, *[(False, "unreadable")] * 1,
    ]  # fmt: skip
    report = timing_report(decisions)
    assert report.n == 14
    assert report.balanced_accuracy.value == pytest.approx((6 / 10 + 1 / 4) / 2)
    assert (report.false_call_rate.value, report.missed_call_rate.value) == (2 / 4, 3 / 10)
    assert report.parse_failure_rate.value == 2 / 14
    assert report.confusion_matrix == {
        "call": {"call": 6, "hold": 3, "unreadable": 1},
        "hold": {"call": 2, "hold": 1, "unreadable": 1},
    }
    assert report == timing_report(decisions[::-1])


@pytest.mark.parametrize(("decision", "expected"), [*zip(DECISIONS, (0.5, 0.5, 0.0), strict=True)])
def test_one_decision_for_everything_is_no_better_than_chance(decision: str, expected: float) -> None:
    report = timing_report([(True, decision)] * 90 + [(False, decision)] * 10)
    assert report.balanced_accuracy.value == expected


def test_timing_of_nothing_and_of_a_bad_decision() -> None:
    assert timing_report([]).balanced_accuracy.value is None
    with pytest.raises(ValueError, match="a decision must be one of call, hold, unreadable"):
        timing_report([(True, "abstain")])


@pytest.mark.parametrize(
    ("ranking", "rank", "unread"),
    [("abg", 1 / 3, False), ("gab", 1, False), ("aag", 1 / 3, False), ("abc", 0, False), ("", 0, True)],
)
def test_only_the_first_of_a_ranking_scores_and_its_reciprocal_rank_is_told(
    ranking: str, rank: float, unread: bool
) -> None:
    scored = score_ranking(list(ranking), "g")
    assert (scored.figures["mrr"], scored.parse_failure) == (rank, unread)
    assert (scored.score, scored.correct) == (float(rank == 1), rank == 1)


def test_candidates_with_one_score_are_no_choice() -> None:
    assert score_candidates({"a": -1.0, "g": -0.5, "b": -2.0}, "g").correct
    assert score_candidates({"g": -0.5, "a": -0.5, "b": -0.5}, "g").figures == {"mrr": 1 / 3}
    assert score_candidates({"g": -math.inf, "a": -math.inf}, "g").figures == {"mrr": 1 / 2}
    assert score_candidates({"g": 0.0, "a": math.nan}, "g").parse_failure
    with pytest.raises(ValueError, match="must be one of the candidates a"):
        score_candidates({"a": 0.0}, "g")


def test_figures_of_selection() -> None:
    replies = [CALLED, parse_reply("Nothing fits."), parse_reply("")]
    scored = [score_selection(reply, "book") for reply in replies] + [score_ranking(["x", "book"], "book")]
    report = selection_report(scored)
    assert (report.n, report.top_1.value, report.mrr.value) == (4, 0.25, 1.5 / 4)
    assert report.parse_failure_rate.value == 0.25
    assert selection_report([]).mrr.value is None
