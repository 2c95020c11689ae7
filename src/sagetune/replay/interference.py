"""Maximally interfered retrieval (arXiv:1908.04742): which samples would the batch's own step hurt most?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sagetune.losses import row_means, token_losses


def interference(
    model: nn.Module, batch: Mapping[str, Any], candidates: Mapping[str, Any], learning_rate: float
) -> Tensor:
    """By how much a step on `batch` raises the mean loss of each candidate row, float32 (B,), nats.

    The step is taken on the trained parameters themselves, which are put back bit for bit; there is no second model.
    The paper's step is plain gradient descent; ours has its direction and the length of AdamW's, whose every coordinate
    moves by about the learning rate.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    was_training = model.training
    model.eval()  # dropout would measure itself
    before = _losses(model, candidates)
    losses = token_losses(model, batch)
    mean = (losses.nll * losses.weights).sum() / losses.weights.sum()
    gradients = torch.autograd.grad(mean, parameters, allow_unused=True)
    steps = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    length = nn.utils.get_total_norm(steps).clamp(min=1e-30)
    scale = learning_rate * sum(parameter.numel() for parameter in parameters) ** 0.5 / length
    kept = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.sub_(step * scale)
        after = _losses(model, candidates)
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    model.train(was_training)
    return after - before


@torch.no_grad()
def _losses(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    return row_means(token_losses(model, batch), len(batch["labels"]))
