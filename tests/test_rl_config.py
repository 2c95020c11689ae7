"""What training beyond imitation can be told: the reference's fields to the letter, and every mistake by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException

from sage.libs.finetune.agent import RLTrainingConfig
from sagetune.commands.entry import suggest, to_dataclass
from sagetune.config import (
    CONF_DIR,
    AdapterConfig,
    BudgetConfig,
    DataConfig,
    DPOConfig,
    GRPOConfig,
    GuardConfig,
    PPOConfig,
    RolloutConfig,
    RunConfig,
)


def test_rl_training_config_is_the_references() -> None:
    fields = {field.name: (field.type, field.default) for field in dataclasses.fields(RLTrainingConfig)}
    assert list(fields.items()) == [
        ("algorithm", ("str", "ppo")),
        ("reward_model", ("str | None", None)),
        ("kl_coef", ("float", 0.1)),
        ("gamma", ("float", 0.99)),
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"algorithm": "a2c"}, "rl.algorithm must be one of ppo, dpo, grpo, got 'a2c'"),
        ({"kl_coef": -0.1}, "rl.kl_coef must be at least 0, got -0.1"),
        ({"gamma": 1.5}, "rl.gamma must be in [0, 1], got 1.5"),
        ({"algorithm": "dpo", "kl_coef": 0.0}, "rl.kl_coef must be above 0"),
        ({"algorithm": "dpo", "reward_model": "rm"}, "rl.reward_model must be null"),
    ],
)
def test_a_mistake_is_told_by_field(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=r"^rl\.") as error:
        RLTrainingConfig(**given)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"loss": "kto"}, "dpo.loss must be one of sigmoid, hinge, ipo, robust, got 'kto'"),
        ({"reference": "copy"}, "dpo.reference must be one of precomputed, adapter"),
        ({"label_smoothing": 0.5}, "dpo.label_smoothing must be in [0, 0.5), got 0.5"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "0 while dpo.loss is ipo"),
    ],
)
def test_a_mistake_of_dpo_is_told_by_field(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=r"^dpo\.") as error:
        DPOConfig(**given)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"adapter": AdapterConfig(dropout=0.1)}, "adapter.dropout must be 0 while rl is set"),
        ({"data": DataConfig(stream="sequential")}, "data.stream must be shuffled while rl is set"),
        (
            {"adapter": AdapterConfig(start_from="a"), "dpo": DPOConfig(reference="adapter")},
            "dpo.reference must be precomputed",
        ),
    ],
)
def test_what_dpo_cannot_be_combined_with_is_refused(
    make_run: Callable[..., RunConfig], change: dict[str, Any], told: str
) -> None:
    run = dataclasses.replace(make_run(), rl=RLTrainingConfig(algorithm="dpo"))
    with pytest.raises(ValueError, match="must be") as error:
        dataclasses.replace(run, **change)
    assert told in str(error.value)


def composed(*overrides: str) -> RunConfig:
    ConfigStore.instance().store(name="run_config", node=RunConfig)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return to_dataclass(compose("train", overrides=["model=tiny", *overrides]), RunConfig)


def test_a_field_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed("objective=dpo", "rl.kl_coeff=0.3")
    told = suggest(error.value, RunConfig)
    assert "Did you mean 'kl_coef'?" in told
    assert "Allowed fields: algorithm, reward_model, kl_coef, gamma" in told


def test_the_objective_is_a_group_of_the_command_line() -> None:
    assert composed().rl is None
    run = composed("objective=dpo", "rl.kl_coef=0.3", "dpo.loss=ipo")
    assert run.rl == RLTrainingConfig(algorithm="dpo", kl_coef=0.3)
    assert run.dpo.loss == "ipo"
    assert run.method.label == "A_baseline+dpo"


@pytest.mark.parametrize(
    ("group", "given", "told"),
    [
        (RolloutConfig, {"temperature": 0.0}, "rollout.temperature must be above 0"),
        (RolloutConfig, {"samples": 0, "max_turns": 0}, "rollout.samples must be at least 1, got 0"),
        (RolloutConfig, {"early_stop_kl": 0.0}, "rollout.early_stop_kl must be null or above 0"),
        (PPOConfig, {"clip_range": 1.0}, "ppo.clip_range must be in (0, 1), got 1.0"),
        (PPOConfig, {"kl_estimator": "k2"}, "ppo.kl_estimator must be one of k1, k3"),
        (PPOConfig, {"adaptive_kl_target": 0.0}, "ppo.adaptive_kl_target must be null or above 0"),
        (GRPOConfig, {"epsilon_high": -1.0}, "grpo.epsilon_high must be null or above 0"),
        (GRPOConfig, {"loss_type": "bnpo"}, "grpo.loss_type must be one of grpo, dapo, dr_grpo"),
        (GRPOConfig, {"scale_rewards": "x"}, "grpo.scale_rewards must be one of group, batch, none"),
        (GuardConfig, {"action": "ignore"}, "guard.action must be one of warn, stop"),
        (GuardConfig, {"max_kl": 0.0}, "guard.max_kl must be null or above 0"),
    ],
)
def test_a_mistake_of_rollouts_is_told_by_field(group: type, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        group(**given)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("algorithm", "change", "told"),
    [
        ("ppo", {"sft": {"use_lora": False}}, "sft.use_lora must be true for ppo"),
        ("grpo", {"rollout": RolloutConfig(samples=1)}, "rollout.samples must be 2 or more for grpo"),
        ("ppo", {"rollout": RolloutConfig(samples=1, tasks=1)}, "rollout.samples must be 2 or more for ppo"),
        (
            "ppo",
            {"ppo": PPOConfig(adaptive_kl_target=1.0, adaptive_kl_horizon=31)},
            "ppo.adaptive_kl_horizon must be at least the 32 rollouts of an update",
        ),
        (
            "ppo",
            {"ppo": PPOConfig(adaptive_kl_target=1.0), "rl": RLTrainingConfig(kl_coef=0.0)},
            "rl.kl_coef must be above 0 while ppo.adaptive_kl_target is set",
        ),
        ("ppo", {"rollout": RolloutConfig(max_new_tokens=2048)}, "rollout.max_new_tokens must be below"),
        ("grpo", {"budget": BudgetConfig(learning_rates=[0.1, 0.2])}, "budget.learning_rates must be [] for grpo"),
        ("grpo", {"adapter": AdapterConfig(dropout=0.1)}, "adapter.dropout must be 0 while rl is set"),
    ],
)
def test_what_rollouts_cannot_be_combined_with_is_refused(
    make_run: Callable[..., RunConfig], algorithm: str, change: dict[str, Any], told: str
) -> None:
    run = dataclasses.replace(make_run(), rl=RLTrainingConfig(algorithm=algorithm))
    if "sft" in change:
        change = {"sft": dataclasses.replace(run.sft, **change["sft"])}
    with pytest.raises(ValueError, match="must be") as error:
        dataclasses.replace(run, **change)
    assert told in str(error.value)


def test_ppo_and_grpo_are_options_of_the_objective() -> None:
    run = composed("objective=ppo", "ppo.epochs=2", "rollout.tasks=3")
    assert (run.rl, run.ppo.epochs, run.rollout.tasks) == (RLTrainingConfig(), 2, 3)
    run = composed("objective=grpo", "grpo.epsilon_high=0.28")
    assert run.rl == RLTrainingConfig(algorithm="grpo", kl_coef=0.04)
    assert (run.grpo.clip_high, run.method.label) == (0.28, "A_baseline+grpo")
