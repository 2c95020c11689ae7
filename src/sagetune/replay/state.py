"""The content of a buffer as a few flat tensors, which load with `weights_only=True`, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sagetune.replay.buffer import Item, KeyedBuffer, Row
from sagetune.replay.rows import IDS, LABELS, whole_labels


def pack(buffer: KeyedBuffer) -> dict[str, Any]:
    """ids, keys, groups (n,) and the items' columns."""
    return {
        "ids": torch.from_numpy(buffer.ids.view(np.int64).copy()),
        "keys": torch.from_numpy(buffer.keys.copy()),
        "groups": torch.from_numpy(buffer.groups.copy()),
        "rows": _pack_rows([item.row for item in buffer.items]),
        "beliefs": _pack_rows([item.beliefs for item in buffer.items]),
    }


def unpack(state: dict[str, Any], buffer: KeyedBuffer) -> None:
    """Put the items of `pack` into an empty buffer."""
    ids = state["ids"].numpy().view(np.uint64).tolist()
    rows, beliefs = (_unpack_rows(state[name], len(ids)) for name in ("rows", "beliefs"))
    items = [Item(row, belief) for row, belief in zip(rows, beliefs, strict=True)]
    buffer.offer(ids, state["keys"].tolist(), state["groups"].tolist(), items.__getitem__)


def _pack_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """By column: which rows have it, and its values, end to end with their shapes."""
    packed: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        places = [place for place, row in enumerate(rows) if name in row]
        values = [rows[place][name] for place in places]
        if name == LABELS and len({value.dtype for value in values if isinstance(value, np.ndarray)}) > 1:
            values = [
                whole_labels(value, rows[place][IDS]) if isinstance(value, np.ndarray) else value
                for place, value in zip(places, values, strict=True)
            ]
        packed[name] = {"places": torch.tensor(places), **_pack_values(values)}
    return packed


def _pack_values(values: list[Any]) -> dict[str, Any]:
    if not all(isinstance(value, np.ndarray | np.generic) for value in values):
        return {"list": [value.tolist() if isinstance(value, np.ndarray | np.generic) else value for value in values]}
    flat = np.concatenate([np.asarray(value).reshape(-1) for value in values])
    shapes = torch.tensor([np.shape(value) for value in values], dtype=torch.int64)
    return {"values": torch.from_numpy(flat), "shapes": shapes}


def _unpack_rows(packed: dict[str, Any], num: int) -> list[Row]:
    rows: list[Row] = [{} for _ in range(num)]
    for name, column in packed.items():
        for place, value in zip(column["places"].tolist(), _unpack_values(column), strict=True):
            rows[place][name] = value
    return rows


def _unpack_values(column: dict[str, Any]) -> list[Any]:
    if "list" in column:
        return list(column["list"])
    flat, start, found = column["values"].numpy(), 0, []
    for shape in column["shapes"].tolist():
        end = start + math.prod(shape)
        part = flat[start:end].reshape(shape)
        found.append(part.copy() if shape else part[()])
        start = end
    return found
