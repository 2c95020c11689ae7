"""Batch <-> rows without padding: how a sample is taken out of a batch, kept small, and put into another batch.

A batch is a dict of columns with B rows each: tensors (B, T) whose padding is declared, tensors (B,) or of any other
declared shape, or lists of B values. Letters: B rows, T tokens of the longest row.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sagetune.chat import IGNORE_INDEX
from sagetune.replay.buffer import Row

PADDING: dict[str, float | None] = {
    "input_ids": 0, "attention_mask": 0, "labels": IGNORE_INDEX, "loss_weights": 0.0, "token_type_ids": 0,
    "position_ids": 0,
}  # fmt: skip
"""What pads each known column of shape (B, T)."""
MASK, IDS, LABELS, WEIGHTS = "attention_mask", "input_ids", "labels", "loss_weights"
TOKEN_COLUMNS = (IDS, LABELS, MASK)
SHORTENED = (IDS, LABELS)
"""Columns that a kept sample has in a narrower type."""
IMPLIED = (MASK, WEIGHTS)
"""Columns that a kept sample lacks where they say nothing new: every token is one, every supervised token weighs 1."""


@dataclass(frozen=True, slots=True)
class Columns:
    """How the columns of batches are padded.

    padding: value by column of shape (B, T); None for a column whose rows all have one shape.
    """

    padding: Mapping[str, float | None]
    side: str = "right"
    """Where padding goes if a batch does not show it."""

    def check(self, batch: Mapping[str, Any]) -> int:
        """The number of rows. Raises ValueError for columns of unequal length or of an undeclared shape."""
        if not batch:
            raise ValueError("a batch must have at least one column, got none")
        sizes, widths = {}, {}
        for name, column in batch.items():
            if isinstance(column, Tensor):
                self._check_tensor(name, column)
                sizes[name] = column.shape[0]
                if column.ndim > 1 and self.padding[name] is not None:
                    widths[name] = column.shape[1]
            else:
                sizes[name] = len(column)
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the columns of a batch must have one number of rows, got {sizes}")
        if len(set(widths.values())) > 1:
            raise ValueError(f"the padded columns of a batch must have one width, got {widths}")
        return next(iter(sizes.values()))

    def _check_tensor(self, name: str, column: Tensor) -> None:
        if not column.ndim:
            raise ValueError(f"the columns of a batch must have a row for each sample, batch[{name!r}] has none")
        if column.dtype == torch.bfloat16:
            raise ValueError(f"batch[{name!r}] is bfloat16, which NumPy does not have: convert it to float32")
        if column.ndim > 1 and (name not in self.padding or (column.ndim > 2 and self.padding[name] is not None)):
            raise ValueError(
                f"batch[{name!r}] has shape {tuple(column.shape)} and no declared padding: give "
                f"padding={{{name!r}: <value>}}, or None if all its rows have this shape"
            )

    def ragged(self, batch: Mapping[str, Any]) -> set[str]:
        """The padded columns (B, T)."""
        return {
            name
            for name, column in batch.items()
            if isinstance(column, Tensor) and column.ndim > 1 and self.padding[name] is not None
        }

    def reader(self, batch: Mapping[str, Any]) -> Reader:
        """What takes single rows out of the batch."""
        return Reader(batch, self.ragged(batch))

    def join(self, batch: Mapping[str, Any], rows: Sequence[Row], *, left: bool | None = None) -> dict[str, Any]:
        """The batch with `rows` behind its own, all padded to the longest; left: on which side, None = as the batch is.

        Raises ValueError if the rows' columns are not the batch's.
        """
        if not rows:
            return dict(batch)
        for row in rows:
            if set(batch) - {*IMPLIED} != set(row) - {*IMPLIED}:
                raise ValueError(f"the batch has the columns {sorted(batch)}, a kept sample has {sorted(row)}")
        left = self.pads_left(batch) if left is None else left
        joined: dict[str, Any] = {}
        columns = dict(batch)
        if WEIGHTS not in batch and any(WEIGHTS in row for row in rows):
            columns[WEIGHTS] = (batch[LABELS] != IGNORE_INDEX).float()
        for name, column in columns.items():
            if not isinstance(column, Tensor):
                joined[name] = list(column) + [plain(row, name) for row in rows]
            elif column.ndim == 1 or self.padding[name] is None:
                new = torch.from_numpy(np.stack([row[name] for row in rows])).to(column)
                joined[name] = torch.cat([column, new])
            else:
                joined[name] = self._pad(name, column, [_sequence(row, name) for row in rows], left)
        return joined

    def _pad(self, name: str, column: Tensor, rows: list[np.ndarray], left: bool) -> Tensor:
        value, old = self.padding[name], column.shape[1]
        assert value is not None
        width = max(old, *(len(row) for row in rows))
        block = np.full((len(rows), width), value, dtype=_array(name, column[:0]).dtype)
        for place, row in enumerate(rows):
            block[place, slice(width - len(row), None) if left else slice(len(row))] = row
        above = torch.nn.functional.pad(column, (width - old, 0) if left else (0, width - old), value=value)
        return torch.cat([above, torch.from_numpy(block).to(column)])

    def pads_left(self, batch: Mapping[str, Any]) -> bool:
        """Whether the batch is padded on the left: as its mask shows it, else as `side` says."""
        mask = batch.get(MASK)
        if isinstance(mask, Tensor) and mask.shape[1] and not bool(mask.all()):
            return not bool(mask[:, 0].all())
        return self.side == "left"


class Reader:
    """Rows of a batch without their padding, as copies that share nothing with it.

    input_ids are kept as int32, labels that repeat them as one byte a token, attention_mask not at all.
    """

    def __init__(self, batch: Mapping[str, Any], ragged: set[str]) -> None:
        self._batch = batch
        self._ragged = ragged
        self._padded_labels = set(SHORTENED) <= ragged

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        """The columns to keep. attention_mask is not where there are input_ids: it is made anew from their number."""
        implied = {MASK} if {MASK, IDS} <= self._ragged else set()
        return {name: _array(name, column) for name, column in self._batch.items() if name not in implied}

    def __call__(self, place: int) -> Row:
        tokens = self._tokens[place]
        row: Row = {}
        for name, column in self._arrays.items():
            value = column[place][tokens] if name in self._ragged else column[place]
            row[name] = value if name in SHORTENED else _own(value)
        ids, labels = row.get(IDS), row.get(LABELS)
        if ids is not None:
            row[IDS] = ids.astype(np.int32) if isinstance(ids, np.ndarray) else _own(ids)
        if labels is not None:
            row[LABELS] = self._labels(place, row, ids, labels)
        return row

    def _labels(self, place: int, row: Row, ids: Any, labels: Any) -> Any:
        """The labels as they are kept; loss weights of `row` that they imply go."""
        if not isinstance(ids, np.ndarray) or not isinstance(labels, np.ndarray):
            return _own(labels)
        if labels.dtype.kind != "i" or labels.shape != ids.shape:
            return labels.copy()
        if self._padded_labels:
            supervised, repeats = self._supervised[place][self._tokens[place]].copy(), self._repeating[place]
        else:
            supervised = labels != IGNORE_INDEX
            repeats = bool(((labels == ids) | ~supervised).all())
        if isinstance(row.get(WEIGHTS), np.ndarray) and np.array_equal(row[WEIGHTS], supervised):
            del row[WEIGHTS]
        return supervised if repeats else labels.astype(np.int32)

    @cached_property
    def _tokens(self) -> list[Any]:
        """What selects each row's tokens: a slice where they lie together, else a mask."""
        if MASK not in self._ragged:
            return [slice(None)] * len(next(iter(self._arrays.values())))
        masks = _array(MASK, self._batch[MASK]) != 0
        starts, counts, width = masks.argmax(1).tolist(), masks.sum(1).tolist(), masks.shape[1]
        ends = [width - behind for behind in masks[:, ::-1].argmax(1).tolist()]
        spans = enumerate(zip(starts, ends, counts, strict=True))
        return [slice(start, end) if end - start == count else masks[row] for row, (start, end, count) in spans]

    @cached_property
    def _supervised(self) -> np.ndarray:
        """Which labels of a padded batch are trained on; all rows at once, as are the two around it."""
        return self._arrays[LABELS] != IGNORE_INDEX

    @cached_property
    def _repeating(self) -> list[bool]:
        """Of each row of a padded batch whether every label is its token or none."""
        return ((self._arrays[LABELS] == self._arrays[IDS]) | ~self._supervised).all(1).tolist()


