"""RLTrainingConfig: the public reference's class to the letter; and what each of its algorithms adds.

PPO and GRPO learn from rollouts: the model acts, and what it did is rewarded. Units: a rollout is one attempt at one
task; an update is one set of rollouts and the optimiser steps on them; budget.max_steps counts optimiser steps, each on
sft.batch_size * sft.gradient_accumulation_steps rollouts, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from sagetune.config.checks import Problems

ALGORITHMS = ("ppo", "dpo", "grpo")
ROLLOUT_ALGORITHMS = ("ppo", "grpo")
DPO_LOSSES = ("sigmoid", "hinge", "ipo", "robust")
SMOOTHED_LOSSES = ("sigmoid", "robust")
REFERENCES = ("precomputed", "adapter")
KL_ESTIMATORS = ("k1", "k3")
GRPO_LOSSES = ("grpo", "dapo", "dr_grpo")
REWARD_SCALES = ("group", "batch", "none")
RATIO_LEVELS = ("token", "sequence")
GUARD_ACTIONS = ("warn", "stop")


@dataclass
class RLTrainingConfig:
    """Training beyond imitation: the reference's fields and defaults."""

    algorithm: str = "ppo"
    """dpo = preferences between two replies (arXiv:2305.18290); ppo = rewards (arXiv:1707.06347); ours in addition:
    grpo = rewards, compared inside a group of attempts at one task (arXiv:2402.03300)."""
    reward_model: str | None = None
    """Folder or hub id of a sequence classifier with one label that rewards a conversation; None = the task's own
    checker. DPO has none."""
    kl_coef: float = 0.1
    """Strength of the pull to the reference policy: beta of DPO (tau of its loss ipo); of PPO a penalty in the reward
    of each token, in GRPO a term of the loss."""
    gamma: float = 0.99
    """Discount of later rewards, for each token that the model writes: of PPO alone."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("rl.algorithm", self.algorithm, ALGORITHMS)
        problems.check(self.kl_coef >= 0, "rl.kl_coef", self.kl_coef, "at least 0")
        problems.check(0 <= self.gamma <= 1, "rl.gamma", self.gamma, "in [0, 1]")
        if self.algorithm == "dpo":
            none = self.reward_model is None
            problems.check(none, "rl.reward_model", self.reward_model, "null: dpo learns from pairs, not from rewards")
            problems.check(self.kl_coef > 0, "rl.kl_coef", self.kl_coef, "above 0: it is the beta of dpo")
        problems.report()


@dataclass(kw_only=True)
class DPOConfig:
    """What DPO does beyond the reference's rl.* fields."""

    loss: str = "sigmoid"
    """sigmoid (arXiv:2305.18290), hinge (arXiv:2305.10425), ipo (arXiv:2310.12036), robust (arXiv:2403.00409)."""
    label_smoothing: float = 0.0
    """Share of pairs that are taken to be labelled the wrong way round; of the losses sigmoid and robust."""
    reference: str = "precomputed"
    """Where the reference's log-probabilities come from: precomputed = once before training, kept in the run folder;
    adapter = in every step, with the adapter switched off."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("dpo.loss", self.loss, DPO_LOSSES)
        problems.one_of("dpo.reference", self.reference, REFERENCES)
        share = self.label_smoothing
        problems.check(0 <= share < 0.5, "dpo.label_smoothing", share, "in [0, 0.5)")
        smooths = share == 0 or self.loss in SMOOTHED_LOSSES
        problems.check(smooths, "dpo.label_smoothing", share, f"0 while dpo.loss is {self.loss}: it has no such term")
        problems.report()


@dataclass(kw_only=True)
class RolloutConfig:
    """How PPO and GRPO let the model act."""

    tasks: int = 4
    """Tasks of an update; each is attempted once a pass over the data, sft.num_epochs times."""
    samples: int = 8
    """Attempts at each task: the group of GRPO."""
    max_new_tokens: int = 128
    """Longest reply."""
    max_turns: int = 6
    """Replies in one attempt at most."""
    temperature: float = 1.0
    """Of the draws, and of the probabilities that are trained."""
    missing_eos_penalty: float = 0.0
    """Taken from the reward of a rollout whose last reply was cut off."""
    early_stop_kl: float | None = None
    """Mean squared log-ratio of a token over two, in nats, above which an update ends early; None = never."""

    def __post_init__(self) -> None:
        problems = Problems()
        for name in ("tasks", "samples", "max_new_tokens", "max_turns"):
            problems.check(vars(self)[name] >= 1, f"rollout.{name}", vars(self)[name], "at least 1")
        warm = "above 0: without chance all attempts at a task are one"
        problems.check(self.temperature > 0, "rollout.temperature", self.temperature, warm)
        penalty, limit = self.missing_eos_penalty, self.early_stop_kl
        problems.check(penalty >= 0, "rollout.missing_eos_penalty", penalty, "at least 0")
        problems.check(limit is None or limit > 0, "rollout.early_stop_kl", limit, "null or above 0")
        problems.report()


@dataclass(kw_only=True)
class PPOConfig:
    """What PPO does beyond the reference's rl.* fields."""

    epochs: int = 4
    """Passes over the rollouts of an update."""
    clip_range: float = 0.2
    """How far from 1 the ratio of new to old probability still counts."""
    clip_range_value: float = 0.2
    """How far a value may move from the old one and still count."""
    vf_coef: float = 0.1
    """Weight of the value loss."""
    lam: float = 0.95
    """Lambda of the generalised advantages (arXiv:1506.02438)."""
    whiten_rewards: bool = False
    """Scale the tokens' rewards to variance 1."""
    kl_estimator: str = "k1"
    """Of the penalty of a token: k1 = the log-ratio, k3 = its estimate that is never negative."""
    adaptive_kl_target: float | None = None
    """KL of a rollout, in nats, that rl.kl_coef is steered towards (arXiv:1909.08593); None = it stays."""
    adaptive_kl_horizon: int = 10_000
    """Rollouts over which a relative error of 0.2 changes the coefficient by that share."""

    def __post_init__(self) -> None:
        problems = Problems()
        for name in ("epochs", "adaptive_kl_horizon"):
            problems.check(vars(self)[name] >= 1, f"ppo.{name}", vars(self)[name], "at least 1")
        problems.check(0 < self.clip_range < 1, "ppo.clip_range", self.clip_range, "in (0, 1)")
        problems.check(self.clip_range_value > 0, "ppo.clip_range_value", self.clip_range_value, "above 0")
        problems.check(self.vf_coef > 0, "ppo.vf_coef", self.vf_coef, "above 0")
        problems.check(0 <= self.lam <= 1, "ppo.lam", self.lam, "in [0, 1]")
        problems.one_of("ppo.kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        target = self.adaptive_kl_target
        problems.check(target is None or target > 0, "ppo.adaptive_kl_target", target, "null or above 0")
        problems.report()


@dataclass(kw_only=True)
class GRPOConfig:
    """What GRPO does beyond the reference's rl.* fields."""

    num_iterations: int = 1
    """Passes over the rollouts of an update."""
    epsilon: float = 0.2
    """How far below 1 the ratio of new to old probability still counts."""
    epsilon_high: float | None = None
    """How far above 1; larger than epsilon it is "clip-higher" (arXiv:2503.14476), None = epsilon."""
    scale_rewards: str = "group"
    """What a reward less its group's mean is divided by: the standard deviation of its group, of the whole batch of
    rollouts, or nothing (arXiv:2503.20783)."""
    loss_type: str = "dapo"
    """How tokens are averaged: grpo = in each rollout, then over rollouts; dapo = over all tokens of the optimiser step
    (arXiv:2503.14476); dr_grpo = over the longest rollout allowed (arXiv:2503.20783)."""
    importance_sampling_level: str = "token"
    """Whose ratio is clipped: each token's, or the whole sequence's (arXiv:2507.18071)."""

    @property
    def clip_high(self) -> float:
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    def __post_init__(self) -> None:
        problems = Problems()
        problems.check(self.num_iterations >= 1, "grpo.num_iterations", self.num_iterations, "at least 1")
        problems.check(0 < self.epsilon < 1, "grpo.epsilon", self.epsilon, "in (0, 1)")
        high = self.epsilon_high
        problems.check(high is None or high > 0, "grpo.epsilon_high", high, "null or above 0")
        problems.one_of("grpo.scale_rewards", self.scale_rewards, REWARD_SCALES)
        problems.one_of("grpo.loss_type", self.loss_type, GRPO_LOSSES)
        problems.one_of("grpo.importance_sampling_level", self.importance_sampling_level, RATIO_LEVELS)
        problems.report()


@dataclass(kw_only=True)
class GuardConfig:
    """When the policy of PPO or GRPO counts as collapsed; None switches a guard off."""

    action: str = "warn"
    """warn = say so with the figures and go on; stop = end the run, whose last checkpoint stays."""
    max_kl: float | None = 2.0
    """Mean KL of a drawn token to the reference, nats."""
    min_entropy: float | None = 0.001
    """Mean entropy of the distribution that a token is drawn from, nats."""
    zero_variance_updates: int | None = 5
    """Updates in a row whose rewards do not differ (of GRPO: in no group), so that nothing can be learnt."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("guard.action", self.action, GUARD_ACTIONS)
        for name in ("max_kl", "min_entropy"):
            value = vars(self)[name]
            problems.check(value is None or value > 0, f"guard.{name}", value, "null or above 0")
        patience = self.zero_variance_updates
        problems.check(patience is None or patience >= 1, "guard.zero_variance_updates", patience, "null or at least 1")
        problems.report()
