"""Shares of a budget are exact, and ties go to the earlier sample."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sagetune.selection.picks import Picks, shares, top


@given(st.integers(0, 400), st.lists(st.integers(0, 100), min_size=1, max_size=8))
def test_shares_sum_to_the_budget_and_fit_their_parts(k: int, sizes: list[int]) -> None:
    given_out = shares(k, sizes)
    assert sum(given_out) == min(k, sum(sizes))
    assert all(0 <= part <= size for part, size in zip(given_out, sizes, strict=True))


@given(st.integers(1, 200), st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_shares_are_within_one_of_the_exact_proportion(k: int, sizes: list[int]) -> None:
    k = min(k, sum(sizes))
    for part, size in zip(shares(k, sizes), sizes, strict=True):
        assert abs(part - k * size / sum(sizes)) < 1


def test_shares_by_largest_remainder() -> None:
    assert shares(10, [35, 30, 20, 15]) == [4, 3, 2, 1]  # 3.5 and 1.5 tie: the first gets the place
    assert shares(7, [1, 1, 100]) == [0, 0, 7]


def test_top_is_stable() -> None:
    picks = top(np.array([1.0, 3.0, 2.0, 3.0]), 3)
    assert picks.indices.tolist() == [1, 3, 2]
    assert picks.scores.tolist() == [3, 3, 2]


def test_picks_join_and_move_to_a_larger_pool() -> None:
    both = Picks.of([1], [0.5]).among(np.array([7, 9])).then(Picks.of([2], [0.1]))
    assert both.indices.tolist() == [9, 2]
    assert both.scores.tolist() == [0.5, 0.1]
