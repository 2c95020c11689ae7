"""Proximal policy optimisation: advantages over the policy's own tokens, the clipped policy and value losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ClippedLosses:
    """Losses of tokens, 0 where masked, and which of them the clipping decided."""

    losses: Tensor
    """(B, T)."""
    clipped: Tensor
    """bool (B, T); no gradient of the policy or value flows through these."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` (B, T) where `mask` is True, a scalar; NaN if it is nowhere."""
    return (values * mask).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """`values` (B, T) with variance 1 and mean 0 over `mask`, 0 elsewhere; shift_mean=False keeps the mean.

    The variance is the unbiased one. Raises ValueError for fewer than two unmasked values, which have none.
    """
    count = mask.sum()
    if count < 2:
        raise ValueError(f"mask: at least two values are needed to whiten, got {int(count)}")
    mean = masked_mean(values, mask)
    variance = ((values - mean) ** 2 * mask).sum() / (count - 1)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantages and the returns that values are trained on, float (B, T) each, 0 where masked.

    rewards, values: (B, T) at the tokens that act. Masked tokens (prompt, observations, padding) are stepped over: the
    successor of an action token is the next action token, so gamma and lam discount per action token, and where the
    action tokens stand together this is the plain recursion. No gradient flows.
    Source: arXiv:1506.02438, equation 16. Raises ValueError for a reward at a masked token, which would be lost.
    """
    if bool((rewards * ~mask).any()):
        raise ValueError("rewards: some stand at masked tokens and would be lost: give them to the action before")
    rewards, values = rewards.detach(), values.detach()
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    following = torch.zeros_like(next_value)
    for t in reversed(range(values.shape[1])):
        acts = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = torch.where(acts, delta + gamma * lam * following, following)
        next_value = torch.where(acts, values[:, t], next_value)
        advantages[:, t] = following * acts
    return advantages, (advantages + values) * mask


def policy_losses(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, *, clip_low: float, clip_high: float
) -> ClippedLosses:
    """The clipped surrogate of each token: -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A).

    logps: of the policy, with gradient; old_logps: of the policy that acted; all (B, T). clip_low in (0, 1), clip_high
    above 0; a larger clip_high is "clip-higher" (arXiv:2503.14476). Source: arXiv:1707.06347, equation 7.
    """
    ratio = (logps - old_logps).masked_fill(~mask, 0).exp()
    free, held = -advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    return ClippedLosses(torch.maximum(free, held) * mask, (held > free) & mask)


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float) -> ClippedLosses:
    """Half the squared error of each value, the larger one of it and of the value held within `clip` of the old one.

    values: with gradient; all (B, T). clip above 0. Source: arXiv:2005.12729, section 3 (OpenAI's implementation).
    """
    held = torch.minimum(torch.maximum(values, old_values - clip), old_values + clip)
    free_error, held_error = (values - returns) ** 2, (held - returns) ** 2
    return ClippedLosses(0.5 * torch.maximum(free_error, held_error) * mask, (held_error > free_error) & mask)
