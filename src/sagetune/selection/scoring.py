"""Tokenised samples -> scores of a model, one forward pass without gradient for all of them.

Samples are packed by length, so there is next to no padding, and logits exist at supervised positions only. No figure
depends on which samples share a pass.

Letters: n samples, B rows of a pass, N supervised tokens, V vocabulary, d hidden size, r sketch rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from sagetune.attention import SEGMENT
from sagetune.batching import Batch, collate, to_device
from sagetune.chat import IGNORE_INDEX, Encoded
from sagetune.losses import CHUNK, SupervisedLogits, supervised_logits

SKETCH_SEED = 20240917
Columns = dict[str, np.ndarray]
"""Figures by name; the first dimension of each array is that of the samples."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """Random signs that shorten the gradient of the output layer, sum_t (p_t - y_t) h_t', to r x r numbers.

    outputs: (V, r), inputs: (d, r). Inner products are kept in the mean, up to about 1 / r.
    """

    outputs: Tensor
    inputs: Tensor


@dataclass(frozen=True, slots=True)
class RowScores:
    """Figures of the B rows of one batch."""

    loss: Tensor
    """Weighted mean negative log-likelihood of the supervised tokens, float32 (B,), nats."""
    el2n: Tensor
    """Mean over the supervised tokens of ||p - y||, 0 to sqrt(2) (Paul et al., arXiv:2107.07075)."""
    accuracy: Tensor
    """Share of the supervised tokens that are the likeliest, 0-1."""
    embedding: Tensor
    """Mean of the last hidden states weighted by position, (B, d) (RDS+, arXiv:2503.01807); padding has no part."""
    sketch: Tensor | None
    """Mean gradient of the output layer, sketched, (B, r r)."""


def make_sketch(model: nn.Module, dim: int) -> Sketch:
    """A sketch to about `dim` numbers (the square of a whole number), the same for every model of these shapes."""
    head = bare(model).get_output_embeddings()
    size = max(1, round(math.sqrt(dim)))
    generator = torch.Generator().manual_seed(SKETCH_SEED)

    def signs(num: int) -> Tensor:
        drawn = torch.randint(0, 2, (num, size), generator=generator).float()
        return (drawn * 2 - 1).div_(math.sqrt(size)).to(head.weight.device)

    return Sketch(outputs=signs(head.weight.shape[0]), inputs=signs(head.weight.shape[1]))


def score_passes(
    model: nn.Module, samples: Sequence[Encoded], *, batch_tokens: int, sketch: Sketch | None = None
) -> Iterator[tuple[list[int], Columns]]:
    """Score `samples`, longest first: for each pass its places in `samples` and its figures by RowScores' names.

    batch_tokens: tokens of one pass, padding aside. The model's training mode is put back.
    """
    device = next(model.parameters()).device
    for places in passes([len(sample.input_ids) for sample in samples], batch_tokens):
        batch = to_device(collate(samples, places, pad_token_id=0), device)
        scores = score_rows(model, batch, sketch)
        figures = {"loss": scores.loss, "el2n": scores.el2n, "accuracy": scores.accuracy}
        figures |= {"embedding": scores.embedding} if scores.sketch is None else {"sketch": scores.sketch}
        yield places, {name: tensor.float().cpu().numpy() for name, tensor in figures.items()}


def passes(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Places of the samples of each pass: sorted by length, longest first, at most `batch_tokens` tokens together."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    found: list[list[int]] = []
    room = 0
    for place in order:
        if lengths[place] > room:
            found.append([])
            room = batch_tokens
        found[-1].append(place)
        room -= lengths[place]
    return found


@torch.no_grad()
def score_rows(model: nn.Module, batch: Batch, sketch: Sketch | None = None) -> RowScores:
    """Scores of each row of a padded batch in evaluation mode; the model's training mode is put back."""
    causal = language_model(model)
    was_training = causal.training
    causal.eval()
    try:
        with last_hidden(causal) as hidden:
            found = supervised_logits(causal, batch)
    finally:
        causal.train(was_training)
    mask = batch["attention_mask"].bool()
    states = hidden[0][0] if bare(causal).config._attn_implementation == SEGMENT else hidden[0][mask]  # (tokens, d)
    tokens = _token_figures(found, sketch)
    num_rows = len(batch["labels"])
    weight = _sum_rows(found.weights, found.rows, num_rows)
    count = torch.bincount(found.rows, minlength=num_rows)
    loss = _sum_rows(tokens["nll"] * found.weights, found.rows, num_rows) / weight
    gradient = _sketched(tokens["error"], _predicting(states, batch), found.rows, num_rows, sketch) if sketch else None
    return RowScores(
        loss=loss,
        el2n=_sum_rows(tokens["el2n"], found.rows, num_rows) / count,
        accuracy=_sum_rows(tokens["correct"], found.rows, num_rows) / count,
        embedding=_by_position(states, mask),
        sketch=gradient,
    )


