"""How far a policy is from its reference, and how hard it is held there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

MOST_ERROR = 0.2
"""The relative error of the KL that an adaptive coefficient answers to at most (arXiv:1909.08593, section 2.2)."""


def kl_estimate(logps: Tensor, reference: Tensor, kind: str = "k1") -> Tensor:
    """Estimate of KL(policy | reference) from tokens that the policy drew; logps and reference alike in shape, nats.

    With r = reference - logps: k1 = -r, unbiased, of either sign; k3 = exp(r) - 1 - r, unbiased, never negative, with
    less variance. Source: Schulman, "Approximating KL divergence" (2020). Raises ValueError for another kind.
    """
    ratio = reference - logps
    if kind == "k1":
        return -ratio
    if kind == "k3":
        return ratio.exp() - 1 - ratio
    raise ValueError(f"kind must be k1 or k3, got {kind!r}")


@dataclass(kw_only=True)
class KLController:
    """The coefficient of the KL penalty: fixed, or adapted so that the KL approaches `target`.

    target: nats a sample; None = fixed. horizon: samples over which an error of MOST_ERROR changes the coefficient by
    that share. Source: arXiv:1909.08593, section 2.2.
    """

    coefficient: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, num_samples: int) -> None:
        """Answer to a measured mean KL a sample, over `num_samples` samples; a fixed coefficient stays."""
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -MOST_ERROR), MOST_ERROR)
        self.coefficient *= 1 + error * num_samples / self.horizon

    def state_dict(self) -> dict[str, Any]:
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.coefficient = state["coefficient"]
