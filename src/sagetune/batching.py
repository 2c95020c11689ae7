"""Encoded samples -> batches, in an order that (seed, epoch) alone decides and that resumes anywhere.

An epoch is cut into optimiser steps first and each step into micro-batches second, so batch 8 x accumulate 1 and
batch 1 x accumulate 8 train on the same samples in the same steps. Inside a step samples are sorted by length.
Letters: B rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from sagetune.chat import IGNORE_INDEX, Encoded


class Batch(TypedDict):
    """Right-padded rows: input_ids, attention_mask, labels int64 (B, T); sample_index int64 (B,) into the samples.

    loss_weights float32 (B, T) is there only if a row weighs its tokens unequally.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    sample_index: Tensor
    loss_weights: NotRequired[Tensor]


def collate(samples: Sequence[Encoded], indices: Sequence[int], pad_token_id: int) -> Batch:
    """Pad `samples[indices]` on the right to the longest of them."""
    rows = [samples[index] for index in indices]
    width = max(len(row.input_ids) for row in rows)
    batch = Batch(
        input_ids=_pad([row.input_ids for row in rows], width, pad_token_id, torch.int64),
        attention_mask=_pad([[1] * len(row.input_ids) for row in rows], width, 0, torch.int64),
        labels=_pad([row.labels for row in rows], width, IGNORE_INDEX, torch.int64),
        sample_index=torch.tensor(list(indices), dtype=torch.int64),
    )
    if any(row.weights is not None for row in rows):
        batch["loss_weights"] = _pad([_weights(row) for row in rows], width, 0.0, torch.float32)
    return batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor on `device`."""
    moved: Any = {name: cast(Tensor, tensor).to(device) for name, tensor in batch.items()}
    return moved


def _pad(rows: list[Any], width: int, value: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=dtype)


def _weights(row: Encoded) -> list[float]:
    return row.weights if row.weights is not None else [float(label != IGNORE_INDEX) for label in row.labels]


def epoch_steps(
    lengths: Sequence[int], samples_per_step: int, bucket_steps: int, seed: int, epoch: int
) -> list[list[int]]:
    """The sample indices of each optimiser step of one epoch; every sample once.

    lengths: tokens of each sample. Samples are shuffled, taken in windows of `bucket_steps` steps, sorted by length
    inside a window (longest first, so that memory peaks early), and the steps of all windows are shuffled again where
    sorting gave them an order. The step with the remainder, if any, comes last.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths)).tolist()
    window = samples_per_step * bucket_steps
    steps: list[list[int]] = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window], key=lambda index: -lengths[index])
        steps += [part[i : i + samples_per_step] for i in range(0, len(part), samples_per_step)]
    last = [steps.pop()] if len(steps[-1]) < samples_per_step else []
    if bucket_steps > 1:
        steps = [steps[i] for i in rng.permutation(len(steps)).tolist()]
    return steps + last


class BatchLoader:
    """Iterates over the micro-batches of an epoch; its state is two numbers, so a run resumes at any batch.

    rank and world_size share each step's micro-batches among processes. Every iteration that runs to its end goes on
    to the next epoch's order. Without `choose` every sample is served. group_size: neighbouring samples that stay
    together and count as one, such as the sides of a pair; `batch_size`, `chosen` and `open_step` then count groups.
    """

    def __init__(
        self,
        samples: Sequence[Encoded],
        *,
        batch_size: int,
        accumulate: int,
        pad_token_id: int,
        seed: int,
        bucket_steps: int = 1,
        group_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(samples) < world_size:
            raise ValueError(f"{len(samples)} training samples cannot be shared among {world_size} processes")
        self.samples = samples
        self.chosen = list(range(len(samples) // group_size))
        """The samples that are served, in their order."""
        self.before_epoch: Callable[[int], None] | None = None
        """Called with the number of an epoch before its first batch is made, also in a resumed run; may `choose`."""
        self.pad_token_id = pad_token_id
        self._group_size = group_size
        self._lengths = [sum(len(samples[row].input_ids) for row in self._rows([group])) for group in self.chosen]
        self._batch_size = batch_size
        self.accumulate = accumulate
        self._bucket_steps = bucket_steps
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._epoch = 0
        self._position = 0
        self.open_step: list[int] = []
        """All samples of the optimiser step of the batch that was given away last, on this process."""

    def choose(self, indices: Sequence[int]) -> None:
        """Serve these samples alone, from the next epoch on."""
        self.chosen = sorted(indices)

    def __len__(self) -> int:
        """Micro-batches a process in one epoch."""
        return sum(len(micro) for micro in self._micro_batches(0))

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one epoch."""
        return len(self._micro_batches(0))

    def steps(self) -> Iterator[list[int]]:
        """The samples of each optimiser step on this process, from the first epoch on, without end."""
        for epoch in count():
            for step in self._micro_batches(epoch):
                yield self._rows([index for micro in step for index in micro])

    @property
    def epoch_of_last_batch(self) -> int:
        """The epoch, from 0, of the batch that was given away last."""
        return self._epoch if self._position else self._epoch - 1

    def __iter__(self) -> Iterator[Batch]:
        if self._position == 0 and self.before_epoch is not None:
            self.before_epoch(self._epoch)
        batches = [
            (indices, [index for micro in step for index in micro])
            for step in self._micro_batches(self._epoch)
            for indices in step
        ]
        while self._position < len(batches):
            indices, self.open_step = batches[self._position]
            # Moved on before the batch is given away: a checkpoint made while it trains must not serve it again.
            self._position += 1
            if self._position == len(batches):
                self._epoch, self._position = self._epoch + 1, 0
                yield collate(self.samples, self._rows(indices), self.pad_token_id)
                return
            yield collate(self.samples, self._rows(indices), self.pad_token_id)

    def state_dict(self) -> dict[str, Any]:
        """The epoch, the number of its micro-batches that were given away, and the samples that are served."""
        return {"epoch": self._epoch, "position": self._position, "chosen": self.chosen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._position, self.chosen = state["epoch"], state["position"], state["chosen"]

    def _rows(self, groups: Sequence[int]) -> list[int]:
        """The samples of the groups."""
        return [group * self._group_size + place for group in groups for place in range(self._group_size)]

    def _micro_batches(self, epoch: int) -> list[list[list[int]]]:
        """For each step of the epoch, this process's micro-batches."""
        per_step = self._batch_size * self.accumulate * self._world_size
        lengths = [self._lengths[index] for index in self.chosen]
        places = epoch_steps(lengths, per_step, self._bucket_steps, self._seed, epoch)
        steps = [[self.chosen[place] for place in step] for step in places]
        if len(steps) > 1 and len(steps[-1]) < self._world_size:  # a rank would get nothing: join the step before
            remainder = steps.pop()
            steps[-1] = sorted(steps[-1] + remainder, key=lambda index: -self._lengths[index])
        return [self._share(step) for step in steps]

    def _share(self, step: list[int]) -> list[list[int]]:
        """Cut a step into equally many micro-batches for every process, none of them empty, and take ours.

        With several processes a micro-batch of an epoch's last step can hold a sample more than `batch_size`.
        """
        per_round = self._batch_size * self._world_size
        rounds = min(-(-len(step) // per_round), self.accumulate, len(step) // self._world_size)
        parts = np.array_split(np.array(step), rounds * self._world_size)
        return [part.tolist() for part in parts[self._rank :: self._world_size]]
