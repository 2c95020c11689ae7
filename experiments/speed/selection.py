"""Facility location and k-center against apricot, submodlib and a scikit-learn loop, in one run on one set of points.

    pip install -e '.[oracle]'
    python selection.py [n] [d] [k] [rounds]      defaults: 20000 384 2000 3; prints a Markdown table

Points are 200 clusters of unequal size, unit rows. Facility location gets the same similarity matrix everywhere (its
making is timed apart), apricot after a first call that compiles its kernels. Rounds alternate between the sides. Wall
and processor seconds are medians. Equal value is checked.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import apricot
import numpy as np
import submodlib
import torch
import torch.nn.functional as F
from sklearn.metrics import pairwise_distances

from sagetune.selection.facility import lazy_greedy, similarities
from sagetune.selection.kcenter import kcenter, radius


def make_points(num: int, dim: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(200, dim, generator=generator)
    sizes = 1 / torch.arange(1, 201).float()
    members = torch.multinomial(sizes, num, replacement=True, generator=generator)
    spread = 1.4 * torch.rand(num, 1, generator=generator)
    shared = 0.5 * torch.randn(1, dim, generator=generator)
    return F.normalize(centres[members] + spread * torch.randn(num, dim, generator=generator) + shared, dim=1)


def value(similarity: np.ndarray, chosen: Any) -> float:
    return float(similarity[np.asarray(chosen)].max(0).astype(np.float64).sum())


def by_apricot(similarity: np.ndarray, k: int, optimizer: str) -> list[int]:
    selector = apricot.FacilityLocationSelection(k, metric="precomputed", optimizer=optimizer)
    selector.fit(similarity)
    return list(selector.ranking)


def by_submodlib(similarity: np.ndarray, k: int) -> list[int]:
    function = submodlib.FacilityLocationFunction(n=len(similarity), mode="dense", sijs=similarity, separate_rep=False)
    return [index for index, _ in function.maximize(budget=k, optimizer="LazyGreedy", show_progress=False)]


def by_sklearn(points: np.ndarray, k: int, first: int) -> list[int]:
    """The k-center greedy loop of google/active-learning and D2 pruning: one pairwise_distances a pick."""
    chosen = [first]
    nearest = pairwise_distances(points, points[[first]]).ravel()
    for _ in range(k - 1):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, pairwise_distances(points, points[[chosen[-1]]]).ravel())
    return chosen


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main(num: int = 20_000, dim: int = 384, k: int = 2_000, rounds: int = 3) -> None:
    points = make_points(num, dim)
    similarity, wall, cpu = timed(lambda: similarities(points))
    print(f"n = {num}, d = {dim}, k = {k}; similarities {wall:.1f} s ({cpu:.1f} s of processor)\n", flush=True)
    wide = similarity.astype(np.float64)  # apricot computes in float64 and would convert inside its time
    for optimizer in ("two-stage", "lazy"):
        by_apricot(wide[:500, :500], 50, optimizer)
    rows = points.numpy()
    first = int((points @ points.mean(0)).argmax())
    sides: dict[str, Callable[[], Any]] = {
        "facility location, ours": lambda: lazy_greedy(similarity, np.zeros(num, dtype=np.float32), k).indices,
        "facility location, apricot 0.6.1, two-stage": lambda: by_apricot(wide, k, "two-stage"),
        "facility location, apricot 0.6.1, lazy": lambda: by_apricot(wide, k, "lazy"),
        "facility location, submodlib 0.0.3": lambda: by_submodlib(similarity, k),
        "k-center, ours": lambda: kcenter(points, k).indices,
        "k-center, scikit-learn loop": lambda: by_sklearn(rows, k, first),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    reached: dict[str, float] = {}
    for turn in range(rounds):
        for name, run in sides.items():
            if turn and "submodlib" in name:
                continue  # a minute each; once is enough for its ratio
            chosen, wall, cpu = timed(run)
            times[name].append((wall, cpu))
            chosen = np.asarray(chosen)
            reached[name] = (
                radius(points, points[torch.from_numpy(chosen)]) if "center" in name else value(similarity, chosen)
            )
            print(f"{name}: {wall:.2f} s, {cpu:.2f} s of processor", file=sys.stderr, flush=True)
    print("| task | value or radius | seconds | processor seconds | ours / theirs | by processor |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, found in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
        ours = times[f"{name.split(',')[0]}, ours"]
        own_wall, own_cpu = (statistics.median(column) for column in zip(*ours, strict=True))
        print(
            f"| {name} | {reached[name]:.5g} | {wall:.2f} | {cpu:.2f} | {own_wall / wall:.3f} | {own_cpu / cpu:.3f} |"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