def alone(sample: Encoded) -> Encoded:
    """Every supervised turn of `sample` without what it answers: with the one token before it, which predicts nothing.

    The same tokens are supervised as in `sample`, so IFD = loss / loss of this compares like with like.
    """
    keep = [label != IGNORE_INDEX for label in sample.labels]
    keep = [now or after for now, after in zip(keep, [*keep[1:], False], strict=True)]
    places = [place for place, kept in enumerate(keep) if kept]
    weights = sample.weights
    return replace(
        sample,
        input_ids=[sample.input_ids[place] for place in places],
        labels=[sample.labels[place] for place in places],
        weights=[weights[place] for place in places] if weights is not None else None,
    )


def language_model(model: nn.Module) -> Any:
    """The PEFT or Transformers model that `model` is or holds. Raises ValueError if it holds none."""
    found = next((part for part in model.modules() if isinstance(part, PeftModel | PreTrainedModel)), None)
    if found is None:
        raise ValueError(f"model must be or hold a Transformers or PEFT model, got {type(model).__name__}")
    return found


def bare(model: nn.Module) -> PreTrainedModel:
    """The Transformers model inside a PEFT model, or `model`."""
    causal = language_model(model)
    return causal.get_base_model() if isinstance(causal, PeftModel) else causal


@contextmanager
def last_hidden(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, the last hidden states of each forward pass are appended to the list: (B, T, d), or (1, tokens, d)."""
    states: list[Tensor] = []
    hook = bare(model).get_decoder().register_forward_hook(lambda _, __, output: states.append(output[0]))
    try:
        yield states
    finally:
        hook.remove()


def _token_figures(found: SupervisedLogits, sketch: Sketch | None) -> dict[str, Tensor]:
    """nll, el2n, correct float32 (N,), and with a sketch error (N, r); a chunk of logits in float32 at a time."""
    parts: dict[str, list[Tensor]] = {"nll": [], "el2n": [], "correct": [], "error": []}
    for start in range(0, max(len(found.targets), 1), CHUNK):
        part = found.logits[start : start + CHUNK].to(torch.float32, copy=True)
        wanted = found.targets[start : start + CHUNK, None]
        largest, likeliest = part.max(-1, keepdim=True)
        right = part.gather(1, wanted) - largest
        total = part.sub_(largest).exp_().sum(-1, keepdim=True)
        squares = (torch.linalg.vector_norm(part, dim=-1, keepdim=True) / total).square()
        probability = right.exp() / total
        parts["nll"].append((total.log() - right)[:, 0])
        parts["el2n"].append((1 - 2 * probability + squares).clamp_(min=0).sqrt_()[:, 0])
        parts["correct"].append((likeliest == wanted)[:, 0].float())
        if sketch is not None:
            parts["error"].append(part @ sketch.outputs / total - sketch.outputs[wanted[:, 0]])
    return {name: torch.cat(tensors) for name, tensors in parts.items() if tensors}


def _predicting(states: Tensor, batch: Batch) -> Tensor:
    """The hidden states (N, d) that predict the supervised tokens, out of those of all real tokens."""
    mask = batch["attention_mask"].bool()
    predicts = torch.zeros_like(mask)
    predicts[:, :-1] = batch["labels"][:, 1:] != IGNORE_INDEX
    return states[predicts[mask]]


def _sketched(errors: Tensor, states: Tensor, rows: Tensor, num_rows: int, sketch: Sketch) -> Tensor:
    """Mean over a row's tokens of (p - y) h', sketched on both sides: (B, r r)."""
    short = states.float() @ sketch.inputs  # (N, r)
    outer = [errors[rows == row].T @ short[rows == row] / max(int((rows == row).sum()), 1) for row in range(num_rows)]
    return torch.stack(outer).flatten(1)


def _by_position(states: Tensor, mask: Tensor) -> Tensor:
    """sum_t t h_t / sum_t t over the real tokens of each row, t from 1: float32 (B, d)."""
    place = mask.cumsum(1)[mask].float()
    row = mask.nonzero()[:, 0]
    sums = torch.zeros(len(mask), states.shape[1], device=states.device).index_add_(
        0, row, states.float() * place[:, None]
    )
    return sums / _sum_rows(place, row, len(mask))[:, None]


def _sum_rows(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    return torch.zeros(num_rows, device=values.device).index_add_(0, rows, values)
