"""Statistics of a comparison, against scipy, brute force and closed forms."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sagetune.comparison.statistics import (
    EXACT_SIZE,
    NUM_DRAWS,
    holm,
    least_p,
    mcnemar_p,
    ranks,
    seeds_needed,
    sign_flip_p,
    t_interval,
)

few = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=2, max_size=7)


@given(few)
def test_the_t_interval_is_scipys(values: list[float]) -> None:
    found = t_interval(values)
    if found is None:
        assert np.ptp(values) < 1e-6
        return
    mean, error = np.mean(values), stats.sem(values)
    assert found == pytest.approx(stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error), abs=1e-9)


@pytest.mark.parametrize("values", [[], [0.4], [0.4, 0.4, 0.4], [0.1 + 0.2, 0.3]])
def test_one_value_and_values_alike_have_no_interval(values: list[float]) -> None:
    assert t_interval(values) is None


@given(few)
def test_the_sign_flip_test_counts_every_pattern_of_signs(values: list[float]) -> None:
    observed = abs(sum(values)) - 1e-9
    patterns = list(product((1, -1), repeat=len(values)))
    as_far = sum(abs(sum(s * v for s, v in zip(signs, values, strict=True))) >= observed for signs in patterns)
    assert sign_flip_p(values) == pytest.approx(as_far / len(patterns))


@given(few)
def test_the_sign_flip_test_is_scipys(values: list[float]) -> None:
    # scipy wants two observations; its two-sided p doubles the smaller tail, which for flipped signs is the same.
    tested = stats.permutation_test((values,), np.mean, permutation_type="samples", vectorized=False, n_resamples=10**4)
    assert sign_flip_p(values) == pytest.approx(tested.pvalue)


def test_beyond_exact_counting_the_p_value_is_near_scipys_and_never_zero() -> None:
    values = list(np.random.default_rng(1).normal(0.3, 1, 60))
    tested = stats.permutation_test((values,), lambda x, axis: np.mean(x, axis), permutation_type="samples", rng=2)
    assert sign_flip_p(values) == pytest.approx(tested.pvalue, abs=0.012)  # four standard errors of 10^4 draws
    assert sign_flip_p([1.0] * (10 * EXACT_SIZE)) == 1 / (NUM_DRAWS + 1)


@pytest.mark.parametrize("num", [1, 2, 3, 5, 6])
def test_the_least_p_is_that_of_differences_of_one_sign(num: int) -> None:
    assert sign_flip_p([float(n + 1) for n in range(num)]) == least_p(num) == 2 / 2**num


def test_no_difference_at_all_has_p_one_and_no_differences_are_refused() -> None:
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0
    with pytest.raises(ValueError, match="differences"):
        sign_flip_p([])


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 0), (7, 3), (2, 9), (6, 6)])
def test_of_wins_and_losses_the_sign_flip_test_is_mcnemars(won: int, lost: int) -> None:
    both = won + lost
    tail = sum(stats.binom.pmf(k, both, 0.5) for k in range(min(won, lost) + 1))
    assert mcnemar_p(won, lost) == pytest.approx(min(1.0, 2 * tail))
    assert sign_flip_p([1.0] * won + [-1.0] * lost + [0.0] * 4) == pytest.approx(mcnemar_p(won, lost))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_keeps_the_order_and_lies_between_no_correction_and_bonferroni(p_values: list[float]) -> None:
    found = holm(p_values)
    assert all(p <= c <= min(1.0, p * len(p_values)) for p, c in zip(p_values, found, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [found[i] for i in order] == sorted(found)


@pytest.mark.parametrize("num", [1, 4, 9])
def test_as_many_seeds_as_it_takes_and_not_one_less(num: int) -> None:
    assert num * least_p(seeds_needed(num)) <= 0.05 < num * least_p(seeds_needed(num) - 1)


def test_a_variant_that_wins_every_seed_is_first_beyond_doubt() -> None:
    found = ranks({"a": {0: 0.9, 1: 0.8, 2: 0.9}, "b": {0: 0.5, 1: 0.4, 2: 0.6}}, "higher")
    assert (found["a"].rank, found["a"].low, found["a"].high, found["a"].best) == (1, 1, 1, 1.0)
    assert (found["b"].rank, found["b"].best) == (2, 0.0)
    assert ranks({"a": {0: 0.9, 1: 0.8}, "b": {0: 0.5, 1: 0.4}}, "lower")["b"].rank == 1


def test_the_chance_of_being_first_is_the_share_of_resamples() -> None:
    """Of the 4 resamples of two seeds a is ahead in one, b in one, and two are ties."""
    found = ranks({"a": {0: 1.0, 1: 0.0}, "b": {0: 0.0, 1: 1.0}}, "higher")
    assert found["a"].best == pytest.approx(0.5, abs=0.02)
    assert (found["a"].rank, found["b"].rank) == (1, 1)
    assert (found["a"].low, found["a"].high) == (1, 2)


def test_ranks_go_by_the_seeds_that_most_have() -> None:
    """b lacks two of them and has no rank; the seed that c alone has changes nothing."""
    whole = {"a": {0: 0.5, 1: 0.6, 2: 0.9}, "c": {0: 0.4, 1: 0.5, 2: 0.8}, "d": {0: 0.3, 1: 0.6, 2: 0.7}}
    found = ranks({**whole, "c": whole["c"] | {3: 9.9}, "b": {2: 0.85}}, "higher")
    assert found == ranks(whole, "higher")
    assert {name: rank.rank for name, rank in found.items()} == {"a": 1, "c": 2, "d": 3}
    assert ranks({"a": {0: 1.0}, "b": {1: 2.0}}, "higher") == {}


def test_without_two_shared_seeds_a_rank_has_no_range() -> None:
    found = ranks({"a": {0: 1.0, 1: 1.0}, "b": {1: 0.0, 2: 0.0}}, "higher")["a"]
    assert (found.rank, found.low, found.best) == (1, None, None)
