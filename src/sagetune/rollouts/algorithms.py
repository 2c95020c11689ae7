"""What PPO and GRPO do with the rollouts of an update: advantages once, then the losses of each optimiser step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sagetune.config import RunConfig
from sagetune.config.rl import RLTrainingConfig
from sagetune.objectives.grpo import group_advantages, grpo_losses, normalised
from sagetune.objectives.kl import KLController, kl_estimate
from sagetune.objectives.ppo import (
    advantages_and_returns,
    masked_mean,
    policy_losses,
    value_losses,
    whiten,
)
from sagetune.rollouts.experience import Experience, Part, drawn_logps
from sagetune.rollouts.roles import POLICY, VALUE, Roles

NORMALISED_BY = {"grpo": "sequence", "dapo": "token", "dr_grpo": "constant"}
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the optimiser steps of an update learn."""

    experience: Experience
    advantages: Tensor
    """(N, A)."""
    returns: Tensor
    """What values are trained on, (N, A); 0 without a value model."""
    figures: Figures
    """Of the rollouts, under TRL's names."""


class Algorithm(Protocol):
    """PPO or GRPO."""

    epochs: int
    """Passes over the rollouts of an update."""
    has_value: bool

    def lesson(self, experience: Experience) -> Lesson: ...

    def backward(self, roles: Roles, lesson: Lesson, part: Part, step_mask: Tensor) -> dict[str, Tensor]:
        """Add the part's share of the step's gradient; returns sums over the part, of which `step_figures` makes means.

        step_mask: the mask of all rollouts of the optimiser step, bool (n, A).
        """

    def step_figures(self, sums: Figures) -> Figures:
        """TRL's figures of an optimiser step, and `train/loss`."""

    def update_figures(self, steps: Sequence[Figures]) -> Figures:
        """Those of the optimiser steps of an update together."""

    def is_uniform(self, experience: Experience) -> bool:
        """Whether the rewards do not differ where differences are learnt from."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def algorithm_of(run: RunConfig, rl: RLTrainingConfig) -> Algorithm:
    return PPO(run, rl) if rl.algorithm == "ppo" else GRPO(run, rl)


class PPO:
    """Clipped policy and value losses with generalised advantages (arXiv:1707.06347, arXiv:1506.02438).

    A token earns -coefficient * KL, the last one of a rollout its reward on top.
    """

    has_value = True

    def __init__(self, run: RunConfig, rl: RLTrainingConfig) -> None:
        self._config, self._rollout, self._gamma = run.ppo, run.rollout, rl.gamma
        self.epochs = run.ppo.epochs
        self.kl = KLController(
            coefficient=rl.kl_coef, target=run.ppo.adaptive_kl_target, horizon=run.ppo.adaptive_kl_horizon
        )
        self._episodes = 0

    def lesson(self, experience: Experience) -> Lesson:
        mask, config = experience.mask, self._config
        kl = kl_estimate(experience.logps, experience.reference, config.kl_estimator) * mask
        penalties = -self.kl.coefficient * kl
        rewards = penalties.clone()
        last = mask.sum(1) - 1
        rewards[torch.arange(len(rewards)), last] += experience.scores
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        raw, returns = advantages_and_returns(rewards, experience.values, mask, gamma=self._gamma, lam=config.lam)
        self._episodes += len(rewards)
        mean_kl, non_score = kl.sum(1).mean().item(), penalties.sum(1).mean().item()
        figures = {
            "objective/kl": mean_kl,
            "objective/kl_coef": self.kl.coefficient,
            "objective/entropy": (-experience.logps * mask).sum(1).mean().item(),
            "objective/non_score_reward": non_score,
            "objective/scores": experience.scores.mean().item(),
            "objective/rlhf_reward": non_score + experience.scores.mean().item(),
            "val/num_eos_tokens": float(sum(not rollout.cut_off for rollout in experience.rollouts)),
            "episode": float(self._episodes),
        }
        self.kl.update(mean_kl, len(rewards))
        return Lesson(experience, whiten(raw, mask), returns, figures)

    def backward(self, roles: Roles, lesson: Lesson, part: Part, step_mask: Tensor) -> dict[str, Tensor]:
        config, seen, mask = self._config, lesson.experience, part.mask
        old = seen.logps[part.places]
        count = step_mask.sum()
        with roles.acting(POLICY) as model:
            flat, entropy = drawn_logps(model, part.batch, self._rollout.temperature)
            logps, clip = part.dense(flat), config.clip_range
            policy = policy_losses(logps, old, lesson.advantages[part.places], mask, clip_low=clip, clip_high=clip)
            (policy.losses.sum() / count).backward()
        with roles.acting(VALUE):
            values = part.dense(roles.values(part.batch))
            value = value_losses(
                values, seen.values[part.places], lesson.returns[part.places], mask, clip=config.clip_range_value
            )
            (config.vf_coef * value.losses.sum() / count).backward()
        return {
            **_moves(logps.detach(), old, mask),
            "policy": policy.losses.detach().sum(),
            "value": value.losses.detach().sum(),
            "clipped": policy.clipped.sum(),
            "value_clipped": value.clipped.sum(),
            "entropy": entropy.sum(),
        }

    def step_figures(self, sums: Figures) -> Figures:
        mean = {name: value / sums["tokens"] for name, value in sums.items()}
        return {
            "train/loss": mean["policy"] + self._config.vf_coef * mean["value"],
            "loss/policy_avg": mean["policy"],
            "loss/value_avg": mean["value"],
            "policy/approxkl_avg": mean["approx_kl"],
            "policy/clipfrac_avg": mean["clipped"],
            "policy/entropy_avg": mean["entropy"],
            "val/clipfrac_avg": mean["value_clipped"],
            "val/ratio": mean["ratio"],
        }

    def update_figures(self, steps: Sequence[Figures]) -> Figures:
        found = means(steps)
        spread = [(step["val/ratio"] - found["val/ratio"]) ** 2 for step in steps]
        return found | {"val/ratio_var": sum(spread) / max(len(steps) - 1, 1)}

    def is_uniform(self, experience: Experience) -> bool:
        return bool((experience.scores == experience.scores[0]).all())

    def state_dict(self) -> dict[str, Any]:
        return {"kl": self.kl.state_dict(), "episodes": self._episodes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kl.load_state_dict(state["kl"])
        self._episodes = state["episodes"]


class GRPO:
    """The clipped surrogate with rewards compared inside a task's group, and a KL term (arXiv:2402.03300)."""

    has_value = False

    def __init__(self, run: RunConfig, rl: RLTrainingConfig) -> None:
        self._config, self._rollout, self._kl_coef = run.grpo, run.rollout, rl.kl_coef
        self.epochs = run.grpo.num_iterations
        self._by = NORMALISED_BY[run.grpo.loss_type]
        self._most = run.rollout.max_new_tokens * run.rollout.max_turns

    def lesson(self, experience: Experience) -> Lesson:
        mask, groups = experience.mask, self._groups(experience)
        advantages = group_advantages(groups, self._config.scale_rewards).view(-1, 1) * mask
        kl = kl_estimate(experience.logps, experience.reference, "k3")
        figures = {
            "reward": groups.mean().item(),
            "reward_std": groups.std(1).mean().item(),
            "frac_reward_zero_std": (groups == groups[:, :1]).all(1).float().mean().item(),  # a std may round to 1e-8
            "kl": masked_mean(kl, mask).item(),
            "entropy": masked_mean(experience.entropy, mask).item(),
        }
        return Lesson(experience, advantages, torch.zeros_like(advantages), figures)

    def backward(self, roles: Roles, lesson: Lesson, part: Part, step_mask: Tensor) -> dict[str, Tensor]:
        config, seen, mask = self._config, lesson.experience, part.mask
        old, advantages = seen.logps[part.places], lesson.advantages[part.places]
        with roles.acting(POLICY) as model:
            flat, _ = drawn_logps(model, part.batch, self._rollout.temperature)
            logps = part.dense(flat)
            found = grpo_losses(
                logps,
                old,
                advantages[:, 0],
                mask,
                clip_low=config.epsilon,
                clip_high=config.clip_high,
                level=config.importance_sampling_level,
                reference=seen.reference[part.places],
                kl_coef=self._kl_coef,
            )
            loss, _ = normalised(found.losses, mask, self._by, self._most)
            _, count = normalised(torch.zeros_like(step_mask, dtype=loss.dtype), step_mask, self._by, self._most)
            (loss / count).backward()
        return {
            **_moves(logps.detach(), old, mask),
            "loss": loss.detach() / count,
            "low": (found.clipped & (advantages < 0)).sum(),
            "high": (found.clipped & (advantages > 0)).sum(),
        }

    def step_figures(self, sums: Figures) -> Figures:
        mean = {name: value / sums["tokens"] for name, value in sums.items()}
        return {
            "train/loss": sums["loss"],
            "policy/approxkl_avg": mean["approx_kl"],
            "clip_ratio/low_mean": mean["low"],
            "clip_ratio/high_mean": mean["high"],
            "clip_ratio/region_mean": mean["low"] + mean["high"],
        }

    def update_figures(self, steps: Sequence[Figures]) -> Figures:
        return means(steps)

    def is_uniform(self, experience: Experience) -> bool:
        groups = self._groups(experience)
        return bool((groups == groups[:, :1]).all())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is none."""

    def _groups(self, experience: Experience) -> Tensor:
        return experience.scores.view(-1, self._rollout.samples)


def means(rows: Sequence[Figures]) -> Figures:
    """The mean of each figure."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _moves(logps: Tensor, old: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """How far the policy has gone from the one that drew, summed over tokens."""
    change = (logps - old) * mask
    return {"tokens": mask.sum(), "approx_kl": 0.5 * change.square().sum(), "ratio": (change.exp() * mask).sum()}
