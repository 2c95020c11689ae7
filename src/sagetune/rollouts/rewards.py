"""Rollouts -> a reward each: the task's own checker, a function, or a model that classifies sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sagetune.chat_template import plain
from sagetune.rollouts.rollout import Rollout
from sagetune.sample import Message

RewardFunction = Callable[[Rollout], float]


@dataclass(frozen=True, slots=True)
class Reward:
    """How rollouts are rewarded. name: for metrics. judges_all: whether it needs no task with a checker."""

    name: str
    function: RewardFunction
    judges_all: bool

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Raises ValueError, naming the task, for a reward that is not finite."""
        rewards = [float(self.function(rollout)) for rollout in rollouts]
        for rollout, reward in zip(rollouts, rewards, strict=True):
            if not math.isfinite(reward):
                raise ValueError(f"the reward of task {rollout.trajectory.task_id} is {reward}, got from {self.name}")
        return rewards


def reward_of(function: RewardFunction | None, model: str | None, device: torch.device) -> Reward:
    """function beats none; model: rl.reward_model. Raises ValueError for both at once, and for a model of another kind.

    Without either the task's checker rewards: 1 for what it passes, else 0.
    """
    if function is not None and model is not None:
        raise ValueError(f"rl.reward_model must be null where a reward_fn is given, got {model!r}")
    if function is not None:
        return Reward("reward_fn", function, judges_all=True)
    if model is not None:
        return Reward("reward_model", RewardModel(model, device), judges_all=True)
    return Reward("checker", checked, judges_all=False)


def checked(rollout: Rollout) -> float:
    """What the environment gave: its checker's score of a whole attempt, and the rewards of its steps."""
    return rollout.trajectory.total_reward


class RewardModel:
    """A sequence classifier with one label: its logit for the whole conversation is the reward.

    One conversation at a time, without padding, so that no rollout's reward depends on the others. Control tokens
    that a policy spells out are text: they forge no turn that would please the model.
    """

    def __init__(self, where: str, device: torch.device) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(where)
            self._model = AutoModelForSequenceClassification.from_pretrained(where).to(device).eval()
        except OSError as error:
            raise ValueError(f"rl.reward_model: cannot load {where!r}: {error}") from error
        labels = self._model.config.num_labels
        if labels != 1:
            raise ValueError(f"rl.reward_model must be a classifier with one label, got {labels} labels in {where!r}")
        if not self._tokenizer.chat_template:
            raise ValueError(
                f"rl.reward_model: the tokenizer in {where!r} has no chat template to write dialogues with"
            )

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> float:
        messages: list[Message] = list(rollout.trajectory.messages)
        if rollout.unread is not None:
            messages.append({"role": "assistant", "content": rollout.unread})
        ids = self._tokenizer.apply_chat_template(
            plain(messages),
            tools=rollout.trajectory.tools or None,
            return_dict=False,
            return_tensors="pt",
            sanitize_control_tokens=True,
        )
        return self._model(input_ids=ids.to(self._model.device)).logits[0, 0].item()
