"""A whole update of PPO, from the rollouts to the weights, is TRL 1.12.0's (tests/oracles/make_rl_vectors.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from peft import get_peft_model
from torch import Tensor

from rl_model import base_model, lora, short_name
from rollout_runs import rollout_run
from sagetune.attention import SEGMENT
from sagetune.config import GuardConfig, OptimConfig, PPOConfig, RLTrainingConfig, RolloutConfig
from sagetune.rollouts.algorithms import PPO
from sagetune.rollouts.guards import Guards
from sagetune.rollouts.module import RolloutModule
from sagetune.rollouts.record import RolloutFile
from sagetune.rollouts.rewards import Reward
from sagetune.rollouts.roles import POLICY, VALUE, Roles
from sagetune.rollouts.rollout import Rollout
from sagetune.rollouts.updates import UpdateLoader
from sagetune.trajectories.local import Drawn
from sagetune.trajectories.record import AgentTrajectory

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "ppo_update_vectors.json").read_text())
ROLES = {"policy": POLICY, "value": VALUE}


def trl_roles() -> Roles:
    """The two adapters and the head as TRL's models had them before the update."""
    model = base_model()
    model.set_attn_implementation(SEGMENT)
    roles = Roles(get_peft_model(model, lora()).eval(), start=None, has_value=True, seed=0)
    with torch.no_grad():
        for name, role in ROLES.items():
            for own, parameter in roles.trained[role].items():
                parameter.copy_(torch.tensor(VECTORS["before"][name][key(own)]).view_as(parameter))
    return roles


def key(name: str) -> str:
    return "score.weight" if name == "head.weight" else short_name(name)


def trl_rollouts(places: Any, update: int) -> list[Rollout]:
    pairs = zip(VECTORS["queries"], VECTORS["responses"], strict=True)
    return [
        Rollout(AgentTrajectory(f"t{place}", "", []), [Drawn(query, response)], [""], cut_off=False)
        for place, (query, response) in enumerate(pairs)
    ]


@pytest.fixture
def updated(tmp_path: Path, one_thread: None) -> RolloutModule:
    run = rollout_run(
        "embedded:tiny",
        "agent_sft:train",
        tmp_path,
        "ppo",
        rl=RLTrainingConfig(kl_coef=VECTORS["kl_coef"], gamma=VECTORS["gamma"]),
        ppo=PPOConfig(epochs=2, lam=VECTORS["lam"]),
        rollout=RolloutConfig(tasks=4, samples=1),
        optim=OptimConfig(max_grad_norm=0, lr_schedule="constant", warmup_ratio=0),
        learning_rate=1e-3,
        batch_size=3,  # two forward passes a step
        gradient_accumulation_steps=2,
    )
    assert run.rl is not None
    scores = iter(VECTORS["scores"])
    module = RolloutModule(
        trl_roles(),
        run,
        PPO(run, run.rl),
        act=trl_rollouts,
        reward=Reward("score", lambda _: next(scores), judges_all=True),
        guards=Guards(GuardConfig(max_kl=None), print),
        record=RolloutFile(tmp_path / "rollouts.jsonl"),
        total_steps=2,
        pad_token_id=0,
    )
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    lightning.Trainer(accelerator="cpu", max_epochs=1, logger=False, **quiet).fit(module, UpdateLoader(4, 4, 0))  # type: ignore[arg-type]
    return module


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, list[float]]) -> float:
    assert {key(name) for name in ours} == theirs.keys()
    return max((p.detach().flatten() - torch.tensor(theirs[key(name)])).abs().max().item() for name, p in ours.items())


def test_two_epochs_end_with_trls_weights_and_metrics(updated: RolloutModule) -> None:
    for name, role in ROLES.items():
        trained: Any = updated.roles.trained[role]
        assert largest_difference(trained, VECTORS["after"][name]) < 1e-6
        assert largest_difference(trained, VECTORS["before"][name]) > 1e-3, "they moved"
    ours = {name: updated.last_step[name] for name in VECTORS["metrics"]}
    assert ours == pytest.approx(VECTORS["metrics"], abs=2e-6, rel=1e-5)
