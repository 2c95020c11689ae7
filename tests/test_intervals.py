"""Intervals: published values, closed forms, and coverage."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagetune.evaluation.scoring.intervals import bootstrap, macro_average, pass_at_k, pass_hat_k, wilson


def test_wilson_interval_is_the_published_one() -> None:
    # R's prop.test(81, 263, correct=FALSE): Newcombe 1998, table I, method 3.
    rate = wilson(81, 263)
    assert (round(rate.low or 0, 4), round(rate.high or 0, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20).low == 0
    assert wilson(20, 20).high == 1
    assert wilson(0, 0).value is None


def test_the_bootstrap_repeats_itself_and_covers_the_mean() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        rate = bootstrap(generator.random(50), num_resamples=300)
        assert rate.low is not None
        assert rate.high is not None
        inside += rate.low <= 0.5 <= rate.high
    assert 180 <= inside <= 198  # 95 % of 200 is 190
    scores = generator.random(50).tolist()
    assert bootstrap(scores, seed=1) == bootstrap(scores, seed=1) != bootstrap(scores, seed=2)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_interval_holds_the_value(scores: list[float]) -> None:
    rate = bootstrap(scores, num_resamples=20)
    assert (rate.low or 0) <= (rate.value or 0) <= (rate.high or 0) <= 1 + 1e-12
    assert rate.n == len(scores)


def test_a_macro_average_weighs_groups_alike() -> None:
    rate = macro_average({"many": [1.0] * 98, "few": [0.0, 1.0], "none": []})
    assert (rate.value, rate.n) == (0.75, 100)
    assert (rate.low, rate.high) == (0.5, 1.0)  # only the group of two varies
    assert macro_average({}).value is None
    assert macro_average({"a": []}).n == 0


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_hat_k_is_the_share_of_draws_that_all_succeed(k: int) -> None:
    attempts = [[1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]]
    draws = [[*combinations(task, k)] for task in attempts]
    counts = [(sum(task), len(task)) for task in attempts]
    assert pass_hat_k(counts, k) == pytest.approx(sum(sum(map(all, task)) / len(task) for task in draws) / 3)
    assert pass_at_k(counts, k) == pytest.approx(sum(sum(map(any, task)) / len(task) for task in draws) / 3)


@pytest.mark.parametrize(("attempts", "k"), [([], 1), ([(1, 2)], 3), ([(3, 2)], 1), ([(1, 2)], 0)])
def test_pass_hat_k_refuses_unequal_trials(attempts: list[tuple[int, int]], k: int) -> None:
    with pytest.raises(ValueError, match=r"attempts|k must be"):
        pass_hat_k(attempts, k)
