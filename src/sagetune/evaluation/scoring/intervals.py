"""Rates and means with their 95 % intervals, pass^k, and the average over groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile
NUM_RESAMPLES = 2000  # the ends of a 95 % interval vary by about 2 % of its width from seed to seed


@dataclass(frozen=True, slots=True)
class Rate:
    """A share or mean over `n` items with its 95 % interval, all 0-1; value, low and high are None if n is 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def wilson(successes: int, n: int) -> Rate:
    """The share `successes / n` with its 95 % score interval (Wilson 1927, JASA 22, equation for p0)."""
    if n == 0:
        return Rate(None, None, None, 0)
    share, z2 = successes / n, Z_95**2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Rate(share, max(0.0, center - half), min(1.0, center + half), n)


def bootstrap(scores: Sequence[float], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> Rate:
    """The mean score with its percentile bootstrap interval (Efron 1979); for scores that are not only 0 and 1.

    All scores alike give an interval of no width: use `wilson` for a share.
    """
    return macro_average({"": scores}, seed=seed, num_resamples=num_resamples)


def macro_average(groups: Mapping[str, Sequence[float]], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> Rate:
    """The mean of the groups' means, each group with equal weight; items are resampled inside their group.

    Empty groups do not count. n is the number of items.
    """
    filled = [np.asarray(groups[name], dtype=np.float64) for name in sorted(groups) if len(groups[name])]
    if not filled:
        return Rate(None, None, None, 0)
    generator = np.random.default_rng(seed)
    resampled = np.zeros(num_resamples)
    for scores in filled:
        resampled += [scores[generator.integers(len(scores), size=len(scores))].mean() for _ in range(num_resamples)]
    low, high = np.quantile(resampled / len(filled), [0.025, 0.975])
    value = sum(float(scores.mean()) for scores in filled) / len(filled)
    return Rate(value, min(float(low), value), max(float(high), value), sum(map(len, filled)))


def pass_hat_k(attempts: Sequence[tuple[int, int]], k: int) -> float:
    """pass^k: how likely k attempts drawn without replacement all succeed, mean over tasks.

    attempts: (c successes, n attempts) of each task; a task gives C(c, k) / C(n, k). Raises ValueError if a task has
    fewer than k attempts or there is no task. Source: tau-bench (arXiv:2406.12045).
    """
    _check_attempts(attempts, k)
    return sum(math.comb(c, k) / math.comb(n, k) for c, n in attempts) / len(attempts)


def pass_at_k(attempts: Sequence[tuple[int, int]], k: int) -> float:
    """pass@k: how likely one of k succeeds: 1 - C(n - c, k) / C(n, k), mean over tasks (Chen et al. 2021)."""
    _check_attempts(attempts, k)
    return sum(1 - math.comb(n - c, k) / math.comb(n, k) for c, n in attempts) / len(attempts)


def _check_attempts(attempts: Sequence[tuple[int, int]], k: int) -> None:
    if not attempts:
        raise ValueError("attempts: no task")
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    for c, n in attempts:
        if not 0 <= c <= n or n < k:
            raise ValueError(f"attempts: a task needs k={k} attempts and 0 to n successes, got {c} of {n}")
