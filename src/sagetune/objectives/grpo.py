"""Group relative policy optimisation: rewards of a group -> advantages; tokens -> losses; losses -> sum and count."""

from __future__ import annotations

import torch
from torch import Tensor

from sagetune.objectives.kl import kl_estimate
from sagetune.objectives.ppo import ClippedLosses, policy_losses

EPSILON = 1e-4
"""Keeps the advantages of a group of nearly equal rewards finite."""


def group_advantages(rewards: Tensor, scale: str = "group") -> Tensor:
    """Rewards less their group's mean, over a standard deviation; (G, N) to (G, N).

    scale: "group" = the group's own (arXiv:2402.03300, section 4.1); "batch" = that of all rewards; "none" = 1
    (arXiv:2503.20783: a group's own weighs easy and hard tasks more than others). Standard deviations are unbiased.
    Raises ValueError for groups of one and for another scale.
    """
    if rewards.shape[1] < 2:
        raise ValueError(f"rewards: a group needs two samples or more to compare, got {rewards.shape[1]}")
    centred = rewards - rewards.mean(1, keepdim=True)
    if scale == "none":
        return centred
    if scale == "group":
        return centred / (rewards.std(1, keepdim=True) + EPSILON)
    if scale == "batch":
        return centred / (rewards.std() + EPSILON)
    raise ValueError(f"scale must be one of group, batch, none, got {scale!r}")


def grpo_losses(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    level: str = "token",
    reference: Tensor | None = None,
    kl_coef: float = 0.0,
) -> ClippedLosses:
    """The clipped surrogate of each token with its sample's advantage, plus kl_coef times k3 to `reference`.

    logps (with gradient), old_logps, reference, mask: (B, T); advantages: (B,). level: "token" = each token has its own
    ratio; "sequence" = all tokens of a sample have the geometric mean of theirs (GSPO, arXiv:2507.18071, equation 7).
    Raises ValueError for another level, and for a kl_coef without a reference.
    """
    if level == "sequence":
        steps = (logps - old_logps).masked_fill(~mask, 0).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        found = policy_losses(
            steps.expand_as(logps),
            torch.zeros_like(logps),
            advantages[:, None],
            mask,
            clip_low=clip_low,
            clip_high=clip_high,
        )
    elif level == "token":
        found = policy_losses(logps, old_logps, advantages[:, None], mask, clip_low=clip_low, clip_high=clip_high)
    else:
        raise ValueError(f"level must be token or sequence, got {level!r}")
    if kl_coef == 0:
        return found
    if reference is None:
        raise ValueError(f"reference: kl_coef={kl_coef} needs the reference's log-probabilities")
    penalty = kl_coef * kl_estimate(logps, reference, "k3")
    return ClippedLosses(found.losses + penalty.masked_fill(~mask, 0), found.clipped)


def normalised(losses: Tensor, mask: Tensor, by: str, max_tokens: int | None = None) -> tuple[Tensor, Tensor]:
    """A sum and a count, scalars, of a micro-batch (B, T); an optimiser step's loss is its sums over its counts.

    by: "sequence" = the mean over samples of their token means (arXiv:2402.03300, equation 3); "token" = the mean over
    tokens, where long samples count for more (DAPO, arXiv:2503.14476, equation 8); "constant" = a sample's sum over
    max_tokens, the longest reply allowed, whatever its length (Dr. GRPO, arXiv:2503.20783).
    Raises ValueError for another one, and for "constant" without max_tokens.
    """
    if by == "sequence":
        means = (losses * mask).sum(1) / mask.sum(1).clamp(min=1)
        return means.sum(), torch.as_tensor(len(losses), device=losses.device)
    if by == "token":
        return (losses * mask).sum(), mask.sum()
    if by == "constant":
        if max_tokens is None:
            raise ValueError("max_tokens: normalising by a constant needs the longest reply allowed")
        return (losses * mask).sum(), torch.as_tensor(len(losses) * max_tokens, device=losses.device)
    raise ValueError(f"by must be one of sequence, token, constant, got {by!r}")
