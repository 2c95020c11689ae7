"""Batch -> the loss of each supervised token. Logits are made at supervised positions only.

Letters: B rows, T tokens, N supervised tokens in row-major order, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sagetune.attention import SEGMENT
from sagetune.chat import IGNORE_INDEX

CHUNK = 256
"""Positions whose logits are in float32 at a time; larger chunks leave the processor's cache."""


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Figures of the N supervised tokens of a batch, in row-major order."""

    nll: Tensor
    """Negative log-likelihood, float32 (N,), nats, with gradient."""
    correct: Tensor
    """Whether the likeliest token is the right one, bool (N,)."""
    rows: Tensor
    """The batch row of each token, int64 (N,)."""
    weights: Tensor
    """Weight of each token in the loss, float32 (N,)."""


@dataclass(frozen=True, slots=True)
class SupervisedLogits:
    """Logits of the N supervised tokens of a batch, in row-major order."""

    logits: Tensor
    """(N, V), in the model's dtype."""
    targets: Tensor
    """int64 (N,)."""
    rows: Tensor
    """The batch row of each token, int64 (N,)."""
    weights: Tensor
    """Weight of each token in the loss, float32 (N,)."""


def token_losses(model: PreTrainedModel, batch: Mapping[str, Any]) -> TokenLosses:
    """Run `model` on a padded batch and return each supervised token's loss; arguments as in `supervised_logits`."""
    return losses_of(supervised_logits(model, batch))


def losses_of(found: SupervisedLogits) -> TokenLosses:
    """The loss of each supervised token from its logits."""
    nll, correct = SupervisedCrossEntropy.apply(found.logits, found.targets)
    return TokenLosses(nll, correct, found.rows, found.weights)


def row_means(losses: TokenLosses, num_rows: int) -> Tensor:
    """Mean negative log-likelihood of each row's supervised tokens, float32 (B,), nats; NaN for a row without any."""
    sums = losses.nll.new_zeros(num_rows).index_add(0, losses.rows, losses.nll)
    return sums / losses.rows.bincount(minlength=num_rows)


def row_logps(losses: TokenLosses, num_rows: int) -> tuple[Tensor, Tensor]:
    """Log-probability of each row's supervised tokens, nats, and their number, both by weight; float32 (B,) each."""
    zeros = losses.nll.new_zeros(num_rows)
    return zeros.index_add(0, losses.rows, -losses.nll * losses.weights), zeros.index_add(
        0, losses.rows, losses.weights
    )


def supervised_logits(model: PreTrainedModel, batch: Mapping[str, Any]) -> SupervisedLogits:
    """Run `model` on a padded batch (either side) and return the logits that predict supervised tokens.

    batch: input_ids, attention_mask, labels int64 (B, T), and loss_weights float32 (B, T) where tokens weigh unequally.
    A model with segment attention gets the batch as one row without its padding.
    """
    labels = batch["labels"][:, 1:]
    supervised = labels != IGNORE_INDEX  # (B, T - 1): the token after position t
    rows, positions = supervised.nonzero(as_tuple=True)
    targets = labels[supervised]
    weights = batch["loss_weights"][:, 1:][supervised] if "loss_weights" in batch else torch.ones_like(targets).float()
    if model.config._attn_implementation == SEGMENT:
        logits = _logits_of_row(model, batch, rows, positions)
    else:
        logits = _logits_of_padded(model, batch, rows, positions)
    return SupervisedLogits(logits, targets, rows, weights)


def supervised_states(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """The last hidden states from which supervised tokens are predicted, (N, H); arguments as in `supervised_logits`.

    model: without its output head, as `get_decoder` returns it.
    """
    rows, positions = (batch["labels"][:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
    if model.config._attn_implementation == SEGMENT:
        packed, place = _packed(batch, rows, positions)
        return model(**packed).last_hidden_state[0][place]
    return model(**_padded(batch)).last_hidden_state[rows, positions]


def _logits_of_row(model: PreTrainedModel, batch: Mapping[str, Any], rows: Tensor, positions: Tensor) -> Tensor:
    """(N, V): all rows as one padding-free row (1, sum of lengths)."""
    packed, place = _packed(batch, rows, positions)
    return model(**packed, logits_to_keep=place).logits[0]


def _packed(batch: Mapping[str, Any], rows: Tensor, positions: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The batch as one row without its padding, and where in it the given tokens are."""
    mask = batch["attention_mask"].bool()
    lengths = mask.sum(1)
    borders = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    within = mask.cumsum(1) - 1  # position of each token inside its sample, whichever side is padded
    packed = {
        "input_ids": batch["input_ids"][mask][None],
        "position_ids": within[mask][None],
        "attention_mask": None,
        "cu_seq_lens_q": borders,
        "use_cache": False,
    }
    return packed, borders[rows] + within[rows, positions]


def _logits_of_padded(model: PreTrainedModel, batch: Mapping[str, Any], rows: Tensor, positions: Tensor) -> Tensor:
    """(N, V), from the columns in which any row has a supervised token."""
    columns, column = positions.unique(return_inverse=True)
    return model(**_padded(batch), logits_to_keep=columns).logits[rows, column]


def _padded(batch: Mapping[str, Any]) -> dict[str, Any]:
    mask = batch["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": mask,
        "position_ids": positions,
        "use_cache": False,
    }


class SupervisedCrossEntropy(torch.autograd.Function):
    """logits (N, V), targets (N,) -> nll float32 (N,), whether the argmax is the target (N,).

    The gradient (softmax - one-hot) is made in the same pass, in the logits' dtype, so no float32 logits are kept.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        nll, correct = [], []
        for start in range(0, max(len(targets), 1), CHUNK):
            part = logits[start : start + CHUNK].to(torch.float32, copy=True)  # changed in place below
            wanted = targets[start : start + CHUNK, None]
            largest, likeliest = part.max(-1, keepdim=True)
            right = part.gather(1, wanted)
            correct.append((likeliest == wanted)[:, 0])
            total = part.sub_(largest).exp_().sum(-1, keepdim=True)
            nll.append((total.log() + largest - right)[:, 0])
            if gradient is not None:
                part.div_(total).scatter_add_(1, wanted, -torch.ones_like(total))
                gradient[start : start + CHUNK] = part
        ctx.save_for_backward(gradient)
        found = torch.cat(correct)
        ctx.mark_non_differentiable(found)
        return torch.cat(nll), found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0][:, None].to(gradient.dtype), None
