"""CoresetSelector: samples -> the ones worth training on. The reference's class, and what lies behind it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from sagetune import models
from sagetune.chat import IGNORE_INDEX, Encoded, Unfit, encode
from sagetune.config import CORESET_STRATEGIES, CoresetConfig, ModelConfig, Problems
from sagetune.config.coreset import CORESET_LOSS_RATIO, CORESET_STRATEGY, CORESET_TARGET_SIZE
from sagetune.formats import from_record
from sagetune.selection import scoring
from sagetune.selection.embedding import tfidf
from sagetune.selection.facility import DENSE_LIMIT
from sagetune.selection.features import (
    Embed,
    Item,
    Material,
    Stage,
    embedded,
    needs_model,
    no_stage,
    pool_of,
    uses_model,
)
from sagetune.selection.picks import Picks
from sagetune.selection.strategies import Pool, choose

MAX_LENGTH = 2048
BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Selection:
    """What was selected from a pool, and at what price."""

    picks: Picks
    pool: Pool
    """The features that decided."""
    seconds: float
    forward_tokens: int
    """Tokens that went through the model for it, those of a backward pass counted three times."""
    reused_tokens: int
    """Tokens whose scores were in the cache."""


class CoresetSelector:
    """Selects training samples.

    strategy: loss_topk, diversity, hybrid, random, or one of `sagetune.config.CORESET_STRATEGIES`; what each means and
    where it comes from stands in `sagetune.selection.strategies`. target_size: samples to select. loss_ratio: share of
    hybrid's samples that is selected by loss.

    options: everything else (`loss_ratio` here beats the one there). seed: of random draws. tokenizer: of samples that
    are conversations; None = that of the model. max_length: tokens of one sample. embed: samples -> vectors (n, d), in
    place of the built-in embeddings. dev_samples: what rds, grad_sketch and less select for, in the forms of `select`.
    stage: opens a progress display. Raises ValueError for a value out of range.
    """

    def __init__(
        self,
        strategy: str = CORESET_STRATEGY,
        target_size: int = CORESET_TARGET_SIZE,
        loss_ratio: float = CORESET_LOSS_RATIO,
        *,
        options: CoresetConfig | None = None,
        seed: int = 0,
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int = MAX_LENGTH,
        embed: Embed | None = None,
        dev_samples: Sequence[dict[str, Any]] | None = None,
        stage: Stage = no_stage,
    ) -> None:
        problems = Problems()
        problems.one_of("strategy", strategy, CORESET_STRATEGIES)
        problems.check(target_size >= 1, "target_size", target_size, "at least 1")
        problems.check(0 <= loss_ratio <= 1, "loss_ratio", loss_ratio, "in [0, 1]")
        problems.report()
        self.strategy = strategy
        self.target_size = target_size
        self.loss_ratio = loss_ratio
        self.options = dataclasses.replace(options or CoresetConfig(), loss_ratio=loss_ratio)
        self.seed = seed
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.embed = embed
        self.dev_samples = dev_samples
        self.stage = stage

    def select(self, samples: Sequence[dict[str, Any]], model: nn.Module | None = None) -> list[dict[str, Any]]:
        """The selected dicts themselves, in the order of choosing: highest loss, gain or similarity first.

        samples: records in any format that `sagetune.formats` reads, or tokenised ones (`input_ids`; `labels` with -100
        if not every token is supervised; `attention_mask` if there is padding). model: a Transformers or PEFT model, or
        a module that holds one. Returns min(target_size, len(samples)) of them; fewer only where the model's figures
        are not finite, or coreset.dedup=pool leaves fewer. Raises ValueError if the strategy scores by a model and
        there is none, and for a sample without a supervised token.
        """
        indices = self.select_indices(samples, model).picks.indices
        return [samples[index] for index in indices]

    def select_indices(self, samples: Sequence[dict[str, Any]], model: nn.Module | None = None) -> Selection:
        """Which samples `select` returns, with scores, features and costs."""
        self._check_model(model)
        if model is not None and uses_model(self.strategy, self.options, self.embed):
            encoded = self.encode(samples, model)
            dev = self.encode(self.dev_samples, model, "dev_samples") if self.dev_samples else None
        else:
            model, encoded, dev = None, None, None
        items = [_item(sample, f"samples[{index}]") for index, sample in enumerate(samples)]
        return self.run(items, encoded, model, dev)

    def run(
        self,
        items: Sequence[Item],
        encoded: Sequence[Encoded] | None,
        model: nn.Module | None,
        dev: Sequence[Encoded] | None = None,
    ) -> Selection:
        """Select from samples that are read, and where a model is run tokenised, already."""
        self._check_model(model)
        started = time.perf_counter()
        material = Material(items=items, encoded=encoded, model=model, dev=dev, embed=self.embed, stage=self.stage)
        if not items:
            return Selection(Picks.of([], []), Pool(size=0, options=self.options), 0.0, 0, 0)
        pool = pool_of(material, self.strategy, self.options, self.seed)
        tasks = [item.task if isinstance(item, Encoded) else item["task"] for item in items]
        with self.stage(f"select by {self.strategy}", min(self.target_size, len(items))) as on_progress:
            picks = choose(self.strategy, pool, self.target_size, tasks, on_progress)
        seconds = time.perf_counter() - started
        return Selection(picks, pool, seconds, material.forward_tokens, material.reused_tokens)

    def compute_losses(self, samples: Sequence[dict[str, Any]], model: nn.Module) -> list[float]:
        """Mean negative log-likelihood of each sample's supervised tokens, nats."""
        encoded = self.encode(samples, model)
        losses = np.empty(len(encoded))
        with self.stage("score", len(encoded)) as on_progress:
            for places, figures in scoring.score_passes(model, encoded, batch_tokens=self.options.batch_tokens):
                losses[places] = figures["loss"]
                if on_progress is not None:
                    on_progress(len(places))
        return losses.tolist()

    def compute_diversity(self, samples: Sequence[dict[str, Any]]) -> np.ndarray:
        """1 - cosine similarity of every pair of samples: float32 (n, n), symmetric, 0 on the diagonal, 0-2.

        By `embed` or the TF-IDF embedding. Raises ValueError above 20,000 samples, 1.6 GB; `select` needs no matrix.
        """
        if len(samples) > DENSE_LIMIT:
            gigabytes = 4 * len(samples) ** 2 / 1e9
            raise ValueError(
                f"samples: a matrix of {len(samples)} samples takes {gigabytes:.0f} GB, the limit is {DENSE_LIMIT} "
                f"samples; select(...) covers larger pools without one"
            )
        items = [_item(sample, f"samples[{index}]") for index, sample in enumerate(samples)]
        points = tfidf(items, self.options.embed_dim) if self.embed is None else embedded(self.embed, items)
        distances = (points @ points.T).neg_().add_(1).clamp_(0, 2).fill_diagonal_(0)
        for start in range(0, len(points), BLOCK):  # the two halves of a product may differ in the last bit
            distances[start:, start : start + BLOCK] = distances[start : start + BLOCK, start:].T.clone()
        for start in range(0, len(points), BLOCK):
            corner = distances[start : start + BLOCK, start : start + BLOCK]
            corner.copy_(corner.triu() + corner.triu(1).T)
        return distances.numpy()

    def encode(self, samples: Sequence[dict[str, Any]], model: nn.Module, name: str = "samples") -> list[Encoded]:
        """Tokens and labels of each sample. Raises ValueError for one that cannot train, with its place and why."""
        encoded = []
        for index, sample in enumerate(samples):
            item = _item(sample, f"{name}[{index}]")
            result = item if isinstance(item, Encoded) else encode(item, self._tokenizer(model), self.max_length)
            if isinstance(result, Encoded) and len(result.input_ids) > self.max_length:
                long = f"{len(result.input_ids)} tokens, max_length is {self.max_length}"
                raise ValueError(f"{name}[{index}]: {long}; shorten it or pass CoresetSelector(max_length=...)")
            if isinstance(result, Unfit):
                raise ValueError(f"{name}[{index}]: cannot train ({result.reason}: {result.detail}); leave it out")
            encoded.append(result)
        return encoded

    def _tokenizer(self, model: nn.Module) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            name = scoring.bare(model).name_or_path
            if not name:
                raise ValueError(
                    "tokenizer: the model does not say where it comes from; pass CoresetSelector(tokenizer=...)"
                )
            self.tokenizer = models.load_tokenizer(name, ModelConfig())
        return self.tokenizer

    def _check_model(self, model: nn.Module | None) -> None:
        if model is None and needs_model(self.strategy, self.options, self.embed):
            raise ValueError(
                f"strategy {self.strategy!r} scores samples by a model: pass select(samples, model=...), "
                f"or use diversity, length or random"
            )


def _item(sample: dict[str, Any], place: str) -> Item:
    """The conversation or the tokenised sample in a plain dict."""
    if "input_ids" not in sample:
        try:
            return from_record(sample)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    input_ids = [int(token) for token in sample["input_ids"]]
    labels = [int(label) for label in sample.get("labels", input_ids)]
    mask = [bool(real) for real in sample.get("attention_mask", [1] * len(input_ids))]
    for name, values in (("labels", labels), ("attention_mask", mask)):
        if len(values) != len(input_ids):
            raise ValueError(f"{place}.{name}: has {len(values)} entries, input_ids has {len(input_ids)}")
    input_ids = [token for token, real in zip(input_ids, mask, strict=True) if real]
    labels = [label for label, real in zip(labels, mask, strict=True) if real]
    if not any(label != IGNORE_INDEX for label in labels[1:]):
        raise ValueError(f"{place}.labels: no token is supervised (all -100, or only the first), so it has no loss")
    return Encoded(str(sample.get("id", place)), str(sample.get("task", "")), input_ids, labels, None, 0)
