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
from sagetune.selection.scoring import score_rows
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
        if keep == rows:
            return batch, Picks.of(np.arange(rows), np.zeros(rows))
        picks = choose(self.strategy, self._pool(model, batch), keep)
        order = np.argsort(picks.indices)
        return take(batch, picks.indices[order]), Picks(picks.indices[order], picks.scores[order])

    def _pool(self, model: nn.Module, batch: Batch) -> Pool:
        wanted = needs(self.strategy, self.options)
        length = (batch["labels"][:, 1:] != IGNORE_INDEX).sum(1).cpu().numpy().astype(np.float64)
        # Random draws follow from the rows, so a resumed run repeats them.
        seed = zlib.crc32(batch["sample_index"].cpu().numpy().tobytes(), self.seed)
        figures, points = {"length": length}, None
        if wanted - {"length", "words"}:
            scores = score_rows(model, batch)
            figures |= {"loss": scores.loss.cpu().numpy(), "el2n": scores.el2n.cpu().numpy()}
            points = centred(scores.embedding).cpu()
        return Pool(size=len(length), options=self.options, seed=seed, figures=figures, points=points)


def scores_rows(strategy: str, options: CoresetConfig) -> bool:
    """Whether choosing rows runs the model."""
    return bool(needs(strategy, options) - {"length", "words"})


def take(batch: Batch, rows: np.ndarray) -> Batch:
    """The given rows of a batch, without the columns that are padding in all of them."""
    index = torch.from_numpy(rows).to(batch["labels"].device)
    width = int(batch["attention_mask"][index].sum(1).max())
    parts = {name: cast(Tensor, tensor)[index] for name, tensor in batch.items()}
    return cast(Batch, {name: part[:, :width] if part.ndim > 1 else part for name, part in parts.items()})
