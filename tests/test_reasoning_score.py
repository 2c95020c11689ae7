"""Short answers: GSM8K as lm-evaluation-harness scores it, exact match, yes and no."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sagetune.evaluation.scoring.reasoning import (
    flexible_answer,
    score_answer,
    score_gsm8k,
    score_yes_no,
    strict_answer,
)

GSM8K = Path(__file__).parents[1].parent / "shared/data/gsm8k/test.jsonl"


@pytest.mark.skipif(not GSM8K.is_file(), reason=f"GSM8K's test set is not at {GSM8K}")
def test_every_solution_of_gsm8k_scores_and_no_question_does() -> None:
    items = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    solved = [score_gsm8k(item["answer"], item["answer"]) for item in items]
    assert len(solved) == 1319
    assert all(scored.correct and scored.figures == {"strict": 1.0, "flexible": 1.0} for scored in solved)
    echoed = [score_gsm8k(item["question"], item["answer"]) for item in items]
    assert not any(scored.score for scored in echoed)
    assert all(scored.parse_failure for scored in echoed)
    assert sum(scored.figures["flexible"] for scored in echoed) == 28  # the last number of the question is the answer


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("So 1,234.\n#### 1,234", 1, 1),
        ("#### 1234.", 1, 1),
        ("#### 1234\nno: 7", 1, 0),
        ("The answer is $1,234.", 0, 1),
        ("#### 7\n#### 1234", 0, 1),  # the first counts, so that answers cannot be listed
        ("####1234", 0, 1),
        ("#### 1234.0", 0, 0),
        ("#### -1234", 0, 0),
        ("####", 0, 0),
        ("", 0, 0),
    ],
)
def test_gsm8k(text: str, strict: int, flexible: int) -> None:
    scored = score_gsm8k(text, "1234")
    assert (scored.score, scored.correct) == (strict, bool(strict))
    assert scored.figures == {"strict": strict, "flexible": flexible}
    assert scored.parse_failure is (strict_answer(text) is None)


def test_numbers_in_text() -> None:
    assert strict_answer("#### -3.50 euros") == "-3.50"
    assert flexible_answer("3 of 12 cost $4.50.") == "$4.50."
    assert flexible_answer("none") is None
    with pytest.raises(ValueError, match="gold: expected a number"):
        score_gsm8k("1", "eighteen")


@pytest.mark.parametrize(
    ("answer", "gold", "correct", "f1", "unread"),
    [
        ("The Beatles!", "beatles", True, 1.0, False),
        ("the Beatles band", "beatles", False, 2 / 3, False),
        ("It is the Beatles, as I said.", "Beatles", False, 2 / 7, False),
        ("", "Beatles", False, 0.0, True),
        ("?!", "The", False, 0.0, True),  # both are nothing after normalisation
        ("a", "A", True, 1.0, False),
        ("the", "A", False, 0.0, False),
        ("Who sang it?", "The who sang it", False, 0.0, True),  # the question itself
    ],
)
def test_exact_match(answer: str, gold: str, correct: bool, f1: float, unread: bool) -> None:
    scored = score_answer(answer, gold, "who sang it?")
    assert (scored.correct, scored.parse_failure) == (correct, unread)
    assert scored.figures["f1"] == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "gold", "correct", "unread", "starts_with"),
    [
        ("Yes, it is.", True, True, False, 1),
        ("**No**", False, True, False, 0),
        ("no", True, False, False, 0),
        ("Not sure", False, False, True, 1),
        ("yesterday", True, False, True, 1),
        ("Yes or no?", True, False, True, 1),
        ("yes/no", True, False, True, 1),
        ("It is, yes", True, False, True, 0),
        ("", False, False, True, 0),
    ],
)
def test_yes_and_no(answer: str, gold: bool, correct: bool, unread: bool, starts_with: int) -> None:
    scored = score_yes_no(answer, gold)
    assert (scored.correct, scored.parse_failure) == (correct, unread)
    assert scored.figures["starts_with"] == starts_with


def test_a_role_may_be_an_answer_but_its_label_is_none() -> None:
    assert score_answer("Tool", "Tool").correct
    assert score_answer("tool:", "Tool").parse_failure
