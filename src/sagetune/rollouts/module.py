"""The training step of PPO and GRPO: tasks -> rollouts -> advantages -> epochs of exact optimiser steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from sagetune.config import RunConfig
from sagetune.modules.stepping import finish_gradients, open_step, optimizer_and_schedule, refuse, reopen_step
from sagetune.objectives.kl import kl_estimate
from sagetune.objectives.ppo import masked_mean
from sagetune.rollouts.algorithms import Algorithm, Figures, Lesson
from sagetune.rollouts.experience import Experience, look_back
from sagetune.rollouts.guards import Guards
from sagetune.rollouts.record import RolloutFile
from sagetune.rollouts.rewards import Reward
from sagetune.rollouts.roles import POLICY, Roles
from sagetune.rollouts.rollout import Rollout

Act = Callable[[Sequence[int], int], list[Rollout]]
"""(places of tasks, update) -> the rollouts of the policy as it is, those of one task together."""


class RolloutModule(lightning.LightningModule):
    """A policy that learns from the rewards of what it does. A batch is an update: the places of its tasks.

    An optimiser step takes sft.batch_size * sft.gradient_accumulation_steps rollouts, sft.batch_size a forward pass,
    and its gradient is that of the mean over all of them, however they are cut. The model stays in evaluation mode:
    dropout would make the policy that learns another one than the policy that acted.
    """

    def __init__(
        self,
        roles: Roles,
        run: RunConfig,
        algorithm: Algorithm,
        *,
        act: Act,
        reward: Reward,
        guards: Guards,
        record: RolloutFile,
        total_steps: int,
        pad_token_id: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.roles = roles
        self.run_config = run
        self.algorithm = algorithm
        self.total_steps = total_steps
        self._act, self._reward, self._guards, self._record = act, reward, guards, record
        self._pad = pad_token_id
        self.updates = 0
        """Updates that are done."""
        self.last_step: Figures = {}
        """Figures of the last update."""
        self.tokens_seen = 0
        self.supervised_seen = 0
        self.paused_seconds = 0.0
        self.strict_loading = False  # a checkpoint holds what is trained, not the base model
        self._restored: dict[str, Any] | None = None

    def on_train_start(self) -> None:
        self.roles.model.eval()
        self._record.rewind(self._restored["updates"] if self._restored is not None else 0)

    def training_step(self, batch: list[int], batch_index: int) -> None:
        started = time.perf_counter()
        experience = self._look_back(self._act(batch, self.updates))
        acted = time.perf_counter() - started
        lesson = self.algorithm.lesson(experience)
        self._record.write(self.updates + 1, lesson)
        self._guard(experience)
        steps = list(self._steps(lesson))
        self.updates += 1
        self.last_step = {
            **self.algorithm.update_figures(steps),
            **lesson.figures,
            **rollout_figures(experience, self._reward.name),
            "rollout/seconds": acted,
            "update": self.updates,
        }

    def _look_back(self, rollouts: list[Rollout]) -> Experience:
        """The rollouts with their rewards. Raises NonFiniteError naming the tasks where a probability is not finite."""
        config = self.run_config.rollout
        rewards = self._reward(rollouts)
        experience = look_back(
            self.roles,
            rollouts,
            [r - config.missing_eos_penalty * one.cut_off for r, one in zip(rewards, rollouts, strict=True)],
            temperature=config.temperature,
            batch_size=self.run_config.sft.batch_size,
            pad_token_id=self._pad,
        )
        known = experience.logps + experience.reference + experience.values
        self._check("log-probability or value of a drawn token", known.sum(1), range(len(rollouts)), experience)
        return experience

    def _guard(self, experience: Experience) -> None:
        kl = kl_estimate(experience.logps, experience.reference, "k3")
        self._guards.look(
            self.updates + 1,
            kl=masked_mean(kl, experience.mask).item(),
            entropy=masked_mean(experience.entropy, experience.mask).item(),
            uniform=self.algorithm.is_uniform(experience),
            reward=experience.scores.mean().item(),
        )

    def _steps(self, lesson: Lesson) -> Iterator[Figures]:
        """Take the optimiser steps of an update, and give each one's figures."""
        sft, limit = self.run_config.sft, self.run_config.rollout.early_stop_kl
        num, size = len(lesson.experience.rollouts), sft.batch_size * sft.gradient_accumulation_steps
        for epoch in range(self.algorithm.epochs):
            order = np.random.default_rng([self.run_config.seed, self.updates, epoch]).permutation(num).tolist()
            for start in range(0, num, size):
                if self.global_step == self.total_steps:
                    return
                places = order[start : start + size]
                sums = self._gradient(lesson, places)
                if limit is not None and (epoch or start) and sums["approx_kl"] / sums["tokens"] > limit:
                    return
                yield self.algorithm.step_figures(sums) | self._step(lesson, places)

    def _gradient(self, lesson: Lesson, places: list[int]) -> Figures:
        """Put the gradient of a step on rollouts `places` where the optimiser looks for it; returns sums over them."""
        self.zero_grad(set_to_none=True)
        mask, sums = lesson.experience.mask[places], Sums()
        for part in lesson.experience.parts(places, self.run_config.sft.batch_size, self._pad):
            sums.add(self.algorithm.backward(self.roles, lesson, part, mask))
            self.tokens_seen += int(part.batch["attention_mask"].sum())
            self.supervised_seen += int(part.mask.sum())
        return sums.found

    def _step(self, lesson: Lesson, places: list[int]) -> Figures:
        """Check and clip the gradients, of each role alone, and step; returns their norms and the learning rate."""
        optimizer: Any = self.optimizers()
        found = {"train/lr": optimizer.param_groups[0]["lr"]}
        for role, parameters in self.roles.trained.items():
            norm = finish_gradients(parameters, 1.0, self.run_config.optim.max_grad_norm)
            self._check("gradient norm", norm.expand(len(places)), places, lesson.experience)
            found["train/grad_norm" if role == POLICY else f"train/{role}_grad_norm"] = norm.item()
        optimizer.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        return found

    def _check(self, what: str, found: Tensor, places: Sequence[int], experience: Experience) -> None:
        finite = torch.isfinite(found).tolist()
        bad = [experience.rollouts[place] for place, one in zip(places, finite, strict=True) if not one]
        if bad:
            refuse(what, self.global_step + 1, dict.fromkeys(rollout.trajectory.task_id for rollout in bad))

    def configure_optimizers(self) -> dict[str, Any]:
        return optimizer_and_schedule(self.roles, self.run_config, [self.total_steps])

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {f"roles.{name}": p for trained in self.roles.trained.values() for name, p in trained.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = self.trained_parameters()
        checkpoint["state_dict"] = {name: p.detach() for name, p in trained.items()}
        checkpoint["sagetune"] = {
            **open_step(trained, {}, begun=False),
            "tokens_seen": self.tokens_seen,
            "supervised_seen": self.supervised_seen,
            "updates": self.updates,
            "algorithm": self.algorithm.state_dict(),
            "guards": self._guards.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint["sagetune"]

    def on_train_batch_start(self, batch: list[int], batch_index: int) -> None:
        """Restore as late as this: anything between loading and the first batch may draw random numbers."""
        if self._restored is None:
            return
        restored, self._restored = self._restored, None
        self.tokens_seen, self.supervised_seen = restored["tokens_seen"], restored["supervised_seen"]
        self.updates = restored["updates"]
        self.algorithm.load_state_dict(restored["algorithm"])
        self._guards.load_state_dict(restored["guards"])
        reopen_step(restored, self.trained_parameters(), {})


class Sums:
    """Adds up figures over the parts of a step."""

    def __init__(self) -> None:
        self.found: Figures = {}

    def add(self, figures: dict[str, Tensor]) -> None:
        for name, value in figures.items():
            self.found[name] = self.found.get(name, 0.0) + value.item()


def rollout_figures(experience: Experience, reward: str) -> Figures:
    """What the policy did: lengths in drawn tokens, and shares."""
    rollouts = experience.rollouts
    lengths = experience.mask.sum(1)
    num = len(rollouts)
    return {
        "completions/mean_length": lengths.float().mean().item(),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": sum(one.cut_off for one in rollouts) / num,
        f"rewards/{reward}/mean": experience.scores.mean().item(),
        f"rewards/{reward}/std": experience.scores.std().item(),
        "rollout/success": sum(one.trajectory.success for one in rollouts) / num,
        "rollout/unreadable": sum(one.unread is not None for one in rollouts) / num,
        "rollout/turns": sum(len(one.turns) for one in rollouts) / num,
    }
