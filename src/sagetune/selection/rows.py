"""Selection inside the training step: of a batch of candidates the rows that are trained on."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from sagetune.batching import Batch
from sagetune.chat import IGNORE_INDEX
from sagetune.config import CoresetConfig
from sagetune.selection.embedding import centred
from sagetune.selection.picks import Picks
from sagetune.selection.scoring import Columns, passes, score_rows
from sagetune.selection.strategies import Pool, choose, needs


@dataclass(frozen=True, slots=True)
class RowChooser:
    """Chooses 1 / coreset.candidates of a batch's rows, by the model as it is now, without gradient.

    Near-duplicates are not looked for: a batch's rows are few.
    """

    strategy: str
    options: CoresetConfig
    seed: int

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Batch, Picks]:
        """The rows that stay, in the batch's order and padded to the longest of them; and all that is known of them."""
        rows = len(batch["labels"])
        keep = max(1, round(rows / self.options.candidates))
        everything = batch, Picks.of(np.arange(rows), np.zeros(rows))
        if keep == rows:
            return everything
        pool = self._pool(model, batch)
        if pool.usable is not None and not pool.usable.all():
            return everything  # the step itself refuses a loss that is not finite, and names the sample
        picks = choose(self.strategy, pool, keep)
        order = np.argsort(picks.indices)
        return take(batch, picks.indices[order]), Picks(picks.indices[order], picks.scores[order])

    def _pool(self, model: nn.Module, batch: Batch) -> Pool:
        wanted = needs(self.strategy, self.options)
        length = (batch["labels"][:, 1:] != IGNORE_INDEX).sum(1).cpu().numpy().astype(np.float64)
        # Random draws follow from the rows, so a resumed run repeats them.
        seed = zlib.crc32(batch["sample_index"].cpu().numpy().tobytes(), self.seed)
        figures, points, usable = {"length": length}, None, None
        if wanted - {"length", "words"}:
            columns = self._score(model, batch)
            hidden = torch.from_numpy(columns.pop("embedding"))
            figures |= columns
            usable = np.isfinite(columns["loss"]) & torch.isfinite(hidden).all(1).numpy()
            points = centred(hidden)
        return Pool(size=len(length), options=self.options, seed=seed, figures=figures, points=points, usable=usable)

    def _score(self, model: nn.Module, batch: Batch) -> Columns:
        """Figures of the rows, at most coreset.batch_tokens tokens at a time."""
        lengths = batch["attention_mask"].sum(1).tolist()
        columns: Columns = {}
        for places in passes(lengths, self.options.batch_tokens):
            scores = score_rows(model, take(batch, np.array(places)))
            for name, tensor in (("loss", scores.loss), ("el2n", scores.el2n), ("embedding", scores.embedding)):
                values = tensor.float().cpu().numpy()
                columns.setdefault(name, np.empty((len(lengths), *values.shape[1:]), dtype=np.float32))[places] = values
        return columns


def scores_rows(strategy: str, options: CoresetConfig) -> bool:
    """Whether choosing rows runs the model."""
    return bool(needs(strategy, options) - {"length", "words"})


def take(batch: Batch, rows: np.ndarray) -> Batch:
    """The given rows of a batch, without the columns that are padding in all of them."""
    index = torch.from_numpy(rows).to(batch["labels"].device)
    width = int(batch["attention_mask"][index].sum(1).max())
    parts = {name: cast(Tensor, tensor)[index] for name, tensor in batch.items()}
    return cast(Batch, {name: part[:, :width] if part.ndim > 1 else part for name, part in parts.items()})
