"""RLTrainingConfig: the public reference's class to the letter; and what direct preference optimisation adds."""

from __future__ import annotations

from dataclasses import dataclass

from sagetune.config.checks import Problems

ALGORITHMS = ("ppo", "dpo")
DPO_LOSSES = ("sigmoid", "hinge", "ipo", "robust")
SMOOTHED_LOSSES = ("sigmoid", "robust")
REFERENCES = ("precomputed", "adapter")


@dataclass
class RLTrainingConfig:
    """Training beyond imitation: the reference's fields and defaults."""

    algorithm: str = "ppo"
    """dpo = preferences between two replies (arXiv:2305.18290); ppo = rewards (arXiv:1707.06347)."""
    reward_model: str | None = None
    """Path of a reward model; DPO has none."""
    kl_coef: float = 0.1
    """Strength of the pull to the reference policy: beta of DPO (tau of its loss ipo)."""
    gamma: float = 0.99
    """Discount of later rewards; DPO has no rewards and does not look at it."""

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
