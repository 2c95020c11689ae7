"""Each strategy chooses what its definition says, under every option."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagetune.config import CORESET_STRATEGIES, CoresetConfig
from sagetune.selection.strategies import STRATEGIES, Pool, allowed, choose, needs
from test_facility import clustered


def make_pool(num: int = 120, seed: int = 0, **options: Any) -> Pool:
    """A pool with every feature, all of them random."""
    rng = np.random.default_rng(seed)
    points = clustered(num, 24, seed)
    names = ("loss", "el2n", "accuracy", "ifd", "length")
    return Pool(
        size=num,
        options=CoresetConfig(**options),
        seed=3,
        figures={name: rng.uniform(0.1, 2, num) for name in names},
        points=points,
        words=points,
        similarity=rng.uniform(-1, 1, (num, 6)).astype(np.float32),
        dev_tasks=["a", "b", "a", "b", "b", "c"],
        trajectories=torch.from_numpy(rng.uniform(0, 1, (num, 4)).astype(np.float32)),
    )


def test_every_strategy_of_the_configuration_is_there() -> None:
    assert set(STRATEGIES) == set(CORESET_STRATEGIES)


@pytest.mark.parametrize("strategy", CORESET_STRATEGIES)
@pytest.mark.parametrize(
    "options",
    [{}, {"stratify": True}, {"length_bins": 4}, {"prune_top": 0.2}, {"dedup": "pool"}, {"coverage": "kcenter"}],
    ids=str,
)
def test_a_choice_is_exact_distinct_and_repeatable(strategy: str, options: dict[str, Any]) -> None:
    pool = make_pool(**options)
    tasks = ["even", "odd"] * 60
    picks = choose(strategy, pool, 30, tasks)
    may = allowed(pool, strategy, 30)
    assert len(picks.indices) == len(set(picks.indices.tolist())) == min(30, len(may))
    assert set(picks.indices.tolist()) <= set(may.tolist())
    assert picks.indices.tolist() == choose(strategy, pool, 30, tasks).indices.tolist()
    assert np.isfinite(picks.scores).all()


@pytest.mark.parametrize("strategy", CORESET_STRATEGIES)
def test_everything_is_chosen_when_there_is_room(strategy: str) -> None:
    assert sorted(choose(strategy, make_pool(), 500).indices.tolist()) == list(range(120))


@pytest.mark.parametrize("strategy", CORESET_STRATEGIES)
def test_a_sample_that_is_not_usable_is_never_chosen(strategy: str) -> None:
    usable = np.ones(120, dtype=bool)
    usable[[4, 7]] = False
    chosen = choose(strategy, replace(make_pool(), usable=usable), 500).indices.tolist()
    assert sorted(chosen) == sorted(set(range(120)) - {4, 7})


def test_a_pool_without_a_usable_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="every sample is not finite"):
        choose("loss_topk", replace(make_pool(), usable=np.zeros(120, dtype=bool)), 5)


@pytest.mark.parametrize("strategy", ["loss_topk", "diversity", "hybrid", "kcenter", "el2n", "ifd", "deita", "rds"])
def test_permuting_the_pool_permutes_the_choice(strategy: str) -> None:
    pool = make_pool(dedup="off", outlier_share=0.0)
    order = np.random.default_rng(1).permutation(120)
    index = torch.from_numpy(order)
    assert pool.points is not None
    assert pool.similarity is not None
    moved = Pool(
        size=120,
        options=pool.options,
        seed=pool.seed,
        figures={name: column[order] for name, column in pool.figures.items()},
        points=pool.points[index],
        similarity=pool.similarity[order],
        dev_tasks=pool.dev_tasks,
    )
    there = choose(strategy, pool, 20).indices
    assert order[choose(strategy, moved, 20).indices].tolist() == there.tolist()


def test_loss_topk_takes_the_highest_and_ties_by_input_order() -> None:
    pool = make_pool(5)
    pool.figures["loss"][:] = [1, 3, 2, 3, 0]
    assert choose("loss_topk", pool, 3).indices.tolist() == [1, 3, 2]


def test_hybrid_with_ratio_1_is_loss_topk_and_with_0_diversity() -> None:
    by_loss, by_cover = make_pool(loss_ratio=1.0), make_pool(loss_ratio=0.0)
    assert choose("hybrid", by_loss, 25).indices.tolist() == choose("loss_topk", by_loss, 25).indices.tolist()
    assert choose("hybrid", by_cover, 25).indices.tolist() == choose("diversity", by_cover, 25).indices.tolist()


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(1, 60))
def test_hybrid_takes_its_share_by_loss_and_the_rest_by_coverage_given_that(ratio: float, k: int) -> None:
    pool = make_pool(60, loss_ratio=ratio)
    num = int(ratio * k + 0.5)
    picks = choose("hybrid", pool, k)
    assert picks.indices[:num].tolist() == choose("loss_topk", pool, num).indices.tolist()
    assert len(set(picks.indices.tolist())) == k


def test_hybrid_adds_no_near_duplicate_of_what_it_took_by_loss() -> None:
    pool = make_pool(60, loss_ratio=0.5)
    assert pool.points is not None
    pool.figures["loss"][0] = 99
    pool.points[1] = pool.points[0]
    picks = choose("hybrid", pool, 10)
    assert 0 in picks.indices
    assert 1 not in picks.indices


def test_a_candidate_is_compared_with_everything_taken_by_loss() -> None:
    """Also with a sample that itself resembles another one taken by loss."""
    angles = torch.tensor([0.0, 15.0, 30.0, 120.0, 200.0]).deg2rad()
    points = torch.stack([angles.cos(), angles.sin()], 1)
    loss = np.array([3.0, 2.9, 0.1, 0.1, 0.1])
    options = CoresetConfig(loss_ratio=0.5)
    pool = Pool(size=5, options=options, figures={"loss": loss}, points=points, words=points)
    assert sorted(choose("hybrid", pool, 4).indices.tolist()) == [0, 1, 3, 4]


def test_repeats_fill_up_only_when_nothing_else_is_left() -> None:
    pool = make_pool(20)
    assert pool.points is not None
    pool.points[10:] = pool.points[:10]
    assert sorted(choose("diversity", pool, 10).indices.tolist()) == list(range(10))
    assert len(choose("diversity", pool, 15).indices) == 15
    repeats = Pool(size=20, options=CoresetConfig(dedup="pool"), figures=pool.figures, words=pool.points)
    assert len(choose("loss_topk", repeats, 15).indices) == 10


def test_pruning_leaves_out_the_highest_losses() -> None:
    pool = make_pool(100, prune_top=0.1)
    worst = set(np.argsort(-pool.figures["loss"])[:10].tolist())
    assert set(choose("loss_topk", pool, 5).indices.tolist()) == set(np.argsort(-pool.figures["loss"])[10:15].tolist())
    assert not worst & set(choose("random", pool, 90).indices.tolist())
    assert len(choose("loss_topk", pool, 97).indices) == 97, "pruned only as far as the target allows"
    by_score = make_pool(100, prune_top=0.1, score="el2n")
    hardest = set(np.argsort(-by_score.figures["el2n"])[:10].tolist())
    assert not hardest & set(choose("ccs", by_score, 90).indices.tolist()), "CCS prunes its own score"


def test_ifd_prefers_up_to_1_and_puts_the_rest_last() -> None:
    pool = make_pool(4)
    pool.figures["ifd"][:] = [1.5, 0.4, 0.9, 1.1]
    assert choose("ifd", pool, 4).indices.tolist() == [2, 1, 3, 0]


def test_ccs_draws_equally_from_the_bins_of_the_score() -> None:
    pool = make_pool(1000)
    pool.figures["loss"][:] = np.concatenate([np.linspace(0, 0.019, 900), np.linspace(0.5, 1, 100)])
    chosen = choose("ccs", pool, 100).indices
    assert (chosen < 900).sum() < 10, "nine in ten samples are in one of the bins"
    assert len(set(chosen.tolist())) == 100


def test_deita_takes_nothing_similar_to_what_it_took() -> None:
    pool = make_pool(120, similarity_limit=0.5)
    assert pool.points is not None
    best = np.argsort(-pool.figures["loss"])
    kept: list[int] = []
    for index in best:
        if all(float(pool.points[index] @ pool.points[other]) <= 0.5 for other in kept):
            kept.append(int(index))
    assert choose("deita", pool, 8).indices.tolist() == kept[:8]
    pool = make_pool(120, score="length")
    assert choose("deita", pool, 1).indices.tolist() == [int(pool.figures["length"].argmax())]


def test_targeted_choice_lets_tasks_and_their_samples_take_turns() -> None:
    pool = make_pool(40)
    assert pool.similarity is not None
    near = pool.similarity
    picks = choose("rds", pool, 4)
    assert picks.indices[0] == near[:, 0].argmax(), "task a, its first sample"
    assert picks.indices[1] == near[:, 1].argmax(), "task b, its first"
    assert picks.indices[2] == near[:, 5].argmax(), "task c, its only one"
    assert picks.indices[3] in np.argsort(-near[:, 2])[:4], "task a again, its second"


def test_s2l_draws_equally_from_trajectories() -> None:
    pool = make_pool(200)
    shapes = torch.tensor([[9.0, 1, 1, 1], [9.0, 9, 9, 9]])
    noise = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
    trajectories = shapes[[0] * 180 + [1] * 20] + 0.001 * noise
    pool = Pool(size=200, options=pool.options, trajectories=trajectories)
    chosen = choose("s2l", pool, 40).indices
    assert len(chosen) == 40
    few = (chosen >= 180).sum()
    assert few > 5, "a tenth of the pool, and more than a tenth of the choice"


def test_stratifying_keeps_the_proportions_of_tasks() -> None:
    tasks = ["a"] * 60 + ["b"] * 40 + ["c"] * 20
    picks = choose("loss_topk", make_pool(stratify=True), 12, tasks)
    assert Counter(tasks[index] for index in picks.indices) == {"a": 6, "b": 4, "c": 2}


def test_hybrid_keeps_its_ratio_over_many_small_tasks() -> None:
    tasks = [f"task {index % 12}" for index in range(120)]
    for ratio in (0.4, 0.6):
        pool = make_pool(stratify=True, loss_ratio=ratio, dedup="off")
        picks = choose("hybrid", pool, 12, tasks)
        hardest = {max(range(task, 120, 12), key=lambda index: pool.figures["loss"][index]) for task in range(12)}
        losses = pool.figures["loss"][picks.indices]
        assert np.isclose(picks.scores, losses).sum() == round(12 * ratio)
        assert {int(i) for i in picks.indices[np.isclose(picks.scores, losses)]} <= hardest


def test_random_draws_each_task_anew() -> None:
    tasks = ["a"] * 60 + ["b"] * 60
    chosen = choose("random", make_pool(stratify=True), 20, tasks).indices
    assert set(chosen[chosen < 60].tolist()) != {index - 60 for index in chosen[chosen >= 60].tolist()}


def test_length_bins_give_each_quantile_the_same_share() -> None:
    pool = make_pool(100, length_bins=4)
    pool.figures["loss"] = pool.figures["length"].copy()  # loss alone would take the longest only
    ranks = np.argsort(np.argsort(pool.figures["length"]))
    assert Counter((ranks[choose("loss_topk", pool, 20).indices] // 25).tolist()) == {0: 5, 1: 5, 2: 5, 3: 5}


def test_random_is_uniform() -> None:
    counts = np.zeros(30)
    for seed in range(3000):
        pool = Pool(size=30, options=CoresetConfig(), seed=seed)
        counts[choose("random", pool, 6).indices] += 1
    share = 6 / 30
    statistic = (29 / 30) * ((counts - 3000 * share) ** 2 / (3000 * share * (1 - share))).sum()
    assert statistic < 65, "chi-square with 29 degrees of freedom exceeds 65 with p < 1e-4"


def test_a_strategy_asks_for_what_it_uses_and_no_more() -> None:
    assert needs("random", CoresetConfig()) == set()
    assert needs("loss_topk", CoresetConfig()) == {"loss"}
    assert needs("diversity", CoresetConfig(dedup="off")) == {"points"}
    assert needs("hybrid", CoresetConfig(length_bins=3)) == {"loss", "points", "words", "length"}
    assert needs("deita", CoresetConfig(score="el2n", prune_top=0.1)) == {"el2n", "points", "loss"}
    assert needs("ccs", CoresetConfig(score="el2n", prune_top=0.1)) == {"el2n"}
