"""The strategies: features of a pool -> chosen samples. Each is one function; STRATEGIES names them and their needs.

Letters: n samples of the pool, m candidates, k to choose, d dimensions, q samples of the development set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from sagetune.config import CoresetConfig
from sagetune.selection.cluster import kmeans
from sagetune.selection.facility import facility_location
from sagetune.selection.kcenter import kcenter
from sagetune.selection.picks import Picks, Progress, shares, top
from sagetune.selection.scoring import Columns
from sagetune.selection.similar import keep_dissimilar, unlike, without_near_duplicates

STRATA = 50
"""Bins of the score in CCS, as in its paper."""
TRAJECTORY_CLUSTERS = 100
"""Clusters of loss trajectories in S2L, as in its paper."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What is known of n samples; what the strategy does not need is None or not in `figures`."""

    size: int
    options: CoresetConfig
    seed: int = 0
    figures: Columns = field(default_factory=dict)
    """float (n,) by name: loss, el2n, accuracy, ifd, length (supervised tokens)."""
    usable: np.ndarray | None = None
    """bool (n,): whether all that is known of a sample is finite; the others may not be chosen. None = all are."""
    points: Tensor | None = None
    """Embeddings, unit rows float32 (n, d)."""
    words: Tensor | None = None
    """TF-IDF, unit rows: what tells near-duplicates; None = nothing is known of them."""
    similarity: np.ndarray | None = None
    """To each sample of the development set, float32 (n, q)."""
    dev_tasks: Sequence[str] = ()
    trajectories: Tensor | None = None
    """Loss at each checkpoint of a warm-up, float32 (n, checkpoints)."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """choose(pool, candidates int64 (m,), k, on_progress) -> picks among the candidates.

    needs: features of the pool; "score" stands for the figure that coreset.score names, "coverage" for points and, to
    tell near-duplicates, words.
    """

    choose: Callable[[Pool, np.ndarray, int, Progress | None], Picks]
    needs: tuple[str, ...] = ()


def random(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    """A uniform draw: what every strategy has to beat."""
    drawn = np.random.default_rng(pool.seed).permutation(candidates)[:k]
    return Picks.of(drawn, np.zeros(len(drawn)))


def length(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    """The samples with the most supervised tokens: the simplest baseline that is hard to beat (arXiv:2402.04833)."""
    return top(pool.figures["length"][candidates], k).among(candidates)


def loss_topk(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    """The highest mean negative log-likelihood of the supervised tokens; ties by input order."""
    return top(pool.figures["loss"][candidates], k).among(candidates)


def el2n(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    """The highest mean distance between predicted and true token distribution (Paul et al., arXiv:2107.07075)."""
    return top(pool.figures["el2n"][candidates], k).among(candidates)


def ifd(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    """The highest instruction-following difficulty, loss given the prompt / loss of the answer alone, up to 1.

    Above 1 the prompt does not help; such samples come last, the nearest to 1 first (Li et al., arXiv:2308.12032).
    """
    ratio = pool.figures["ifd"][candidates]
    return top(np.where(ratio <= 1, ratio, -ratio), k).among(candidates)


def diversity(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    """Coverage of the pool by coreset.coverage, after near-duplicate removal."""
    return _cover(pool, candidates, k, np.arange(0), pool.options.coverage, on_progress)


def cover_by_facilities(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    return _cover(pool, candidates, k, np.arange(0), "facility_location", on_progress)


def cover_by_centres(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    return _cover(pool, candidates, k, np.arange(0), "kcenter", on_progress)


def hybrid(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    """round(loss_ratio k) samples by loss, then the rest by coverage given those: ratio 1 is loss_topk, 0 diversity."""
    k = min(k, len(candidates))
    return _hybrid(pool, candidates, k, _num_by_loss(pool, k), on_progress)


def ccs(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    """Equally many from 50 bins of the score, the smallest bin first (Zheng et al., arXiv:2210.15809).

    The paper drops the hardest share before; here coreset.prune_top does.
    """
    scores = pool.figures[pool.options.score][candidates]
    edges = np.linspace(scores.min(), scores.max(), STRATA + 1)[1:-1]
    return _equally(np.digitize(scores, edges), k, pool.seed).among(candidates)


def s2l(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    """Equally many from 100 clusters of loss trajectories, the smallest first (Yang et al., arXiv:2403.07384)."""
    assert pool.trajectories is not None
    rows = pool.trajectories[torch.from_numpy(candidates)]
    return _equally(kmeans(rows, TRAJECTORY_CLUSTERS, pool.seed).numpy(), k, pool.seed).among(candidates)


def deita(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    """By score, leaving out what is too similar to one already taken (Liu et al., arXiv:2312.15685).

    The paper's score is complexity x quality by two scorer models; here it is what coreset.score names. If too few are
    dissimilar, the best of the others follow.
    """
    assert pool.points is not None
    scores = pool.figures[pool.options.score][candidates]
    order = np.argsort(-scores, kind="stable")
    points = pool.points[torch.from_numpy(candidates[order])]
    kept = order[keep_dissimilar(points, pool.options.similarity_limit, k)]
    others = order[~np.isin(order, kept)][: max(k - len(kept), 0)]
    chosen = np.concatenate([kept, others])
    return Picks.of(candidates[chosen], scores[chosen])


def targeted(pool: Pool, candidates: np.ndarray, k: int, on_progress: Progress | None) -> Picks:
    """The most similar to the development set; its tasks take turns, in a task its samples (RDS+, arXiv:2503.01807).

    Each in turn takes the most similar candidate that is left, so that no task is forgotten for another with larger
    similarities.
    """
    assert pool.similarity is not None
    near = pool.similarity[candidates]
    k = min(k, len(candidates))
    ranked = [iter(np.argsort(-near[:, query], kind="stable").tolist()) for query in range(near.shape[1])]
    taken: dict[int, float] = {}
    for query in _turns(pool.dev_tasks, k):
        place = next(place for place in ranked[query] if place not in taken)
        taken[place] = float(near[place, query])
    return Picks.of(candidates[np.fromiter(taken, dtype=np.int64, count=k)], list(taken.values()))


STRATEGIES = {
    "random": Strategy(random),
    "length": Strategy(length, ("length",)),
    "loss_topk": Strategy(loss_topk, ("loss",)),
    "el2n": Strategy(el2n, ("el2n",)),
    "ifd": Strategy(ifd, ("ifd",)),
    "ccs": Strategy(ccs, ("score",)),
    "diversity": Strategy(diversity, ("coverage",)),
    "facility_location": Strategy(cover_by_facilities, ("coverage",)),
    "kcenter": Strategy(cover_by_centres, ("coverage",)),
    "hybrid": Strategy(hybrid, ("loss", "coverage")),
    "deita": Strategy(deita, ("score", "points")),
    "rds": Strategy(targeted, ("target_hidden",)),
    "grad_sketch": Strategy(targeted, ("target_sketch",)),
    "less": Strategy(targeted, ("target_gradient",)),
    "s2l": Strategy(s2l, ("trajectories",)),
}


def needs(strategy: str, options: CoresetConfig) -> set[str]:
    """The features that a strategy uses under `options`."""
    found = {options.score if need == "score" else need for need in STRATEGIES[strategy].needs}
    if options.prune_top > 0:
        found.add(_pruned_by(strategy, options))
    if options.length_bins > 1:
        found.add("length")
    if ("coverage" in found and options.dedup == "coverage") or options.dedup == "pool":
        found.add("words")
    return {"points" if need == "coverage" else need for need in found}


def choose(strategy: str, pool: Pool, k: int, tasks: Sequence[str] = (), on_progress: Progress | None = None) -> Picks:
    """Run a strategy on the pool under its options: what may be chosen, and how much of each group.

    tasks: of each sample, for coreset.stratify. Returns min(k, allowed samples) picks. Raises ValueError if a pool has
    no sample whose figures are finite.
    """
    function = STRATEGIES[strategy].choose
    candidates = allowed(pool, strategy, k)
    k = min(k, len(candidates))
    groups = _groups(pool, candidates, tasks)
    if len(groups) == 1:
        return function(pool, candidates, k, on_progress) if k else Picks.of([], [])
    budgets = shares(k, [len(group) for group in groups])
    by_loss = shares(_num_by_loss(pool, k), budgets)  # rounded once: many small groups would lose the ratio
    picks = Picks.of([], [])
    for number, (group, budget, hardest) in enumerate(zip(groups, budgets, by_loss, strict=True)):
        part = replace(pool, seed=pool.seed + number)  # else groups of one size would draw the same places
        if budget and strategy == "hybrid":
            picks = picks.then(_hybrid(part, group, budget, hardest, on_progress))
        elif budget:
            picks = picks.then(function(part, group, budget, on_progress))
    return picks


def allowed(pool: Pool, strategy: str, k: int) -> np.ndarray:
    """The samples that may be chosen: usable, no near-duplicate of an earlier one, not pruned; in order.

    Pruning takes the share that coreset.prune_top says, rounded up, but leaves k samples.
    """
    options = pool.options
    usable = np.ones(pool.size, dtype=bool) if pool.usable is None else pool.usable
    candidates = usable.nonzero()[0]
    if pool.size and not len(candidates):
        raise ValueError("the model's loss or hidden state of every sample is not finite: nothing can be selected")
    if options.dedup == "pool" and pool.words is not None:
        words = pool.words[torch.from_numpy(candidates)]
        candidates = candidates[without_near_duplicates(words, options.dedup_similarity, pool.seed)]
    pruned = min(math.ceil(len(candidates) * options.prune_top), len(candidates) - k)
    if pruned > 0:
        hardest = top(pool.figures[_pruned_by(strategy, options)][candidates], pruned).among(candidates)
        candidates = np.setdiff1d(candidates, hardest.indices)
    return candidates


def _pruned_by(strategy: str, options: CoresetConfig) -> str:
    """The figure whose highest share is pruned: the loss, but in CCS, whose paper prunes its own score, that score."""
    return options.score if strategy == "ccs" else "loss"


def _num_by_loss(pool: Pool, k: int) -> int:
    return math.floor(pool.options.loss_ratio * k + 0.5)


def _hybrid(pool: Pool, candidates: np.ndarray, k: int, num_by_loss: int, on_progress: Progress | None) -> Picks:
    by_loss = loss_topk(pool, candidates, num_by_loss, None)
    rest = np.setdiff1d(candidates, by_loss.indices)
    left = k - len(by_loss.indices)
    return by_loss.then(_cover(pool, rest, left, by_loss.indices, pool.options.coverage, on_progress))


def _cover(
    pool: Pool, candidates: np.ndarray, k: int, selected: np.ndarray, coverage: str, on_progress: Progress | None
) -> Picks:
    """Choose k candidates for coverage given `selected`; near-duplicates of these and of each other come last."""
    points, options = pool.points, pool.options
    assert points is not None
    candidates, repeats = _without_repeats(pool, candidates, selected)
    picks = Picks.of([], [])
    for part in (candidates, repeats):
        left = min(k - len(picks.indices), len(part))
        if left <= 0:
            continue
        before = points[torch.from_numpy(np.concatenate([selected, picks.indices]))]
        rows = points[torch.from_numpy(part)]
        if coverage == "kcenter":
            found = kcenter(
                rows,
                left,
                selected=before,
                outlier_share=options.outlier_share,
                seed=pool.seed,
                on_progress=on_progress,
            )
        else:
            found = facility_location(
                rows,
                left,
                selected=before,
                optimizer=options.optimizer,
                seed=pool.seed,
                on_progress=on_progress,
            )
        picks = picks.then(found.among(part))
    return picks


def _without_repeats(pool: Pool, candidates: np.ndarray, selected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The candidates that resemble neither `selected` nor an earlier candidate too much, and the others."""
    if pool.options.dedup != "coverage" or pool.words is None:
        return candidates, candidates[:0]
    similarity, words = pool.options.dedup_similarity, pool.words
    fresh = candidates[unlike(words[torch.from_numpy(candidates)], words[torch.from_numpy(selected)], similarity)]
    fresh = fresh[without_near_duplicates(words[torch.from_numpy(fresh)], similarity, pool.seed)]
    return fresh, np.setdiff1d(candidates, fresh)


