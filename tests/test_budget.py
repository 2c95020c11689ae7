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
def test_every_method_supervises_as_many_tokens(make_run: Callable[..., RunConfig], method: str) -> None:
    """Sample lengths differ, so a few steps are only near the mean: within a step and a tenth of the budget."""
    budget = BudgetConfig(train_samples=160, supervised_tokens=CAP)
    run = make_run(budget=budget, batch_size=4, gradient_accumulation_steps=1, num_epochs=9, **METHODS[method])
    result = AgentSFTTrainer(run).train()
    assert abs(result.supervised_tokens - CAP) <= result.supervised_tokens / result.steps + CAP / 10


def test_a_stream_shares_the_tokens_among_its_tasks(make_run: Callable[..., RunConfig]) -> None:
    budget = BudgetConfig(train_samples=80, supervised_tokens=1_000)
    run = make_run(budget=budget, data=DataConfig(stream="sequential"), batch_size=2, gradient_accumulation_steps=1)
    run.continual = ContinualConfig(tasks=["tool_selection", "general"])
    result = AgentSFTTrainer(run).train()
    assert abs(result.supervised_tokens - 1_000) <= 300


def test_of_steps_and_tokens_what_comes_first_ends_the_run(make_run: Callable[..., RunConfig]) -> None:
    budget = BudgetConfig(train_samples=40, supervised_tokens=100_000, max_steps=2)
    assert AgentSFTTrainer(make_run(budget=budget, num_epochs=9)).train().steps == 2
