"""k-center: choose samples so that no sample of the pool is far from the nearest chosen one.

Greedy farthest-first choice is within twice the best radius (Gonzalez 1985; for data: Sener and Savarese,
arXiv:1708.00489). The distance is sqrt(2 - 2 cos), the Euclidean one of unit vectors.

Letters: n samples, d dimensions, k to choose.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sagetune.selection.picks import Picks, Progress

ACTIVE_SHARE = 0.05
"""Share of the samples, the least covered ones, among which picks are made between two passes over all."""
BLOCK = 2048
BLOCK_FLOATS = 2**25
"""Similarities that are held at once, 128 MB."""
NEIGHBOURS = 10
DENSITY_SAMPLE = 10_000


def kcenter(
    points: Tensor,
    k: int,
    *,
    selected: Tensor | None = None,
    outlier_share: float = 0.0,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Picks:
    """Choose min(k, n) of `points`; scores are the distances to the chosen ones at the time of choosing.

    points: float32 (n, d), unit rows. selected: (m, d), chosen before. Without any the first is the point nearest to
    the mean, whose score is 0. outlier_share: that share of the points with the least mean similarity to their 10
    nearest neighbours (in a sample of 10,000) comes last.
    """
    k = min(k, len(points))
    inside, outliers = _by_density(points, outlier_share, seed)
    picks = _farthest_first(points[torch.from_numpy(inside)], min(k, len(inside)), selected, on_progress).among(inside)
    if k > len(inside):
        known = points[torch.from_numpy(inside)]
        known = known if selected is None else torch.cat([selected, known])
        rest = points[torch.from_numpy(outliers)]
        picks = picks.then(_farthest_first(rest, k - len(inside), known, on_progress).among(outliers))
    return picks


def radius(points: Tensor, chosen: Tensor) -> float:
    """The largest distance of a point to its nearest chosen one."""
    nearest = torch.cat([(points[s : s + BLOCK] @ chosen.T).amax(1) for s in range(0, len(points), BLOCK)])
    return float(_distance(nearest).max())


def _farthest_first(points: Tensor, k: int, selected: Tensor | None, on_progress: Progress | None) -> Picks:
    """Exact greedy choice that reads all points once a pass, not once a pick.

    nearest[i] is a lower bound of point i's similarity to the chosen ones. Picks are made among the `active` least
    covered points, whose values are kept exact. Bounds only grow, so as long as the active minimum is at most the
    smallest bound outside, no outside point can be farther; else all points are brought up to date by one product.
    """
    if k == 0:
        return Picks.of([], [])
    indices: list[int] = []
    similar: list[float] = []
    nearest = points.new_full((len(points),), -2.0)
    pending = selected
    if selected is None or not len(selected):
        first = int((points @ points.mean(0)).argmax())
        indices, similar, pending = [first], [1.0], points[[first]]
    active_size = min(len(points), max(64, int(len(points) * ACTIVE_SHARE)))
    while len(indices) < k:
        assert pending is not None
        size = max(1, BLOCK_FLOATS // len(pending))
        for start in range(0, len(points), size):
            block = nearest[start : start + size]
            torch.maximum(block, (points[start : start + size] @ pending.T).amax(1), out=block)
        nearest[indices] = 3.0  # never again
        bounds, active = torch.topk(nearest, active_size, largest=False)
        outside = float(bounds[-1]) if active_size < len(points) else 3.0
        active = active.sort().values
        now, rows = nearest[active], points[active]
        made: list[int] = []
        while len(indices) < k:
            place = int(now.argmin())
            value = float(now[place])
            if value >= 3.0 or (value > outside and made):
                break
            index = int(active[place])
            indices.append(index)
            similar.append(value)
            made.append(index)
            torch.maximum(now, rows @ rows[place], out=now)
            now[place] = 3.0
            if on_progress is not None:
                on_progress(1)
        pending = points[made]
    scores = _distance(torch.tensor(similar)).numpy()
    return Picks.of(indices, scores)


def _by_density(points: Tensor, outlier_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the denser points and of the outliers, each in order."""
    num = int(len(points) * outlier_share)
    if num == 0:
        return np.arange(len(points)), np.arange(0)
    sample = np.random.default_rng(seed).permutation(len(points))[:DENSITY_SAMPLE]
    others = points[torch.from_numpy(np.sort(sample))]
    place = np.full(len(points), -1)
    place[np.sort(sample)] = np.arange(len(sample))
    near = min(NEIGHBOURS, max(len(others) - 1, 1))
    density = []
    for start in range(0, len(points), BLOCK):
        similar = points[start : start + BLOCK] @ others.T
        own = place[start : start + BLOCK]
        inside = np.flatnonzero(own >= 0)
        similar[torch.from_numpy(inside), torch.from_numpy(own[inside])] = -2.0  # a point is no neighbour of itself
        density.append(similar.topk(near).values.mean(1))
    order = np.argsort(torch.cat(density).cpu().numpy(), kind="stable")
    return np.sort(order[num:]), np.sort(order[:num])


def _distance(similarity: Tensor) -> Tensor:
    return (2 - 2 * similarity.clamp(max=1)).sqrt()
