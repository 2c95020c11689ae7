"""Facility location: choose samples so that every sample of the pool has a similar one among the chosen.

    f(S) = sum_i max_{j in S} s_ij,  s_ij = max(x_i . x_j, 0) for i != j,  s_ii = max_{j != i} s_ij

Monotone and submodular, so greedy choice reaches 1 - 1/e of the best (Nemhauser et al. 1978); as a measure of coverage
for data: CRAIG (arXiv:1906.01827), QDIT (arXiv:2311.14736). A sample covers itself as well as its nearest other would:
with s_ii = 1 an outlier gains 1 by covering itself alone, and the first picks are noise; with s_ii = 0 what covers a
chosen sample best is its twin, and twins are picked in pairs.

Letters: n samples, d dimensions, k to choose.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
import torch
from torch import Tensor

from sagetune.selection.picks import Picks, Progress, shares

DENSE_LIMIT = 20_000
"""Samples up to which all similarities are held at once, 4 n^2 bytes: 1.6 GB at the limit."""
PART = 5_000
"""Samples of one part of a larger pool: 100 MB of similarities at a time."""
BLOCK_FLOATS = 2**25
"""Similarities that are held at once elsewhere, 128 MB."""
STOCHASTIC_MISS = 0.01
"""Chance that the candidates of a stochastic pick hold none of the k best."""


def facility_location(
    points: Tensor,
    k: int,
    *,
    selected: Tensor | None = None,
    optimizer: str = "auto",
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Picks:
    """Choose min(k, n) of `points`, greedily; scores are the marginal gains.

    points: float32 (n, d), unit rows. selected: (m, d), chosen before: what they cover counts, they are not candidates.
    optimizer: lazy = exact greedy choice, at most DENSE_LIMIT points; stochastic = each pick is the best of
    n / k ln(1 / STOCHASTIC_MISS) random candidates (arXiv:1409.7938), with memory for those rows alone;
    partition = exact in random parts of PART samples, in proportion (GreeDi's first round, arXiv:1411.0541), picks in
    order of gain; auto = lazy where it may, else partition. Raises ValueError for lazy above DENSE_LIMIT.
    """
    k = min(k, len(points))
    if not k:
        return Picks.of([], [])
    covered = _covered(points, selected)
    if optimizer == "auto":
        optimizer = "lazy" if len(points) <= DENSE_LIMIT else "partition"
    if optimizer == "stochastic":
        return _stochastic(points, covered, k, seed, on_progress)
    if optimizer == "partition":
        return _partition(points, covered, k, seed, on_progress)
    if len(points) > DENSE_LIMIT:
        gigabytes = 4 * len(points) ** 2 / 1e9
        raise ValueError(
            f"coreset.optimizer=lazy needs all similarities at once, {gigabytes:.0f} GB for {len(points)} samples: "
            f"use partition or stochastic above {DENSE_LIMIT}"
        )
    return lazy_greedy(similarities(points), covered, k, on_progress)


def similarities(points: Tensor) -> np.ndarray:
    """s_ij of all pairs, float32 (n, n)."""
    matrix = (points @ points.T).clamp_(min=0)
    matrix.fill_diagonal_(0)
    matrix.diagonal().copy_(matrix.amax(1))
    return matrix.cpu().numpy()


def lazy_greedy(similarity: np.ndarray, covered: np.ndarray, k: int, on_progress: Progress | None = None) -> Picks:
    """Exact greedy choice by upper bounds (Minoux 1978): a gain never grows, so most are never computed again.

    similarity: float32 (n, n), row j = what candidate j covers. covered: float32 (n,), covered already; changed.
    Equal gains go to the lower index, as in a plain argmax.
    """
    row = np.empty_like(covered)
    value = float(covered.sum(dtype=np.float64))

    def gain(candidate: int) -> float:
        # As a difference of two sums it takes two passes instead of three; in float64 nothing is lost by that.
        np.maximum(similarity[candidate], covered, out=row)
        return float(row.sum(dtype=np.float64)) - value

    bounds = [(-gain(candidate), candidate) for candidate in range(len(similarity))]
    heapq.heapify(bounds)
    indices: list[int] = []
    gains: list[float] = []
    while len(indices) < k:
        candidate = bounds[0][1]
        now = (-gain(candidate), candidate)
        heapq.heapreplace(bounds, now)
        if bounds[0] is not now:
            continue
        heapq.heappop(bounds)
        indices.append(candidate)
        gains.append(-now[0])
        np.maximum(covered, similarity[candidate], out=covered)
        value = float(covered.sum(dtype=np.float64))
        if on_progress is not None:
            on_progress(1)
    return Picks.of(indices, gains)


def coverage(points: Tensor, chosen: Tensor, own: np.ndarray, block: int = 2048) -> float:
    """Mean similarity of a point to the nearest chosen other sample, 0-1.

    points: (n, d), chosen: (k, d), unit rows. own: int (n,), the place of each point among the chosen, or -1.
    """
    if not len(points) or not len(chosen):
        return 0.0
    total, places = 0.0, torch.from_numpy(own)
    for start in range(0, len(points), block):
        near = (points[start : start + block] @ chosen.T).clamp_(min=0)
        mine = places[start : start + block]
        inside = (mine >= 0).nonzero()[:, 0]
        near[inside, mine[inside]] = 0
        total += float(near.amax(1).double().sum())
    return total / len(points)


def _covered(points: Tensor, selected: Tensor | None) -> np.ndarray:
    """How well `selected` covers each point, float32 (n,); computed in blocks, never as a whole matrix."""
    covered = torch.zeros(len(points))
    if selected is not None and len(selected):
        block = max(1, BLOCK_FLOATS // len(selected))
        for start in range(0, len(points), block):
            covered[start : start + block] = (points[start : start + block] @ selected.T).amax(1).clamp_(min=0).cpu()
    return covered.numpy()


def _nearest(points: Tensor) -> Tensor:
    """s_ii: the similarity of each point to its nearest other, float32 (n,); in blocks."""
    found = []
    for block in torch.arange(len(points), device=points.device).split(max(1, BLOCK_FLOATS // max(len(points), 1))):
        rows = (points[block] @ points.T).clamp_(min=0)
        rows[torch.arange(len(block)), block] = 0
        found.append(rows.amax(1))
    return torch.cat(found)


def _stochastic(points: Tensor, covered: np.ndarray, k: int, seed: int, on_progress: Progress | None) -> Picks:
    own = _nearest(points)
    rng = np.random.default_rng(seed)
    size = min(len(points), math.ceil(len(points) / max(k, 1) * math.log(1 / STOCHASTIC_MISS)))
    now = torch.from_numpy(covered).to(points.device)
    left = np.arange(len(points))
    indices, gains = [], []
    for _ in range(k):
        places = rng.choice(len(left), min(size, len(left)), replace=False)
        places.sort()
        candidates = torch.from_numpy(left[places]).to(points.device)
        gained = torch.cat(
            [_gains(points, own, part, now) for part in candidates.split(max(1, BLOCK_FLOATS // len(now)))]
        )
        best = int(gained.argmax())
        chosen = candidates[best]
        indices.append(int(chosen))
        gains.append(float(gained[best]))
        row = (points @ points[chosen]).clamp_(min=0)
        row[chosen] = own[chosen]
        now = torch.maximum(now, row)
        left = np.delete(left, places[best])
        if on_progress is not None:
            on_progress(1)
    return Picks.of(indices, gains)


def _gains(points: Tensor, own: Tensor, candidates: Tensor, covered: Tensor) -> Tensor:
    rows = (points[candidates] @ points.T).clamp_(min=0)
    rows[torch.arange(len(candidates)), candidates] = own[candidates]
    return rows.sub_(covered).clamp_(min=0).sum(1)


def _partition(points: Tensor, covered: np.ndarray, k: int, seed: int, on_progress: Progress | None) -> Picks:
    order = np.random.default_rng(seed).permutation(len(points))
    parts = [np.sort(part) for part in np.array_split(order, math.ceil(len(points) / PART))]
    picked = Picks.of([], [])
    for part, budget in zip(parts, shares(k, [len(part) for part in parts]), strict=True):
        found = lazy_greedy(similarities(points[torch.from_numpy(part)]), covered[part], budget, on_progress)
        picked = picked.then(found.among(part))
    best = np.argsort(-picked.scores, kind="stable")
    return Picks(picked.indices[best], picked.scores[best])
