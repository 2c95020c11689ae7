"""Samples, model -> the features of a pool that a strategy needs; each is computed once and only if it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sagetune.chat import IGNORE_INDEX, Encoded
from sagetune.config import CoresetConfig
from sagetune.sample import Sample
from sagetune.selection import scoring
from sagetune.selection.embedding import centred, tfidf, whitened
from sagetune.selection.picks import Progress
from sagetune.selection.scoring import Columns
from sagetune.selection.store import store_for
from sagetune.selection.strategies import Pool, needs
from sagetune.selection.warmup import checkpoints, gradient_features, trainable_adapter

Item = Sample | Encoded
Stage = Callable[[str, int], AbstractContextManager[Progress | None]]
"""Opens a progress display: its title and how many samples it counts to."""
Embed = Callable[[Sequence[Item]], "np.ndarray | Tensor"]
"""Samples -> one vector each, (n, d)."""
MODEL_FIGURES = ("loss", "el2n", "accuracy")


def no_stage(title: str, total: int) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(kw_only=True)
class Material:
    """What features are made from. encoded, dev: None where the strategy runs no model."""

    items: Sequence[Item]
    encoded: Sequence[Encoded] | None
    model: nn.Module | None
    dev: Sequence[Encoded] | None = None
    embed: Embed | None = None
    stage: Stage = no_stage
    forward_tokens: int = field(default=0, init=False)
    """Tokens that went through the model, those of a backward pass counted three times."""
    reused_tokens: int = field(default=0, init=False)
    """Tokens whose scores came from the cache instead."""


def needs_model(strategy: str, options: CoresetConfig, embed: Embed | None) -> bool:
    """Whether the strategy cannot do without a model."""
    wanted = needs(strategy, options)
    hidden = "points" in wanted and embed is None and options.embedding == "hidden"
    return hidden or bool(wanted - {"points", "words", "length"})


def uses_model(strategy: str, options: CoresetConfig, embed: Embed | None) -> bool:
    """Whether the strategy makes use of a model that it is given."""
    automatic = "points" in needs(strategy, options) and embed is None and options.embedding == "auto"
    return automatic or needs_model(strategy, options, embed)


def pool_of(material: Material, strategy: str, options: CoresetConfig, seed: int) -> Pool:
    """The pool with every feature that `strategy` needs."""
    wanted = needs(strategy, options)
    figures: Columns = {}
    usable = np.ones(len(material.items), dtype=bool)
    hidden: Tensor | None = None
    uses_hidden = "points" in wanted and material.embed is None and material.model is not None
    uses_hidden = uses_hidden and options.embedding != "tfidf"
    if wanted & {*MODEL_FIGURES, "ifd"} or uses_hidden:
        columns = _score(material, options)
        hidden = torch.from_numpy(columns.pop("embedding"))
        usable &= torch.isfinite(hidden).all(1).numpy()
        figures |= columns
    if "ifd" in wanted:
        figures["ifd"] = _ifd(material, options, figures)
    if "length" in wanted:
        figures["length"] = lengths(material)
    words = None
    if "words" in wanted or ("points" in wanted and material.embed is None and not uses_hidden):
        with material.stage("embed words", len(material.items)) as on_progress:
            words = tfidf(material.items, options.embed_dim, on_progress)
    similarity = _similarity(material, options, wanted, seed)
    trajectories = _trajectories(material, options, seed) if "trajectories" in wanted else None
    for values in (*figures.values(), similarity, trajectories):
        if values is not None:
            usable &= np.isfinite(np.asarray(values)).reshape(len(usable), -1).all(1)
    points = None
    if "points" in wanted:
        points = _points(material, options, hidden if uses_hidden else None, words, usable)
    return Pool(
        size=len(material.items),
        options=options,
        seed=seed,
        figures=figures,
        usable=usable,
        points=points,
        words=words if "words" in wanted else None,
        similarity=similarity,
        dev_tasks=[sample.task for sample in material.dev or ()],
        trajectories=trajectories,
    )


def lengths(material: Material) -> np.ndarray:
    """Supervised tokens of each sample; its words where nothing is tokenised."""
    if material.encoded is not None:
        counted = [sum(label != IGNORE_INDEX for label in sample.labels) for sample in material.encoded]
    else:
        counted = [_words_of_replies(item) for item in material.items]
    return np.array(counted, dtype=np.float64)


def embedded(embed: Embed, items: Sequence[Item]) -> Tensor:
    """The caller's embedding as unit rows on the CPU. Raises ValueError if it is not one finite vector a sample."""
    vectors = torch.as_tensor(embed(items)).detach().float().cpu()
    if vectors.ndim != 2 or len(vectors) != len(items) or not torch.isfinite(vectors).all():
        shape = f"{tuple(vectors.shape)}{'' if torch.isfinite(vectors).all() else ' with NaN or infinity'}"
        raise ValueError(f"embed must return one finite vector a sample, ({len(items)}, d), got {shape}")
    return F.normalize(vectors, dim=1)


def _points(
    material: Material, options: CoresetConfig, hidden: Tensor | None, words: Tensor | None, usable: np.ndarray
) -> Tensor:
    """Unit rows: the caller's embedding, else the model's hidden states, else words; whitened if asked for.

    Rows of samples that are not usable are zero, and have no part in means.
    """
    if material.embed is not None:
        points = embedded(material.embed, material.items)
    elif hidden is not None:
        points = _on_usable(centred, hidden, usable)
    else:
        assert words is not None
        points = words
    return _on_usable(lambda rows: whitened(rows, options.embed_dim), points, usable) if options.whiten else points


