"""What few seeds and many test items can tell: intervals, exact tests, Holm's correction, ranks. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ALPHA = 0.05
EXACT_SIZE = 16  # 2^16 sign patterns are counted whole; more are drawn
NUM_DRAWS = 10_000
ROUNDING = 1e-9  # sums that are equal but for rounding count as equal

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rank:
    """Place of one variant, 1 = best, with the range that 95 % of the resamples of seeds give it.

    best: share of the resamples in which it is the best; a tie is shared out. low, high and best are None where there
    are no two seeds to resample.
    """

    rank: int
    low: int | None
    high: int | None
    best: float | None


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean by Student's t (1908), which supposes normal values.

    None for fewer than two values, and for values that are all alike: their spread is unknown, not zero.
    """
    if len(values) < 2 or all_alike(values):
        return None
    half = float(stats.t.ppf(1 - ALPHA / 2, len(values) - 1)) * float(stats.sem(values))
    mean = sum(values) / len(values)
    return mean - half, mean + half


def all_alike(values: Sequence[float]) -> bool:
    """Whether the values are the same but for rounding."""
    return max(values) - min(values) <= ROUNDING * max(1.0, *map(abs, values))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of "each difference could as well have the other sign" (Fisher 1935), of the mean.

    Exact for up to EXACT_SIZE differences other than 0; beyond, of NUM_DRAWS seeded draws, with the observed one
    counted in (Phipson and Smyth 2010), so it is never 0. Of differences 1 and -1 it is McNemar's exact test. Raises
    ValueError if there are none.
    """
    if not differences:
        raise ValueError("differences: there are none")
    values = np.asarray([value for value in differences if value], dtype=np.float64)
    if not len(values):
        return 1.0
    threshold = abs(values.sum()) - ROUNDING * np.abs(values).sum()
    if len(values) <= EXACT_SIZE:
        return float((np.abs(_signs(len(values)) @ values) >= threshold).mean())
    drawn = np.random.default_rng(0).integers(0, 2, (NUM_DRAWS, len(values)), dtype=np.int8) * 2.0 - 1.0
    return float((np.count_nonzero(np.abs(drawn @ values) >= threshold) + 1) / (NUM_DRAWS + 1))


def least_p(num: int) -> float:
    """The smallest p-value that `sign_flip_p` can give for `num` differences: 2 / 2^num."""
    return min(1.0, 2.0 ** (1 - num))


def seeds_needed(num_comparisons: int) -> int:
    """The fewest seeds with which one of `num_comparisons` can come out below ALPHA after Holm's correction."""
    return math.ceil(math.log2(2 * num_comparisons / ALPHA))


def mcnemar_p(won: int, lost: int) -> float:
    """Exact two-sided p-value of McNemar's test (1947) for items that one of two models alone has right."""
    return float(stats.binomtest(min(won, lost), won + lost).pvalue) if won + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6), in the given order."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def ranked_seeds(scores: Mapping[str, Mapping[int, float]]) -> list[int]:
    """The seeds that ranks go by: those that more than half of the variants have.

    Means over other seeds are no ranking of variants, as a seed may be an easy one; and one variant that lacks a seed
    does not cost all others theirs.
    """
    seeds = sorted({seed for found in scores.values() for seed in found})
    return [seed for seed in seeds if 2 * sum(seed in found for found in scores.values()) > len(scores)]


def ranks(scores: Mapping[str, Mapping[int, float]], better: str) -> dict[str, Rank]:
    """Each variant's place by its mean over `ranked_seeds`, and how far the draw of seeds leaves it open.

    scores: variant -> seed -> score. better: "higher" or "lower". A variant that lacks one of those seeds has no rank.
    The seeds are resampled with replacement, the same for every variant (percentile bootstrap, Efron 1979). Equal means
    share the better place.
    """
    sign, shared = 1.0 if better == "higher" else -1.0, ranked_seeds(scores)
    whole = {name: found for name, found in scores.items() if shared and set(shared) <= set(found)}
    means = {name: sign * sum(found[seed] for seed in shared) / len(shared) for name, found in whole.items()}
    places = {name: 1 + sum(other > mean + ROUNDING for other in means.values()) for name, mean in means.items()}
    if len(shared) < 2 or not whole:
        return {name: Rank(place, None, None, None) for name, place in places.items()}
    table = np.asarray([[sign * found[seed] for seed in shared] for found in whole.values()])
    drawn = table[:, np.random.default_rng(0).integers(len(shared), size=(NUM_DRAWS, len(shared)))].mean(-1)
    ahead = (drawn[None] > drawn[:, None] + ROUNDING).sum(1)  # (variant, draw): how many are better
    firsts = (ahead == 0) / (ahead == 0).sum(0)
    low, high = np.quantile(ahead + 1, [ALPHA / 2, 1 - ALPHA / 2], axis=1, method="inverted_cdf")
    return {
        name: Rank(place, int(low[row]), int(high[row]), float(firsts[row].mean()))
        for row, (name, place) in enumerate(places.items())
    }


def _signs(num: int) -> Array:
    """Every pattern of `num` signs, float64 (2^num, num)."""
    patterns = np.arange(2**num)[:, None] >> np.arange(num) & 1
    return np.asarray(patterns * 2.0 - 1.0, dtype=np.float64)