def plain(row: Row, name: str) -> Any:
    """A kept value as it stands in a batch of lists."""
    value = _sequence(row, name) if name in (IDS, LABELS, *IMPLIED) else row[name]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else copy.deepcopy(value)


def tensors(row: Row) -> dict[str, Any]:
    """A kept sample as tensors without a batch axis, with its attention_mask; other values as they are."""
    implied = [MASK] if isinstance(row.get(IDS), np.ndarray) else []
    values = {name: _sequence(row, name) for name in dict.fromkeys([*row, *implied])}
    return {
        name: torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray | np.generic) else copy.deepcopy(value)
        for name, value in values.items()
    }


def whole_labels(labels: np.ndarray, input_ids: np.ndarray) -> np.ndarray:
    """Labels int32 (T,) from the mask that stands for them; others as they are."""
    return np.where(labels, input_ids, IGNORE_INDEX).astype(np.int32) if labels.dtype == np.bool_ else labels


def _sequence(row: Row, name: str) -> Any:
    """A kept column at full width: attention_mask is made anew, labels are put together again."""
    if name == MASK and MASK not in row:
        return np.ones(len(row[IDS]), dtype=np.int64)
    if name == WEIGHTS and WEIGHTS not in row:
        return (_sequence(row, LABELS) != IGNORE_INDEX).astype(np.float32)
    value = row[name]
    if name not in (IDS, LABELS) or not isinstance(value, np.ndarray) or value.dtype.kind == "f":
        return value
    return (whole_labels(value, row[IDS]) if name == LABELS else value).astype(np.int64)


def _own(value: Any) -> Any:
    """A copy that nobody else can change."""
    if isinstance(value, np.ndarray):
        return value.copy()
    return value if isinstance(value, np.generic) else copy.deepcopy(value)


def _array(name: str, column: Any) -> Any:
    """A tensor, or lists of tokens, as NumPy sees it; anything else as it is."""
    if isinstance(column, Tensor):
        return column.numpy(force=True)  # detached, on the CPU
    if name in TOKEN_COLUMNS and all(
        isinstance(value, list) and all(type(item) is int for item in value) for value in column
    ):
        return [np.asarray(value, dtype=np.int64) for value in column]
    return column
