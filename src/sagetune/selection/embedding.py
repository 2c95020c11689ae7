"""Samples -> unit vectors without a model: hashed TF-IDF, projected; and what all embeddings share.

Letters: n samples, d dimensions.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sagetune.chat import Encoded
from sagetune.sample import Sample
from sagetune.selection.picks import Progress

BUCKETS = 2**17
"""Hash values of terms; two terms that share one count as the same."""
WORD = re.compile(r"\w+|[^\w\s]")
PROJECTION_SEED = 20240917
BATCH = 4096


def terms(item: Sample | Encoded) -> list[str]:
    """Words, or tokens, and pairs of neighbours, in order.

    Of a conversation: what user, assistant and tools said and called. System messages and tool schemas, which many
    samples share, are left out. Of a tokenised sample: all its tokens.
    """
    if isinstance(item, Encoded):
        words = [str(token) for token in item.input_ids]
    else:
        words = WORD.findall(" ".join(_said(item)).lower())
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def tfidf(items: Sequence[Sample | Encoded], dim: int, on_progress: Progress | None = None) -> Tensor:
    """Unit rows float32 (n, dim): sublinear term frequency x inverse document frequency of hashed terms, projected.

    The projection has independent random signs (Achlioptas 2003): cosines are kept up to a random error of about
    1 / sqrt(dim). A sample without any word gets a zero row.
    """
    counted = []
    documents = np.zeros(BUCKETS, dtype=np.int64)
    for item in items:
        counts = Counter(zlib.crc32(term.encode()) % BUCKETS for term in terms(item))
        buckets = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
        weights = 1 + np.log(np.fromiter(counts.values(), dtype=np.float32, count=len(counts)))
        documents[buckets] += 1
        counted.append((buckets, weights))
        if on_progress is not None:
            on_progress(1)
    rarity = (np.log((1 + len(items)) / (1 + documents)) + 1).astype(np.float32)
    generator = torch.Generator().manual_seed(PROJECTION_SEED)
    signs = torch.randint(0, 2, (BUCKETS, dim), generator=generator, dtype=torch.int8).mul_(2).sub_(1).float()
    rows = [_project(counted[start : start + BATCH], rarity, signs) for start in range(0, len(counted), BATCH)]
    return F.normalize(torch.cat(rows), dim=1) if rows else torch.zeros(0, dim)


def centred(points: Tensor) -> Tensor:
    """Unit rows (n, d) after the mean is taken out: hidden states of a language model share one large direction."""
    return F.normalize(points.float() - points.float().mean(0), dim=1)


def whitened(points: Tensor, dim: int) -> Tensor:
    """Unit rows (n, at most dim): decorrelated, each dimension with the same variance (PCA whitening).

    Keeps the leading directions: at most n / 4 of them, since with as many as samples every sample is as far from every
    other, and none whose variance is under 1e-6 of the largest.
    """
    dim = max(1, min(dim, len(points) // 4))
    moved = (points - points.mean(0)).double()
    values, vectors = torch.linalg.eigh(moved.T @ moved / max(len(points) - 1, 1))
    keep = values.flip(0)[:dim] > 1e-6 * values[-1]
    directions = vectors.flip(1)[:, :dim][:, keep] / values.flip(0)[:dim][keep].sqrt()
    return F.normalize((moved @ directions).float(), dim=1)


def _said(sample: Sample) -> Iterable[str]:
    for message in sample["messages"]:
        if message["role"] != "system":
            yield message["content"]
            for call in message.get("tool_calls", []):
                yield call["function"]["name"]
                yield json.dumps(call["function"]["arguments"], ensure_ascii=False)


def _project(counted: Sequence[tuple[np.ndarray, np.ndarray]], rarity: np.ndarray, signs: Tensor) -> Tensor:
    buckets = np.concatenate([found for found, _ in counted])
    weights = np.concatenate([weight for _, weight in counted]) * rarity[buckets]
    offsets = np.cumsum([0] + [len(found) for found, _ in counted])[:-1]
    return F.embedding_bag(
        torch.from_numpy(buckets),
        signs,
        torch.from_numpy(offsets),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights),
    )
