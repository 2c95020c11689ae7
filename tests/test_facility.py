"""Facility location is what its formula says: exact by brute force, by a plain greedy loop and by two libraries."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sagetune.selection import facility
from sagetune.selection.facility import coverage, facility_location, lazy_greedy, similarities


def unit_rows(num: int, dim: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def clustered(num: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, dim, generator=generator)
    members = torch.randint(20, (num,), generator=generator)
    return F.normalize(centres[members] + 0.5 * torch.randn(num, dim, generator=generator), dim=1)


def value(similarity: np.ndarray, chosen: list[int]) -> float:
    return float(similarity[chosen].max(0).astype(np.float64).sum())


def naive_greedy(similarity: np.ndarray, k: int) -> list[int]:
    covered, chosen = np.zeros(len(similarity), dtype=np.float32), []
    for _ in range(k):
        gains = np.maximum(similarity - covered, 0).sum(1)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, similarity[chosen[-1]])
    return chosen


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 10**6))
def test_lazy_equals_naive(num: int, k: int, seed: int) -> None:
    similarity = similarities(unit_rows(num, 5, seed))
    k = min(k, num)
    picks = lazy_greedy(similarity, np.zeros(num, dtype=np.float32), k)
    assert value(similarity, picks.indices.tolist()) == pytest.approx(value(similarity, naive_greedy(similarity, k)))
    assert len(set(picks.indices.tolist())) == k
    assert (np.diff(picks.scores) <= 1e-4).all(), "marginal gains of a submodular function never grow"
    assert picks.scores.sum() == pytest.approx(value(similarity, picks.indices.tolist()), rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_reaches_its_guarantee(seed: int) -> None:
    similarity = similarities(unit_rows(11, 3, seed))
    best = max(value(similarity, list(chosen)) for chosen in combinations(range(11), 4))
    found = value(similarity, lazy_greedy(similarity, np.zeros(11, dtype=np.float32), 4).indices.tolist())
    assert (1 - 1 / math.e) * best <= found <= best + 1e-6


def test_equal_gains_go_to_the_lower_index() -> None:
    similarity = 1 - np.eye(6, dtype=np.float32)  # every candidate covers everything but itself
    assert lazy_greedy(similarity, np.zeros(6, dtype=np.float32), 3).indices.tolist() == [0, 1, 2]


def test_apricot_and_submodlib_find_the_same_value() -> None:
    apricot = pytest.importorskip("apricot", reason="apricot-select is not installed (pip install -e '.[oracle]')")
    submodlib = pytest.importorskip("submodlib", reason="submodlib-py is not installed (pip install -e '.[oracle]')")
    similarity = similarities(clustered(300, 16))
    ours = value(similarity, lazy_greedy(similarity, np.zeros(300, dtype=np.float32), 30).indices.tolist())
    theirs = apricot.FacilityLocationSelection(30, metric="precomputed", optimizer="lazy")
    theirs.fit(similarity.astype(np.float64))
    assert value(similarity, theirs.ranking.tolist()) == pytest.approx(ours, rel=1e-6)
    function = submodlib.FacilityLocationFunction(n=300, mode="dense", sijs=similarity, separate_rep=False)
    greedy = function.maximize(budget=30, optimizer="LazyGreedy", show_progress=False)
    assert value(similarity, [index for index, _ in greedy]) == pytest.approx(ours, rel=1e-6)


def test_what_is_selected_already_is_not_covered_again() -> None:
    points = torch.eye(6)[[0, 0, 0, 1, 1, 1, 2, 2, 2]]  # three times three equals
    assert facility_location(points, 3).indices.tolist() == [0, 3, 6]
    assert facility_location(points, 1, selected=points[[0, 6]]).indices.tolist() == [3]


def test_an_outlier_is_not_chosen_first() -> None:
    """With self-similarity each of the outliers would gain 1 by covering itself."""
    points = torch.cat([clustered(200, 64), unit_rows(10, 64, 99)])
    assert not set(facility_location(points, 20).indices.tolist()) & set(range(200, 210))


@pytest.mark.parametrize(("optimizer", "least"), [("stochastic", 0.97), ("partition", 0.93)])
def test_the_optimizers_for_large_pools_come_near(
    optimizer: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facility, "PART", 150)
    points = clustered(600, 32)
    similarity = similarities(points)
    exact = value(similarity, facility_location(points, 60, optimizer="lazy").indices.tolist())
    picks = facility_location(points, 60, optimizer=optimizer)
    assert len(set(picks.indices.tolist())) == 60
    assert value(similarity, picks.indices.tolist()) >= least * exact
    again = facility_location(points, 60, optimizer=optimizer)
    assert picks.indices.tolist() == again.indices.tolist()


def test_auto_takes_parts_above_the_limit_and_lazy_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facility, "DENSE_LIMIT", 100)
    monkeypatch.setattr(facility, "PART", 50)
    assert len(facility_location(clustered(120, 8), 12).indices) == 12
    with pytest.raises(ValueError, match=r"coreset.optimizer=lazy .* 120 samples: use partition or stochastic"):
        facility_location(clustered(120, 8), 12, optimizer="lazy")


@pytest.mark.parametrize("optimizer", ["lazy", "stochastic", "partition"])
def test_everything_can_be_chosen(optimizer: str) -> None:
    picks = facility_location(clustered(30, 4), 99, optimizer=optimizer)
    assert sorted(picks.indices.tolist()) == list(range(30))


@pytest.mark.parametrize("optimizer", ["lazy", "stochastic", "partition"])
def test_of_twins_one_is_chosen(optimizer: str) -> None:
    """With no self-similarity at all, the best to cover a chosen sample is its twin, and both are picked."""
    first = unit_rows(20, 400, 5)
    twins = torch.nn.functional.normalize(first + 0.45 * unit_rows(20, 400, 6), dim=1)  # cosine 0.91
    picks = facility_location(torch.cat([first, twins]), 20, optimizer=optimizer)
    assert sorted(index % 20 for index in picks.indices.tolist()) == list(range(20))


def test_nothing_is_chosen_of_nothing() -> None:
    assert not len(facility_location(torch.zeros(0, 4), 3).indices)


def test_coverage_counts_the_nearest_other() -> None:
    points = clustered(90, 12)
    picks = facility_location(points, 9)
    own = np.full(90, -1)
    own[picks.indices] = np.arange(9)
    others = similarities(points)
    np.fill_diagonal(others, 0)
    expected = value(others, picks.indices.tolist()) / 90
    assert coverage(points, points[torch.from_numpy(picks.indices)], own, block=32) == pytest.approx(expected, rel=1e-5)
