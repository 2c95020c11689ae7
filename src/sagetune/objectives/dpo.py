"""Direct preference optimisation: log-probabilities of pairs -> a loss a pair, and TRL's metrics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def log_ratios(logps: Tensor, reference: Tensor) -> Tensor:
    """log policy / reference of each pair's (chosen, rejected), both float32 (P, 2), nats."""
    return logps - reference


def dpo_losses(
    ratios: Tensor, lengths: Tensor, *, beta: float, loss: str = "sigmoid", label_smoothing: float = 0.0
) -> Tensor:
    """The loss of each pair, (P,).

    ratios: `log_ratios`, (P, 2). lengths: supervised tokens of (chosen, rejected), (P, 2); only ipo looks at them.
    beta: above 0. With d = beta * (chosen - rejected) and e = label_smoothing in [0, 0.5):

    sigmoid  -(1 - e) log s(d) - e log s(-d)                       arXiv:2305.18290, equation 7; e: cDPO
    robust   (-(1 - e) log s(d) + e log s(-d)) / (1 - 2 e)         arXiv:2403.00409, equation 12
    hinge    max(0, 1 - d)                                         arXiv:2305.10425
    ipo      (difference of the means a token - 1 / (2 beta))^2    arXiv:2310.12036, equation 17

    Raises ValueError for another loss.
    """
    delta = beta * (ratios[:, 0] - ratios[:, 1])
    if loss == "sigmoid":
        return -(1 - label_smoothing) * F.logsigmoid(delta) - label_smoothing * F.logsigmoid(-delta)
    if loss == "robust":
        right, wrong = (1 - label_smoothing) * F.logsigmoid(delta), label_smoothing * F.logsigmoid(-delta)
        return (wrong - right) / (1 - 2 * label_smoothing)
    if loss == "hinge":
        return torch.relu(1 - delta)
    if loss == "ipo":
        means = ratios / lengths
        return (means[:, 0] - means[:, 1] - 1 / (2 * beta)) ** 2
    raise ValueError(f"loss must be one of sigmoid, robust, hinge, ipo, got {loss!r}")


def pair_metrics(logps: Tensor, ratios: Tensor, *, beta: float) -> dict[str, Tensor]:
    """TRL's metrics of each pair, (P,) each: a mean over pairs is what TRL logs.

    rewards/* are beta times the log-ratios; rewards/accuracies is 1 where the chosen has the larger one, else 0.
    """
    rewards = beta * ratios
    return {
        "rewards/chosen": rewards[:, 0],
        "rewards/rejected": rewards[:, 1],
        "rewards/accuracies": (rewards[:, 0] > rewards[:, 1]).to(rewards.dtype),
        "rewards/margins": rewards[:, 0] - rewards[:, 1],
        "logps/chosen": logps[:, 0],
        "logps/rejected": logps[:, 1],
    }
