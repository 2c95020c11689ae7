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

SUMS = ("weighted loss", "weight", "correct tokens", "tokens", "turns", "whole turns")


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
    return over(sample_sums(model, samples, batch_size=batch_size, pad_token_id=pad_token_id, on_progress=on_progress))


@torch.no_grad()
def sample_sums(
    model: nn.Module,
    samples: Sequence[Encoded],
    *,
    batch_size: int,
    pad_token_id: int,
    on_progress: Callable[[int], None] | None = None,
) -> Tensor:
    """What `over` makes figures of, float64 (n, 6); columns as in SUMS. Arguments as in `evaluate_tokens`."""
    if not samples:
        raise ValueError("no evaluation sample is left after encoding: raise sft.max_seq_length or check the data")
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    sums = torch.zeros(len(samples), len(SUMS), dtype=torch.float64)
    order = sorted(range(len(samples)), key=lambda index: len(samples[index].input_ids))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = collate(samples, places, pad_token_id)
        losses = token_losses(model, to_device(batch, device))
        weighted = losses.nll.double() * losses.weights
        tokens = torch.stack(
            [weighted, losses.weights.double(), losses.correct.double(), weighted.new_ones(len(weighted))]
        )
        rows, whole = whole_turns(batch["labels"], losses.correct.cpu())
        turns = torch.stack([torch.ones(len(whole), dtype=torch.float64), whole.double()])
        part = torch.zeros(len(places), len(SUMS), dtype=torch.float64)
        part[:, :4].index_add_(0, losses.rows.cpu(), tokens.cpu().T)
        part[:, 4:].index_add_(0, rows, turns.T)
        sums[places] = part
        if on_progress is not None:
            on_progress(len(places))
    model.train(was_training)
    return sums


def over(sums: Tensor) -> EvalResult:
    """The figures over the samples of `sums`, float64 (n, 6)."""
    loss, weight, correct, tokens, turns, whole = sums.sum(0).tolist()
    mean = loss / weight
    return EvalResult(
        accuracy=correct / tokens,
        loss=mean,
        perplexity=math.exp(mean) if mean < 700 else math.inf,
        exact_match=whole / turns,
        num_samples=len(sums),
        num_turns=int(turns),
        num_tokens=int(tokens),
    )


def whole_turns(labels: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Of each assistant turn, in row-major order: its row, int64 (turns,); whether all its tokens are right.

    labels: int64 (B, T). correct: bool (N,) of the supervised tokens in row-major order. A turn is an unbroken run of
    supervised tokens: between two turns there is always a masked role header.
    """
    supervised = labels[:, 1:] != IGNORE_INDEX  # token t is predicted from t - 1; the first of a row never
    starts = supervised.clone()
    starts[:, 1:] &= ~supervised[:, :-1]
    turn = starts.flatten().cumsum(0)[supervised.flatten()] - 1
    wrong = torch.zeros(int(starts.sum()), dtype=torch.int64).index_add_(0, turn, (~correct).long())
    return starts.nonzero()[:, 0], wrong == 0
