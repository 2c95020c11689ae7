"""The answers being written: one token for each a step, over keys and values that stay where they are.

Letters: B rows, W columns in use, K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from sagetune.generation.tree import States, inner_model

ROOM = 64
"""Columns of room that are made at a time."""


class RoomyLayer(DynamicLayer):
    """Keys and values with room behind them: a step writes one column where DynamicLayer would copy all of them."""

    def __init__(self, keys: Tensor, values: Tensor, width: int) -> None:
        """keys, values: (B, K, at least `width`, D), of which the first `width` columns are in use."""
        super().__init__()
        self.lazy_initialization(keys, values)
        self._store = [keys, values]
        self._show(width)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if end > self._store[0].shape[2]:
            self._store = [F.pad(store, (0, 0, 0, end + ROOM - store.shape[2])) for store in self._store]
        for store, new in zip(self._store, (key_states, value_states), strict=True):
            store[:, :, start:end] = new
        self._show(end)
        return self.keys, self.values

    def drop(self, holes: list[int], movers: list[int], num_rows: int) -> None:
        """Move the rows `movers` into `holes` and keep the first `num_rows`."""
        width = self.keys.shape[2]
        for store in self._store:
            store[holes, :, :width] = store[movers, :, :width]
        self._store = [store[:num_rows] for store in self._store]
        self._show(width)

    def _show(self, width: int) -> None:
        self.keys, self.values = (store[:, :, :width] for store in self._store)


class Rows:
    """Rows in one batch, each ending in the last column; they come and go without a trace in the others."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = inner_model(model)
        self._device = next(model.parameters()).device
        self._cache = Cache(layers=[])
        self._lengths: list[int] = []  # tokens of each row

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Add a token to each row; returns the logits of the next ones, (B, V)."""
        lengths = torch.tensor(self._lengths, device=self._device)[:, None]
        width = self._cache.get_seq_length()
        logits = self._model(
            input_ids=torch.tensor(tokens, device=self._device)[:, None],
            position_ids=lengths,
            attention_mask=(torch.arange(width + 1, device=self._device) >= width - lengths).long(),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        self._lengths = [length + 1 for length in self._lengths]
        return logits[:, -1]

    def add(self, rows: Sequence[States]) -> None:
        """Put `rows` below the present ones, in no more columns than the longest row needs."""
        self._lengths.extend(len(states[0][0][0]) for states in rows)
        width = max(self._lengths)
        if not self._cache.layers:
            self._cache.layers = [RoomyLayer(keys[None, :, :0], values[None, :, :0], 0) for keys, values in rows[0]]
        num_present = len(self._lengths) - len(rows)
        for number, layer in enumerate(self._cache.layers):
            keys = _stacked(layer.keys[:num_present], [states[number][0] for states in rows], width)
            values = _stacked(layer.values[:num_present], [states[number][1] for states in rows], width)
            self._cache.layers[number] = RoomyLayer(keys, values, width)

    def drop(self, ended: set[int]) -> list[int]:
        """Take the rows `ended` out; returns which row each of the others' places now holds."""
        num_left = len(self._lengths) - len(ended)
        order = list(range(num_left))
        holes = [row for row in order if row in ended]
        movers = [row for row in range(num_left, len(self._lengths)) if row not in ended]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        self._lengths = [self._lengths[row] for row in order]
        for layer in self._cache.layers:
            layer.drop(holes, movers, num_left)
        return order


def _stacked(present: Tensor, new: Sequence[Tensor], width: int) -> Tensor:
    """(B, K, width + ROOM, D): the rows `present` (.., K, W, D) and `new` (K, tokens, D), each ending at `width`."""
    num, used = len(present), min(width, present.shape[2])
    store = present.new_zeros(num + len(new), present.shape[1], width + ROOM, present.shape[3])
    store[:num, :, width - used : width] = present[:, :, present.shape[2] - used :]
    for row, state in enumerate(new, start=num):
        store[row, :, width - state.shape[1] : width] = state
    return store