def _groups(pool: Pool, candidates: np.ndarray, tasks: Sequence[str]) -> list[np.ndarray]:
    """The candidates of each task and length bin; one group if neither is asked for."""
    labels = np.zeros(len(candidates), dtype=np.int64)
    if pool.options.length_bins > 1:
        lengths = pool.figures["length"][candidates]
        ranks = np.argsort(np.argsort(lengths, kind="stable"), kind="stable")
        labels = ranks * pool.options.length_bins // max(len(candidates), 1)
    if pool.options.stratify:
        names = {name: number for number, name in enumerate(dict.fromkeys(tasks))}
        labels = labels + pool.options.length_bins * np.array([names[tasks[i]] for i in candidates], dtype=np.int64)
    return [candidates[labels == label] for label in np.unique(labels)] or [candidates]


def _equally(labels: np.ndarray, k: int, seed: int) -> Picks:
    """k places, equally many of each label: the smallest group gives all it has, its shortfall goes to the others."""
    rng = np.random.default_rng(seed)
    groups = sorted((np.flatnonzero(labels == label) for label in np.unique(labels)), key=len)
    chosen: list[int] = []
    k = min(k, len(labels))
    for done, group in enumerate(groups):
        budget = min(len(group), (k - len(chosen)) // (len(groups) - done))
        chosen += rng.permutation(group)[:budget].tolist()
    return Picks.of(chosen, np.zeros(len(chosen)))


def _turns(tasks: Sequence[str], k: int) -> list[int]:
    """The queries of k turns: tasks in rotation, the queries of a task in rotation."""
    members = {task: [i for i, other in enumerate(tasks) if other == task] for task in dict.fromkeys(tasks)}
    rows = list(members.values())
    return [rows[turn % len(rows)][turn // len(rows) % len(rows[turn % len(rows)])] for turn in range(k)]
