"""What every strategy returns, and exact shares of a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Progress = Callable[[int], None]
"""Called with the number of samples (or picks) that were just finished."""


@dataclass(frozen=True, slots=True)
class Picks:
    """Chosen samples in the order of choosing.

    indices: int64 (k,), distinct. scores: float64 (k,), why each was chosen: a loss, a gain, a similarity; higher is
    better.
    """

    indices: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, indices: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> Picks:
        return cls(np.asarray(indices, dtype=np.int64), np.asarray(scores, dtype=np.float64))

    def then(self, other: Picks) -> Picks:
        """These picks, then those of `other`."""
        return Picks.of(np.concatenate([self.indices, other.indices]), np.concatenate([self.scores, other.scores]))

    def among(self, places: np.ndarray) -> Picks:
        """The same picks when sample i of theirs is sample places[i] of a larger pool."""
        return Picks(places[self.indices], self.scores)


def top(scores: np.ndarray, k: int) -> Picks:
    """The k highest of `scores`, highest first; ties by index."""
    order = np.argsort(-scores, kind="stable")[:k]
    return Picks.of(order, scores[order])


def shares(k: int, sizes: Sequence[int]) -> list[int]:
    """Parts of k in proportion to `sizes`, none above its size, by largest remainder (ties by position).

    What a full part cannot take goes to the others. The parts sum to min(k, sum of sizes).
    """
    left, given = min(k, sum(sizes)), [0] * len(sizes)
    while left:
        room = [size - got for size, got in zip(sizes, given, strict=True)]
        open_sizes = [size if space else 0 for size, space in zip(sizes, room, strict=True)]
        exact = [left * size / sum(open_sizes) for size in open_sizes]
        parts = [min(int(part), space) for part, space in zip(exact, room, strict=True)]
        rest = sorted(range(len(sizes)), key=lambda i: (parts[i] - exact[i], i))
        for i in rest[: left - sum(parts)]:
            parts[i] += parts[i] < room[i]
        given = [got + part for got, part in zip(given, parts, strict=True)]
        left -= sum(parts)
    return given
