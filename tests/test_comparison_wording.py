"""What may be said of figures: each rule of wording on a case of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sagetune.comparison.statistics import least_p, sign_flip_p, t_interval
from sagetune.comparison.wording import Difference, Evidence, OnItems, format_p, sentence, verdict


def difference(*values: float, comparisons: int = 1) -> Difference:
    p = sign_flip_p(values)
    return Difference(
        seeds=list(range(len(values))),
        values=list(values),
        mean=sum(values) / len(values),
        interval=t_interval(values),
        p=p,
        least_p=least_p(len(values)),
        p_holm=min(1.0, comparisons * p),
    )


def evidence(found: Difference | None, **given: Any) -> Evidence:
    fields: dict[str, Any] = {
        **{"variant": "G_dora", "figure": "tool use", "form": "share", "better": "higher"},
        **{"values": [0.41, 0.42, 0.43], "mean": 0.42, "interval": (0.395, 0.445)},
        **{"level": None, "above_level": None, "baseline": "A_baseline", "difference": found},
    }
    return Evidence(**(fields | given))


SIX = (0.02, 0.03, 0.025, 0.02, 0.03, 0.025)
ITEMS = OnItems(120, 0.05, (0.01, 0.09), 0.02, 0.04, [{"seed": 0, "won": 9, "lost": 3, "p": 0.15}])


@pytest.mark.parametrize(
    ("found", "given", "expected"),
    [
        (difference(*SIX), {}, "better"),
        (difference(*SIX), {"better": "lower"}, "worse"),
        (difference(*(-d for d in SIX)), {}, "worse"),
        (difference(*SIX, comparisons=9), {}, "leans better"),
        (difference(0.02, 0.021, 0.022), {}, "leans better"),
        (difference(-0.02, -0.021, -0.022), {}, "leans worse"),
        (difference(0.05, -0.01, 0.02), {}, "undecided"),
        (difference(0.3), {}, "one seed"),
        (difference(*SIX), {"other_items": True}, "other items"),
        (difference(0.0, 0.0, 0.0), {}, "same"),
        (difference(0.1, 0.1, 0.1), {}, "constant"),
        (None, {}, "no shared seed"),
        (None, {"baseline": None}, "no baseline"),
        (None, {"baseline": "G_dora"}, "baseline"),
    ],
)
def test_the_verdict_needs_the_interval_and_the_exact_test(
    found: Difference | None, given: dict[str, Any], expected: str
) -> None:
    assert verdict(evidence(found, **given)) == expected


def test_an_undecided_difference_says_so_and_what_the_seeds_cannot_show() -> None:
    assert sentence(evidence(difference(0.05, -0.01, 0.023))) == (
        "G_dora: +2.1 pt on tool use over A_baseline in three seeds (95 % interval -5.4 pt to +9.6 pt): "
        "not told apart from no change; three seeds cannot give p below 0.25."
    )


def test_enough_seeds_are_not_told_that_they_are_too_few() -> None:
    text = sentence(evidence(difference(0.05, -0.05, 0.02, -0.01, 0.03, -0.02)))
    assert text.endswith("not told apart from no change.")


def test_a_difference_that_only_the_interval_sees_is_not_called_better() -> None:
    text = sentence(evidence(difference(0.02, 0.021, 0.022)))
    assert ": leans better, not established: the interval supposes normal differences" in text
    assert "exact p = 0.25, and three seeds cannot give p below 0.25" in text


def test_an_established_difference_gives_its_p_value() -> None:
    text = sentence(evidence(difference(*SIX)))
    assert text.endswith(": better (exact p = 0.031).")
    assert "six seeds (95 % interval +2.0 pt to +3.0 pt)" in text


def test_one_seed_has_no_interval() -> None:
    text = sentence(evidence(difference(0.3), values=[0.72], interval=None))
    assert text.startswith("G_dora: +30.0 pt on tool use over A_baseline in one seed: ")
    assert text.endswith(": one seed has no interval and tells nothing of another.")


def test_seeds_that_all_give_the_same_are_not_taken_for_certainty() -> None:
    assert sentence(evidence(difference(0.0, 0.0))).endswith("in two seeds: the same in each.")
    constant = sentence(evidence(difference(0.1, 0.1, 0.1)))
    assert constant.endswith("the spread over seeds is unknown and nothing is told of another.")


@pytest.mark.parametrize(
    ("baseline", "reason"),
    [(None, "there is no baseline"), ("A_baseline", "shares no seed with A_baseline"), ("G_dora", "are compared with")],
)
def test_without_a_comparison_the_score_stands_alone(baseline: str | None, reason: str) -> None:
    text = sentence(evidence(None, baseline=baseline))
    assert text.startswith("G_dora: 42.0 % on tool use in three seeds (95 % interval 39.5 % to 44.5 %); ")
    assert reason in text


def test_a_score_that_is_not_above_chance_is_told_whatever_the_difference() -> None:
    found = evidence(difference(*SIX), level=("chance level", 0.5), above_level=False)
    assert sentence(found).endswith("; its score is not above the chance level of 50.0 %.")
    assert "chance" not in sentence(replace(found, above_level=True))


def test_a_score_above_a_level_that_its_interval_reaches_is_not_called_below_it() -> None:
    found = evidence(difference(*SIX), mean=0.667, level=("trivial baseline", 0.25), above_level=False)
    assert sentence(found).endswith("; its score is not established to be above the trivial baseline of 25.0 %.")


@pytest.mark.parametrize(
    ("seeds", "told"), [([3], "seed 3 has no finite value and is"), ([3, 5], "seeds 3, 5 have no finite value and are")]
)
def test_seeds_without_a_finite_value_are_named(seeds: list[int], told: str) -> None:
    for found in (difference(*SIX), None):
        assert f"; {told} left out" in sentence(evidence(found, left_out=seeds))


def test_test_items_are_a_sentence_of_their_own() -> None:
    text = sentence(evidence(difference(0.05, -0.01, 0.023), items=ITEMS))
    assert text.endswith(
        " On the same 120 test items: these trained models differ beyond the draw of items "
        "(+5.0 pt, 95 % interval +1.0 pt to +9.0 pt; p = 0.02, 0.04 after Holm's correction)."
    )
    corrected = sentence(evidence(difference(0.05, -0.01, 0.023), items=replace(ITEMS, p_holm=0.06)))
    assert "On the same 120 test items: not told apart from no change" in corrected


def test_a_number_is_not_written_as_points() -> None:
    text = sentence(evidence(difference(0.05, -0.01, 0.023), form="number", figure="loss", better="lower"))
    assert text.startswith("G_dora: +0.021 on loss over A_baseline in three seeds (95 % interval -0.054 to +0.096)")


@pytest.mark.parametrize(
    ("p", "text"), [(0.25, "p = 0.25"), (0.03125, "p = 0.031"), (1.0, "p = 1"), (1e-4, "p < 0.001")]
)
def test_p_values_as_people_write_them(p: float, text: str) -> None:
    assert format_p(p) == text


def test_both_p_values_are_told_where_the_correction_changes_them() -> None:
    text = sentence(evidence(difference(*SIX, comparisons=9)))
    assert "(exact p = 0.031, 0.28 after Holm's correction)" in text
