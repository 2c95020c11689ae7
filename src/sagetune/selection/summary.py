"""What a selection did to the data, in figures that compare across strategies; and the file selection.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sagetune.selection.embedding import tfidf
from sagetune.selection.facility import coverage
from sagetune.selection.features import Item
from sagetune.selection.picks import Picks
from sagetune.selection.similar import without_near_duplicates

DIM = 256
SAMPLE = 5_000
"""Pool samples at most that coverage is measured on."""
NEAR_DUPLICATE = 0.95
MAP_POINTS = 400
BINS = 20


def summarise(
    items: Sequence[Item],
    ids: Sequence[str],
    tasks: Sequence[str],
    picks: Picks,
    *,
    lengths: np.ndarray,
    losses: np.ndarray | None,
    num_unusable: int = 0,
) -> dict[str, Any]:
    """One entry of selection.json: which samples, and what distinguishes them from the pool.

    num_unusable: samples whose figures are not finite, which no strategy may choose. coverage: mean TF-IDF cosine of a
    pool sample to the nearest other chosen one, 0-1. duplicate_share: share of the chosen that resemble an earlier
    chosen one by a cosine of at least 0.95. Both by TF-IDF, whatever the strategy used.
    """
    words = tfidf(items, DIM)
    chosen = picks.indices
    names = Counter(tasks)
    selected = Counter(tasks[index] for index in chosen)
    kept = without_near_duplicates(words[torch.from_numpy(chosen)], NEAR_DUPLICATE)
    return {
        "num_pool": len(items),
        "num_selected": len(chosen),
        "num_unusable": num_unusable,
        "tasks": {name: {"pool": names[name], "selected": selected[name]} for name in sorted(names)},
        "coverage": _coverage(words, chosen),
        "duplicate_share": 1 - len(kept) / max(len(chosen), 1),
        "length": _against_pool(lengths, chosen),
        "loss": _against_pool(losses, chosen) if losses is not None else None,
        "map": _map(words, chosen),
        "ids": [ids[index] for index in chosen],
        "scores": picks.scores.tolist(),
    }


class SelectionFile:
    """selection.json of a run: one entry a selection. Written whole and renamed, so a reader never finds a part."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> list[dict[str, Any]]:
        return json.loads(self._path.read_text(encoding="utf-8"))["selections"] if self._path.is_file() else []

    def entry(self, epoch: int) -> dict[str, Any] | None:
        """The selection made for `epoch`, counted from 0; None if there is none yet."""
        return next((entry for entry in self.entries() if entry["epoch"] == epoch), None)

    def add(self, entry: dict[str, Any]) -> None:
        entries = [old for old in self.entries() if old["epoch"] < entry["epoch"]]
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.write_text(json.dumps({"selections": [*entries, entry]}, ensure_ascii=False), encoding="utf-8")
        partial.replace(self._path)


def _coverage(words: Tensor, chosen: np.ndarray) -> float:
    """On a random sample of a large pool, together with everything chosen."""
    sample = np.random.default_rng(0).permutation(len(words))[:SAMPLE]
    places = {int(index): place for place, index in enumerate(chosen)}
    own = np.array([places.get(int(index), -1) for index in sample])
    return coverage(words[torch.from_numpy(sample)], words[torch.from_numpy(chosen)], own)


def _against_pool(values: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """Means and a common histogram of a figure, in the pool and among the chosen."""
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"pool_mean": None, "selected_mean": None, "edges": [], "pool": [], "selected": []}
    edges = np.histogram_bin_edges(finite, BINS)
    return {
        "pool_mean": float(finite.mean()),
        "selected_mean": float(values[chosen].mean()) if len(chosen) else None,
        "edges": edges.tolist(),
        "pool": np.histogram(finite, edges)[0].tolist(),
        "selected": np.histogram(values[chosen], edges)[0].tolist(),
    }


def _map(words: Tensor, chosen: np.ndarray) -> dict[str, list[list[float]]]:
    """Up to MAP_POINTS samples of the pool and of the chosen on the pool's two main axes."""
    rng = np.random.default_rng(0)
    shown = np.sort(rng.permutation(len(words))[:MAP_POINTS])
    base = words[torch.from_numpy(np.sort(rng.permutation(len(words))[:SAMPLE]))]
    mean = base.mean(0)
    axes = torch.linalg.eigh((base - mean).T @ (base - mean)).eigenvectors[:, -2:]
    axes = axes * axes.sum(0).sign()  # an eigenvector's sign is arbitrary

    def places(indices: np.ndarray) -> list[list[float]]:
        return [[round(x, 4) for x in row] for row in ((words[torch.from_numpy(indices)] - mean) @ axes).tolist()]

    return {"pool": places(shown), "selected": places(rng.permutation(chosen)[:MAP_POINTS])}
