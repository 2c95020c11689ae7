"""Near-duplicates: keep a sample only if nothing kept before it is too similar.

Letters: n samples, d dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK = 1024
BLOCK_FLOATS = 2**25
"""Similarities that are held at once, 128 MB."""
CELL = 2_000
"""Mean samples of a cell, where a pool is too large to compare every pair."""
PAIRS_LIMIT = 50_000
"""Samples up to which every pair is compared."""


def keep_dissimilar(points: Tensor, limit: float, num: int | None = None) -> np.ndarray:
    """Places of the points that are kept, in order: each has a cosine similarity of at most `limit` to all kept before.

    points: float32 (n, d), unit rows, the preferred ones first. Stops once `num` are kept. Exact; compares each point
    with the kept ones in blocks, so memory is that of one block's similarities.
    """
    num = len(points) if num is None else num
    kept = points.new_empty((min(num, len(points)), points.shape[1]))
    places: list[int] = []
    for start in range(0, len(points), BLOCK):
        block = points[start : start + BLOCK]
        free = torch.ones(len(block), dtype=torch.bool, device=points.device)
        for first in range(0, len(places), BLOCK):
            free &= (block @ kept[first : min(first + BLOCK, len(places))].T).amax(1) <= limit
        survivors = free.nonzero()[:, 0]
        close = (block[survivors] @ block[survivors].T > limit).cpu().numpy()
        alive = np.ones(len(survivors), dtype=bool)
        for place in range(len(survivors)):
            if not alive[place]:
                continue
            alive[place + 1 :] &= ~close[place, place + 1 :]
            kept[len(places)] = block[survivors[place]]
            places.append(start + int(survivors[place]))
            if len(places) == num:
                return np.array(places, dtype=np.int64)
    return np.array(places, dtype=np.int64)


def without_near_duplicates(points: Tensor, similarity: float, seed: int = 0) -> np.ndarray:
    """Places of the points that stay when of every near-duplicate pair the later one goes, in order.

    points: float32 (n, d), unit rows; rows of zeros are repeats of each other. similarity: cosine from which two points
    are near-duplicates; exact repeats are found at 1, too. Above PAIRS_LIMIT points only those are compared that share
    the nearest of n / CELL random points (as SemDeDup does with k-means, arXiv:2303.09540): some pairs at the border of
    two cells stay.
    """
    empty = np.flatnonzero(~points.any(1).cpu().numpy())[1:]
    return np.setdiff1d(_without_repeats(points, _limit(similarity), seed), empty)


def unlike(points: Tensor, others: Tensor, similarity: float) -> np.ndarray:
    """Places of the points that are no near-duplicate of any of `others`, in order."""
    limit = _limit(similarity)
    size = max(1, BLOCK_FLOATS // max(len(others), 1))
    parts = [(part @ others.T).amax(1) <= limit for part in points.split(size)] if len(others) else []
    return np.flatnonzero(torch.cat(parts).cpu().numpy()) if parts else np.arange(len(points))


def _limit(similarity: float) -> float:
    """The largest cosine that is still no near-duplicate; that of a row with itself can be a little under 1."""
    return min(float(np.nextafter(np.float32(similarity), np.float32(-1))), 1 - 1e-6)


def _without_repeats(points: Tensor, limit: float, seed: int) -> np.ndarray:
    if len(points) <= PAIRS_LIMIT:
        return keep_dissimilar(points, limit)
    centres = points[torch.from_numpy(np.random.default_rng(seed).permutation(len(points))[: len(points) // CELL])]
    cells = torch.cat([(points[s : s + BLOCK] @ centres.T).argmax(1) for s in range(0, len(points), BLOCK)])
    order = torch.argsort(cells, stable=True)
    members = order.split(torch.bincount(cells, minlength=len(centres)).tolist())
    kept = [cell.cpu().numpy()[keep_dissimilar(points[cell], limit)] for cell in members if len(cell)]
    return np.sort(np.concatenate(kept))
