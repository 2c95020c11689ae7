"""Training on rewards: tasks -> rollouts of the policy -> PPO's or GRPO's updates."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from torch import nn

from sagetune import sources
from sagetune.config import RLTrainingConfig
from sagetune.evaluation.scoring.intervals import Rate, wilson
from sagetune.fitting import Place, fit_module
from sagetune.rollouts.acting import act, check_fit, task_of
from sagetune.rollouts.algorithms import algorithm_of
from sagetune.rollouts.guards import Guards
from sagetune.rollouts.module import RolloutModule
from sagetune.rollouts.record import RolloutFile
from sagetune.rollouts.rewards import Reward, RewardFunction, reward_of
from sagetune.rollouts.roles import Roles
from sagetune.rollouts.rollout import Rollout
from sagetune.rollouts.updates import UpdateLoader
from sagetune.sample import Sample
from sagetune.trainer import AgentSFTTrainer


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """Figures of a model that acts on held-out tasks, once each, by its likeliest tokens."""

    reward: float
    """Mean reward of an attempt."""
    success: Rate
    """Share of the tasks that their checker passes; 0 where a task has none."""
    unreadable: Rate
    """Share of the attempts that ended with a reply that could not be read."""
    num_attempts: int
    num_tokens: float
    """Mean length of what was written, in tokens."""


class RolloutTraining:
    """What AgentRLTrainer does with rl.algorithm=ppo or grpo. sft: holds the model, the tokenizer and the data."""

    def __init__(self, sft: AgentSFTTrainer, rl: RLTrainingConfig, reward_fn: RewardFunction | None) -> None:
        self.run, self.rl = sft.run, rl
        self._sft = sft
        if reward_fn is None:
            sources.check_judged(self.run)
        self._reward_fn = reward_fn
        self._reward: Reward | None = None

    @property
    def reward(self) -> Reward:
        """How rollouts are rewarded; a reward model loads when it is first needed."""
        if self._reward is None:
            self._reward = reward_of(self._reward_fn, self.rl.reward_model, self._sft.device)
        return self._reward

    def fit(self, place: Place) -> dict[str, nn.Parameter]:
        """Train the model; returns what was trained."""
        run = self.run
        tasks = [task_of(sample, judged=self.reward.judges_all) for sample in self._sft.data.conversations("train")]
        self._check_last_update(len(tasks))
        place.clock.lap("data")
        model = self._sft.make_trainable().to(place.device)
        assert isinstance(model, PeftModel), type(model)
        check_fit(model, self._sft.tokenizer, tasks, run)
        algorithm = algorithm_of(run, self.rl)
        roles = Roles(model, start=self._sft.start, has_value=algorithm.has_value, seed=run.seed)
        place.clock.lap("model")
        loader = UpdateLoader(len(tasks), run.rollout.tasks, run.seed)

        def acted(places: Sequence[int], update: int) -> list[Rollout]:
            chosen, options = [tasks[place] for place in places], run.rollout
            return act(model, self._sft.tokenizer, chosen, run, options.samples, update, options.temperature)

        module = RolloutModule(
            roles,
            run,
            algorithm,
            act=acted,
            reward=self.reward,
            guards=Guards(run.guard, lambda line: self._sft.console.print(line, markup=False, soft_wrap=True)),
            record=RolloutFile(place.folder.rollouts),
            total_steps=min(self._most_steps(len(tasks), algorithm.epochs), run.budget.max_steps or 2**62),
            pad_token_id=int(self._sft.tokenizer.pad_token_id),
        )
        fit_module(module, loader, run, place=place, accumulate=1, evaluate=self._validator())
        trained = module.trained_parameters()
        roles.let_go()
        return trained

    def _check_last_update(self, num_tasks: int) -> None:
        """Raise ValueError where it would have a single rollout, which there is nothing to compare with."""
        options = self.run.rollout
        if options.samples * (num_tasks % options.tasks) == 1:
            raise ValueError(
                f"rollout.samples must be 2 or more, or rollout.tasks another, got 1 and {options.tasks}: the last "
                f"update of {num_tasks} tasks would have a single rollout"
            )

    def _most_steps(self, num_tasks: int, epochs: int) -> int:
        """Optimiser steps of all updates, where none ends early."""
        run, steps = self.run, 0
        size = run.sft.batch_size * run.sft.gradient_accumulation_steps
        for start in range(0, num_tasks, run.rollout.tasks):
            rollouts = min(run.rollout.tasks, num_tasks - start) * run.rollout.samples
            steps += epochs * -(-rollouts // size)
        return steps * run.sft.num_epochs

    def measure(self, when: str) -> dict[str, Any]:
        """Those of AgentSFTTrainer, and "rollouts": a RolloutResult on the tasks of evaluation.data that are judged."""
        found, started = self._sft.measure(when), time.perf_counter()
        result = self._acted(self._held_out())
        found["rollouts"] = dataclasses.asdict(result) if result is not None else None
        found["seconds"]["rollouts"] = time.perf_counter() - started
        return found

    def evaluate(self, data: str | Sequence[Sample]) -> RolloutResult:
        """Act on the tasks of `data` with the model as it is now. Raises ValueError for none."""
        if isinstance(data, str):
            limit, options = self.run.budget.eval_samples, self.run.data
            data = sources.load(data, num_samples=limit, seed=options.seed, on_error=options.on_error).samples
        result = self._acted(data)
        if result is None:
            raise ValueError("data: there is no task to act on")
        return result

    def model_changed(self) -> None:
        """Nothing here rests on the model."""

    def _validator(self) -> Callable[[], dict[str, float]] | None:
        samples = self._held_out()
        if not samples:
            return None

        def validate() -> dict[str, float]:
            result = self._acted(samples)
            assert result is not None
            assert result.success.value is not None
            return {"eval/reward": result.reward, "eval/success": result.success.value}

        return validate

    def _held_out(self) -> list[Sample]:
        samples = self._sft.data.benchmark()
        return [sample for sample in samples if self.reward.judges_all or sample["source"] == "world"]

    def _acted(self, samples: Sequence[Sample]) -> RolloutResult | None:
        if not samples:
            return None
        tasks = [task_of(sample, judged=self.reward.judges_all) for sample in samples]
        model = self._sft.model.to(self._sft.device)
        found = act(model, self._sft.tokenizer, tasks, self.run, samples=1, update=0, temperature=0.0)
        num = len(found)
        return RolloutResult(
            reward=sum(self.reward(found)) / num,
            success=wilson(sum(one.trajectory.success for one in found), num),
            unreadable=wilson(sum(one.unread is not None for one in found), num),
            num_attempts=num,
            num_tokens=sum(one.num_tokens for one in found) / num,
        )
