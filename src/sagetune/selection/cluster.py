"""k-means, for strategies that draw equally from groups of alike samples."""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 20


def kmeans(points: Tensor, num_clusters: int, seed: int = 0) -> Tensor:
    """The cluster of each point, int64 (n,); 20 rounds of Lloyd's algorithm from k-means++ starts.

    points: float32 (n, d). A cluster that loses its last member keeps its centre; there are at most n clusters.
    """
    generator = torch.Generator().manual_seed(seed)
    num_clusters = min(num_clusters, len(points))
    centres = _spread(points, num_clusters, generator)
    cluster = torch.zeros(len(points), dtype=torch.int64)
    for _ in range(ITERATIONS):
        before, cluster = cluster, torch.cdist(points, centres).argmin(1)
        if torch.equal(before, cluster):
            break
        sums = torch.zeros_like(centres).index_add_(0, cluster, points)
        sizes = torch.bincount(cluster, minlength=num_clusters)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return cluster


def _spread(points: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii 2007): each start is drawn by its squared distance to those before."""
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen = [first]
    squared = (points - points[first]).square().sum(1)
    while len(chosen) < num:
        weights = squared if float(squared.sum()) > 0 else torch.ones_like(squared)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        squared = torch.minimum(squared, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]
