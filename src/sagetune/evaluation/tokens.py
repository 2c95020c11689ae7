"""How well a model predicts held-out supervised tokens, given the true history (teacher forcing)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sagetune.batching import collate, to_device
from sagetune.chat import IGNORE_INDEX, Encoded
from sagetune.losses import token_losses


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Token figures of a model on held-out conversations."""

    accuracy: float
    """Share of supervised tokens predicted greedily, 0-1."""
    loss: float
    """Weighted mean negative log-likelihood of the supervised tokens, nats."""
    perplexity: float
    """exp(loss)."""
    exact_match: float
    """Share of assistant turns whose every token is predicted, 0-1."""
    num_samples: int
    num_turns: int
    num_tokens: int
    """Supervised tokens."""


@torch.no_grad()
def evaluate_tokens(
    model: nn.Module,
    samples: Sequence[Encoded],
    *,
    batch_size: int,
    pad_token_id: int,
    on_progress: Callable[[int], None] | None = None,
) -> EvalResult:
    """Predict every supervised token of `samples`; the result does not depend on the batch size.

    Raises ValueError if there are no samples. The model's training mode is put back.
    """
    if not samples:
        raise ValueError("no evaluation sample is left after encoding: raise sft.max_seq_length or check the data")
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    loss = weight = 0.0
    correct = tokens = turns = whole_turns = 0
    order = sorted(range(len(samples)), key=lambda index: len(samples[index].input_ids))
    for start in range(0, len(order), batch_size):
        batch = collate(samples, order[start : start + batch_size], pad_token_id)
        losses = token_losses(model, to_device(batch, device))
        loss += (losses.nll.double() * losses.weights).sum().item()
        weight += losses.weights.double().sum().item()
        correct += int(losses.correct.sum())
        tokens += losses.correct.numel()
        right = whole_turn_predicted(batch["labels"], losses.correct.cpu())
        turns += right.numel()
        whole_turns += int(right.sum())
        if on_progress is not None:
            on_progress(len(batch["labels"]))
    model.train(was_training)
    mean = loss / weight
    return EvalResult(
        accuracy=correct / tokens,
        loss=mean,
        perplexity=math.exp(mean) if mean < 700 else math.inf,
        exact_match=whole_turns / turns,
        num_samples=len(samples),
        num_turns=turns,
        num_tokens=tokens,
    )


def whole_turn_predicted(labels: Tensor, correct: Tensor) -> Tensor:
    """For each assistant turn, whether all its tokens are right.

    labels: int64 (B, T). correct: bool (N,) of the supervised tokens in row-major order. Returns bool (turns,). A turn
    is an unbroken run of supervised tokens: between two turns there is always a masked role header.
    """
    supervised = labels[:, 1:] != IGNORE_INDEX  # token t is predicted from t - 1; the first of a row never
    starts = supervised.clone()
    starts[:, 1:] &= ~supervised[:, :-1]
    turn = starts.flatten().cumsum(0)[supervised.flatten()] - 1
    wrong = torch.zeros(int(starts.sum()), dtype=torch.int64).index_add_(0, turn, (~correct).long())
    return wrong == 0