def _on_usable(change: Callable[[Tensor], Tensor], points: Tensor, usable: np.ndarray) -> Tensor:
    if not usable.any():
        return torch.zeros_like(points)
    places = torch.from_numpy(usable.nonzero()[0])
    changed = change(points[places])
    return changed.new_zeros(len(points), changed.shape[1]).index_copy_(0, places, changed)


def _score(material: Material, options: CoresetConfig) -> Columns:
    """loss, el2n, accuracy float (n,) and embedding (n, d)."""
    return _passes(material, material.encoded or (), options, "score", "scores", None)


def _ifd(material: Material, options: CoresetConfig, figures: Columns) -> np.ndarray:
    answers = [scoring.alone(sample) for sample in material.encoded or ()]
    return figures["loss"] / _passes(material, answers, options, "score answers alone", "scores", None)["loss"]


def _similarity(material: Material, options: CoresetConfig, wanted: set[str], seed: int) -> np.ndarray | None:
    """(n, q) to the development set, by the feature that the strategy compares; None if it compares none."""
    if not {"target_hidden", "target_sketch", "target_gradient"} & wanted:
        return None
    if not material.dev:
        raise ValueError("coreset.dev_data: this strategy selects what resembles a development set; give one")
    if "target_gradient" in wanted:
        return _influence(material, options, seed)
    assert material.model is not None
    sketch = scoring.make_sketch(material.model, options.sketch_dim) if "target_sketch" in wanted else None
    name, kind = ("sketch", f"sketch{options.sketch_dim}") if sketch else ("embedding", "scores")
    pool = torch.from_numpy(_passes(material, material.encoded or (), options, "score", kind, sketch)[name])
    dev = torch.from_numpy(_passes(material, material.dev, options, "score development set", kind, sketch)[name])
    if not torch.isfinite(dev).all():
        bad = [material.dev[place].sample_id for place in (~torch.isfinite(dev).all(1)).nonzero()[:, 0].tolist()]
        raise ValueError(f"coreset.dev_data: the model's figures of {', '.join(bad)} are not finite; leave them out")
    if sketch is None:  # hidden states share a mean; gradients do not
        mean = pool[torch.isfinite(pool).all(1)].mean(0)
        pool, dev = pool - mean, dev - mean
    return (F.normalize(pool, dim=1) @ F.normalize(dev, dim=1).T).numpy()


def _passes(
    material: Material,
    samples: Sequence[Encoded],
    options: CoresetConfig,
    title: str,
    kind: str,
    sketch: scoring.Sketch | None,
) -> Columns:
    """Figures of `samples` by the model, from the cache where they are there."""
    model = material.model
    assert model is not None
    store = store_for(model, kind, options.cache)
    with material.stage(title, len(samples)) as on_progress:
        columns, scored, reused = store.complete(
            samples,
            lambda part: scoring.score_passes(model, part, batch_tokens=options.batch_tokens, sketch=sketch),
            on_progress,
        )
    material.forward_tokens += scored
    material.reused_tokens += reused
    return columns


def _influence(material: Material, options: CoresetConfig, seed: int) -> np.ndarray:
    """LESS, definition 3.1: sum over checkpoints of learning rate x cosine of Adam's direction and the dev gradient."""
    assert material.model is not None
    assert material.encoded is not None
    assert material.dev is not None
    total = torch.zeros(len(material.encoded), len(material.dev))
    each = len(material.encoded) + len(material.dev)
    with (
        trainable_adapter(material.model, seed) as model,
        material.stage("warm-up and gradients", each * options.warmup_epochs) as on_progress,
    ):
        for rate, optimizer in checkpoints(model, material.encoded, options, seed):
            pool = gradient_features(model, material.encoded, options.sketch_dim, optimizer, on_progress)
            dev = gradient_features(model, material.dev, options.sketch_dim, None, on_progress)
            total += rate * (pool @ dev.T)
    sizes = sum(len(sample.input_ids) for sample in (*material.encoded, *material.dev))
    material.forward_tokens += round(3 * options.warmup_epochs * (sizes + options.warmup_share * sizes))
    return total.numpy()


def _trajectories(material: Material, options: CoresetConfig, seed: int) -> Tensor:
    """Loss of each sample at each checkpoint of the warm-up, float32 (n, checkpoints)."""
    assert material.model is not None
    assert material.encoded is not None
    columns = []
    total = len(material.encoded) * options.warmup_epochs
    with trainable_adapter(material.model, seed) as model, material.stage("loss trajectories", total) as on_progress:
        for _ in checkpoints(model, material.encoded, options, seed):
            losses = np.empty(len(material.encoded), dtype=np.float32)
            for places, figures in scoring.score_passes(model, material.encoded, batch_tokens=options.batch_tokens):
                losses[places] = figures["loss"]
                if on_progress is not None:
                    on_progress(len(places))
            columns.append(losses)
    sizes = sum(len(sample.input_ids) for sample in material.encoded)
    material.forward_tokens += round(options.warmup_epochs * sizes * (1 + 3 * options.warmup_share))
    return torch.from_numpy(np.stack(columns, axis=1))


def _words_of_replies(item: Item) -> int:
    if isinstance(item, Encoded):
        return sum(label != IGNORE_INDEX for label in item.labels)
    replies = [message for message in item["messages"] if message["role"] == "assistant"]
    return sum(len(message["content"].split()) + len(str(message.get("tool_calls", "")).split()) for message in replies)
