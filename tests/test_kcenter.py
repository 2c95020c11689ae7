"""k-center is the farthest-first choice of a plain loop, within twice the best radius."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from sagetune.selection.kcenter import kcenter, radius
from test_facility import clustered, unit_rows


def plain(points: Tensor, k: int, first: int) -> list[int]:
    nearest, chosen = points @ points[first], [first]
    for _ in range(k - 1):
        nearest[chosen] = 9
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, points @ points[chosen[-1]])
    return chosen


@pytest.mark.parametrize(("num", "k"), [(50, 10), (1000, 100), (3000, 60)])
def test_the_choice_is_that_of_a_plain_loop(num: int, k: int) -> None:
    points = clustered(num, 24).double()
    first = int((points @ points.mean(0)).argmax())
    assert kcenter(points, k).indices.tolist() == plain(points, k, first)


@pytest.mark.parametrize("seed", range(6))
def test_the_radius_is_at_most_twice_the_best(seed: int) -> None:
    points = unit_rows(10, 3, seed)
    best = min(radius(points, points[list(chosen)]) for chosen in combinations(range(10), 3))
    found = radius(points, points[torch.from_numpy(kcenter(points, 3).indices)])
    assert best - 1e-6 <= found <= 2 * best + 1e-6


def test_scores_are_distances_that_never_grow() -> None:
    points = clustered(400, 16)
    picks = kcenter(points, 40)
    assert picks.scores[0] == 0
    assert (picks.scores[1:-1] >= picks.scores[2:] - 1e-4).all()
    rest = radius(points, points[torch.from_numpy(picks.indices)])
    assert rest <= picks.scores[-1] + 1e-4


def test_what_is_selected_already_counts() -> None:
    points = torch.eye(4)
    assert kcenter(points[[0, 1, 1, 2]], 2, selected=points[[0, 2]]).indices.tolist()[0] == 1


def test_repeats_come_after_everything_distinct() -> None:
    points = torch.eye(5)[[0, 0, 1, 2, 2, 3, 4]]
    chosen = kcenter(points, 5).indices
    assert sorted(points[torch.from_numpy(chosen)].argmax(1).tolist()) == [0, 1, 2, 3, 4]


def test_outliers_come_last_when_guarded() -> None:
    points = torch.cat([clustered(190, 64), unit_rows(10, 64, 5)])
    noise = set(range(190, 200))
    assert len(noise & set(kcenter(points, 30).indices.tolist())) >= 8, "they are the farthest points"
    assert not noise & set(kcenter(points, 30, outlier_share=0.05).indices.tolist())
    assert sorted(kcenter(points, 500, outlier_share=0.05).indices.tolist()) == list(range(200))
