"""A budget of supervised tokens: what is supervised in training comes near it, whatever a method adds to a step."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sagetune.config import BudgetConfig, DataConfig, RunConfig
from sagetune.config.continual import ContinualConfig
from sagetune.trainer import AgentSFTTrainer

CAP = 2_000
METHODS = {
    "baseline": {},
    "coreset": {"use_coreset_selection": True, "coreset_strategy": "length", "coreset_target_size": 40},
    "replay": {"use_online_continual": True, "continual_replay_ratio": 0.5},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_method_and_seed_supervises_as_many_tokens(
    make_run: Callable[..., RunConfig], method: str, seed: int
) -> None:
    """To the nearest step, which has at most four of the longest samples; replayed rows, drawn later, near it."""
    budget = BudgetConfig(train_samples=160, supervised_tokens=CAP)
    run = make_run(budget=budget, batch_size=4, gradient_accumulation_steps=1, num_epochs=9, **METHODS[method])
    run.seed = seed
    trainer = AgentSFTTrainer(run)
    result = trainer.train()
    longest = max(len([label for label in sample.labels if label >= 0]) for sample in trainer.data.pool().encoded)
    drawn = CAP / 10 if method == "replay" else 0
    assert abs(result.supervised_tokens - CAP) <= 4 * longest / 2 + drawn


def test_a_stream_shares_the_tokens_among_its_tasks(make_run: Callable[..., RunConfig]) -> None:
    budget = BudgetConfig(train_samples=80, supervised_tokens=1_000)
    run = make_run(budget=budget, data=DataConfig(stream="sequential"), batch_size=2, gradient_accumulation_steps=1)
    run.continual = ContinualConfig(tasks=["tool_selection", "general"])
    result = AgentSFTTrainer(run).train()
    assert abs(result.supervised_tokens - 1_000) <= 300


def test_of_steps_and_tokens_what_comes_first_ends_the_run(make_run: Callable[..., RunConfig]) -> None:
    budget = BudgetConfig(train_samples=40, supervised_tokens=100_000, max_steps=2)
    assert AgentSFTTrainer(make_run(budget=budget, num_epochs=9)).train().steps == 2
