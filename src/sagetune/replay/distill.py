"""Dark experience: a replayed sample is held to what the model believed when it learnt it (DER++, arXiv:2004.07211).

The paper compares logits; those of a language model are free up to a constant and 49,152 wide. Here the K likeliest
tokens keep their probabilities, everything else is one bucket, and beliefs are compared by KL divergence.

Letters: N supervised tokens, V vocabulary, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sagetune.losses import SupervisedLogits
from sagetune.replay.buffer import Item

TOKENS, LOG_PROBS = "tokens", "log_probs"
LEAST = 1e-9


@torch.no_grad()
def beliefs_of(found: SupervisedLogits, num_rows: int, top_k: int) -> list[dict[str, np.ndarray]]:
    """For each of the first `num_rows` rows: tokens int32 and log_probs float16, (N of the row, K)."""
    inside = found.rows < num_rows
    log_probs, tokens = found.logits[inside].float().log_softmax(-1).topk(min(top_k, found.logits.shape[-1]))
    sizes = found.rows[inside].bincount(minlength=num_rows).tolist()
    columns = tokens.int().cpu().split(sizes), log_probs.half().cpu().split(sizes)
    return [{TOKENS: t.numpy().copy(), LOG_PROBS: p.numpy().copy()} for t, p in zip(*columns, strict=True)]


def dark_loss(found: SupervisedLogits, items: Sequence[Item], first_row: int) -> Tensor:
    """Sum over the replayed supervised tokens of KL(belief then || belief now), nats, with gradient.

    items: the replayed samples, rows `first_row` and on of the batch. Those without a belief count nothing.
    """
    total = found.logits.new_zeros((), dtype=torch.float32)
    for row, item in enumerate(items, start=first_row):
        if not item.beliefs:
            continue
        tokens = torch.from_numpy(item.beliefs[TOKENS]).to(found.logits.device).long()
        then = torch.from_numpy(item.beliefs[LOG_PROBS]).to(found.logits.device).float()
        now = found.logits[found.rows == row].float().log_softmax(-1).gather(1, tokens)
        total = total + _divergence(then, now)
    return total


def _divergence(then: Tensor, now: Tensor) -> Tensor:
    """Sum of KL over K kept tokens and the bucket of all others; log probabilities (N, K)."""
    rest_then, rest_now = ((1 - p.exp().sum(-1)).clamp(min=LEAST) for p in (then, now))
    kept = (then.exp() * (then - now)).sum(-1)
    return (kept + rest_then * (rest_then.log() - rest_now.log())).sum()
