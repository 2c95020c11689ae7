"""Exact attention on padding-free rows: all samples of a batch in one row, each attends to itself alone.

Registered in transformers as the attention "sagetune_segment". A model's forward takes the segments' borders as
`cu_seq_lens_q` (int, (samples + 1,)), `position_ids` that restart with each sample, and no attention mask.
Letters: H query heads, K key/value heads, G = H / K, T tokens of the row, n tokens of one segment, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

SEGMENT = "sagetune_segment"
PADDED = "sdpa"
LONGEST_DENSE = 512
"""Longest segment for which keeping its (n, n) weights beats the blockwise kernel, on a CPU."""
ADVICE = "set model.attention=sdpa"


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each segment. query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D).

    Raises ValueError for what it does not compute: windows, soft caps, sinks, and a call without segments.
    """
    unknown = [name for name in ("sliding_window", "softcap", "s_aux") if kwargs.get(name) is not None]
    if False in (kwargs.get("is_causal"), vars(module).get("is_causal")):
        unknown.append("attention to later tokens")
    if unknown:
        raise ValueError(f"model.attention=segment does not compute this model's {', '.join(unknown)}: {ADVICE}")
    if cu_seq_lens_q is None or query.shape[0] != 1:
        raise ValueError(
            f"model.attention=segment takes one row and cu_seq_lens_q, got {query.shape[0]} rows: {ADVICE}"
        )
    lengths = cu_seq_lens_q.diff().tolist()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    outputs = [
        _attend(q, k, v, scale, dropout)
        for q, k, v in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(outputs, 1), None


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float) -> Tensor:
    """One segment: (1, H, n, D), (1, K, n, D) twice -> (1, n, H, D)."""
    if query.device.type == "cpu" and query.shape[2] <= LONGEST_DENSE and dropout == 0:
        return DenseCausal.apply(query[0], key[0], value[0], scale)[None]
    groups = query.shape[1] != key.shape[1]
    out = F.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=groups
    )
    return out.transpose(1, 2)


@lru_cache(maxsize=64)
def _future(length: int, groups: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(G n, n): minus infinity where a stacked query would see a later token, else 0. All layers share it."""
    return torch.full((length, length), float("-inf"), dtype=dtype, device=device).triu_(1).repeat(groups, 1)


class DenseCausal(torch.autograd.Function):
    """Causal attention of one segment as six grouped matrix products, the weights kept for the backward pass.

    The G query heads of a key/value head are stacked, so keys and values are never expanded. On a CPU this takes about
    half the time of the blockwise kernel, whose backward pass reaches a tenth of the processor's rate.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        heads, length, size = query.shape
        stacked = query.reshape(key.shape[0], -1, size)  # (K, G n, D)
        future = _future(length, heads // key.shape[0], query.dtype, query.device)
        # Mask and scale inside the product, and a softmax that sums in float32 whatever its type: two passes over the
        # (n, n) weights of every head, where each further one would cost as much as the product.
        weights = torch.baddbmm(future, stacked, key.transpose(1, 2), alpha=scale).softmax(-1)  # (K, G n, n)
        out = torch.bmm(weights, value)
        ctx.save_for_backward(stacked, key, value, weights, out)
        ctx.scale = scale
        return out.view(heads, length, -1).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        stacked, key, value, weights, out = ctx.saved_tensors
        length, heads, _ = grads[0].shape
        grad = grads[0].transpose(0, 1).reshape(out.shape)
        grad_value = torch.bmm(weights.transpose(1, 2), grad)
        inner = (grad.float() * out.float()).sum(-1, keepdim=True).neg_().to(grad.dtype)
        grad_scores = torch.baddbmm(inner, grad, value.transpose(1, 2)).mul_(weights)
        grad_query = torch.bmm(grad_scores, key).mul_(ctx.scale).view(heads, length, -1)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), stacked).mul_(ctx.scale)
        return grad_query, grad_key, grad_value, None


@contextmanager
def padded_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model takes padded batches and a cache, as generation needs them."""
    before = model.config._attn_implementation
    if before != SEGMENT:
        yield
        return
    model.set_attn_implementation(PADDED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def check_segments(model: PreTrainedModel) -> None:
    """Raise ValueError if `model` does not keep the segments of a row apart.

    Nothing in a configuration tells reliably (recurrent layers, attention outside transformers' interface), so the
    model runs twice on a few tokens: with another first segment the second one must come out the same.
    """
    first, second = 16, 7
    vocabulary = model.config.get_text_config().vocab_size
    where = torch.cat([torch.arange(first), torch.arange(second)])[None].to(model.device)
    borders = torch.tensor([0, first, first + second], device=model.device)
    ids = (torch.arange(first + second, device=model.device)[None] * 7 + 3) % vocabulary
    others = torch.where(torch.arange(first + second, device=model.device) < first, (ids + 11) % vocabulary, ids)
    segments: dict[str, Any] = {"position_ids": where, "attention_mask": None, "cu_seq_lens_q": borders}
    training = model.training
    model.eval()
    try:
        a, b = (model(input_ids=row, use_cache=False, **segments).logits[0, first:].float() for row in (ids, others))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if ADVICE in str(error):
            raise
        name = type(model).__name__
        raise ValueError(f"model.attention=segment does not work with {name} ({error}): {ADVICE}") from error
    finally:
        model.train(training)
    change = (a - b).abs().max() / a.abs().max()
    if not change < 1e-5:  # the shapes are the same, so even rounding is, but where tokens choose their experts
        raise ValueError(
            f"model.attention=segment: {type(model).__name__} lets one sample of a row change the next, by "
            f"{change:.1%} of the largest logit: {ADVICE}"
        )


AttentionInterface.register(SEGMENT, segment_attention)
AttentionMaskInterface.register(SEGMENT, lambda *args, **kwargs: None)  # the segments are the mask
