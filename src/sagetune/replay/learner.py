"""OnlineContinualLearner: a buffer of earlier samples, and batches mixed with them. The reference's class.

What the buffer keeps (selection_strategy), of all samples that it was offered:

reservoir       a uniform sample of the distinct ones (the default: hard to beat, arXiv:1902.10486)
task_balanced   as many of each task (batch["task_id"]), uniform in each
fifo            the latest
loss            a sample weighted by loss, mean nats a supervised token (surprise: arXiv:2511.22367)
coreset         when a task ends, its best coverage (CoresetSelector's diversity), as many of each task

What is replayed (draw), never a sample that is in the batch already and never one twice in a batch:

uniform         each as likely
task_balanced   tasks in turn, uniform in each
mir             of `candidates` times as many uniform ones those whose loss the batch's own step would raise most
                (maximally interfered retrieval, arXiv:1908.04742)

Everything random is a hash of (seed, sample id, number of the draw), so a resumed run repeats it and, beside the
samples, only counters have to be saved. With torch.distributed the ranks exchange what they offer: every rank holds the
buffer that a single process would hold, and the ranks replay different samples, each leaving out its own batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from sagetune.config import Problems
from sagetune.config.continual import (
    REPLAY_BUFFER_SIZE,
    REPLAY_CANDIDATES,
    REPLAY_DRAWS,
    REPLAY_MODES,
    REPLAY_RATIO,
    REPLAY_STRATEGIES,
    REPLAY_STRATEGY,
)
from sagetune.replay.buffer import Item, KeyedBuffer, Row, hash64, uniform
from sagetune.replay.rows import IDS, PADDING, Columns, plain, tensors
from sagetune.replay.state import pack, unpack
from sagetune.selection import CoresetSelector

ID_COLUMNS = ("sample_id", "sample_index")
TASK_COLUMN = "task_id"
ROUNDING = 1e-9
Interference = Callable[[dict[str, Any]], Tensor]
"""A batch of candidates -> by how much a step would raise the loss of each, float (B,)."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """A batch with its replayed rows."""

    batch: dict[str, Any]
    """Current rows first, then the replayed ones."""
    current: list[int]
    """The rows of the given batch that are in it: all, but with mode=replace."""
    replayed: list[Item]


class OnlineContinualLearner:
    """Keeps earlier samples and mixes them into batches.

    buffer_size: samples kept. replay_ratio: replayed rows for each current row; the fraction is carried over, so that
    after S rows floor(replay_ratio S) were due. selection_strategy, draw: see the module.

    mode: append puts replayed rows behind the batch; replace drops as many rows of the batch, so that the share of
    replayed rows is replay_ratio. pad_token_id: of input_ids. padding: values for further columns of shape (B, T), None
    for one whose rows have one shape; an undeclared one is an error. padding_side: of batches that do not show it.
    seed: of everything random. candidates: for draw=mir and selection_strategy=coreset.

    A sample's id is batch["sample_id"] or batch["sample_index"] where there is one, else a hash of its content; its
    tokens are those that attention_mask shows, all if there is none. Raises ValueError for a value out of range.
    """

    def __init__(
        self,
        buffer_size: int = REPLAY_BUFFER_SIZE,
        replay_ratio: float = REPLAY_RATIO,
        selection_strategy: str = REPLAY_STRATEGY,
        *,
        draw: str = "uniform",
        mode: str = "append",
        pad_token_id: int = 0,
        padding: Mapping[str, float | None] | None = None,
        padding_side: str = "right",
        seed: int = 0,
        candidates: int = REPLAY_CANDIDATES,
    ) -> None:
        problems = Problems()
        problems.check(buffer_size >= 1, "buffer_size", buffer_size, "at least 1")
        problems.check(0 <= replay_ratio <= 1, "replay_ratio", replay_ratio, "in [0, 1]")
        problems.one_of("selection_strategy", selection_strategy, REPLAY_STRATEGIES)
        problems.one_of("draw", draw, REPLAY_DRAWS)
        problems.one_of("mode", mode, REPLAY_MODES)
        problems.one_of("padding_side", padding_side, ("left", "right"))
        problems.check(candidates >= 1, "candidates", candidates, "at least 1")
        problems.report()
        self.buffer_size = buffer_size
        self.replay_ratio = replay_ratio
        self.selection_strategy = selection_strategy
        self.draw = draw
        self.mode = mode
        self.seed = seed
        self.candidates = candidates
        self.columns = Columns(PADDING | {IDS: pad_token_id} | dict(padding or {}), padding_side)
        self.clear_buffer()

    def __len__(self) -> int:
        """Samples in the buffer."""
        return len(self._buffer)

    @property
    def num_bytes(self) -> int:
        """Bytes of the arrays in the buffer."""
        items = [*self._buffer.items, *self._waiting.items]
        values = [value for item in items for value in (*item.row.values(), *item.beliefs.values())]
        return sum(value.nbytes for value in values if isinstance(value, np.ndarray | np.generic))

    @property
    def ids(self) -> list[int]:
        """The ids of the kept samples, as in their batches; the 64-bit hashes of ids that are strings, or missing."""
        return self._buffer.ids.view(np.int64).tolist()

    @property
    def groups(self) -> list[int]:
        """The task_id of each kept sample, beside `ids`."""
        return self._buffer.groups.tolist()

    def mix_with_replay(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with its replayed rows: a new dict; its own rows come first and are only padded further.

        batch: columns of B rows: tensors (B, T) with declared padding, tensors (B,), or lists. An empty buffer gives
        the batch as it is.
        """
        return self.mix(batch).batch

    def update_buffer(self, batch: Mapping[str, Any], losses: Sequence[float] | None = None) -> None:
        """Offer every row of a batch to the buffer. Give it the batch as it was before mixing.

        losses: mean negative log-likelihood of each row, nats; for selection_strategy=loss, whose weights they are.
        """
        self.update(batch, losses)

    def get_replay_samples(self, n: int) -> list[dict[str, Any]]:
        """min(n, len(self)) samples drawn without replacement, each a dict of tensors without padding and batch axis.

        With draw=mir they are drawn uniformly: there is no batch to interfere. Of several ranks each draws from its own
        part of the buffer.
        """
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        return [tensors(self._buffer.items[place].row) for place in self._drawn(n, frozenset())]

    def clear_buffer(self) -> None:
        """Forget all samples and start counting anew."""
        self._buffer = KeyedBuffer(self.buffer_size, balanced=self.selection_strategy in ("task_balanced", "coreset"))
        self._waiting = KeyedBuffer(self.buffer_size * self.candidates)
        self._rows_seen = 0
        self._offered = 0
        self._draws = 0

    def mix(
        self, batch: Mapping[str, Any], *, exclude: Iterable[int] = (), interference: Interference | None = None
    ) -> Mixed:
        """`mix_with_replay`, and which rows are what. exclude: further ids, as in batches, that are not replayed."""
        rows = self.columns.check(batch)
        due = self._due(rows)
        if not due:
            return Mixed(dict(batch), list(range(rows)), [])
        excluded = {*self._ids_of(batch, rows), *map(_identity, exclude)}
        places = self._choose(due, excluded, batch, interference)
        items = [self._buffer.items[place] for place in places]
        current = list(range(rows))
        kept = dict(batch)
        if self.mode == "replace" and items:
            current = self._without(batch, rows, len(items))
            kept = {name: _rows(column, current) for name, column in batch.items()}
        left = self.columns.pads_left(batch)  # the rows that stay need not show it
        return Mixed(self.columns.join(kept, [item.row for item in items], left=left), current, items)

    def update(
        self,
        batch: Mapping[str, Any],
        losses: Sequence[float] | None = None,
        beliefs: Sequence[dict[str, np.ndarray]] | None = None,
    ) -> None:
        """`update_buffer` with what the model believed of each row's supervised tokens."""
        rows = self.columns.check(batch)
        if self.selection_strategy == "loss":
            losses = _checked_losses(losses, rows)
        ids = self._ids_of(batch, rows)
        groups = self._groups_of(batch, rows)

        row = self.columns.reader(batch)

        def item(index: int) -> Item:
            return Item(row(index), beliefs[index] if beliefs is not None else {})

        self._offer(ids, groups, losses, item)

    def end_task(self) -> None:
        """A task is over: selection_strategy=coreset now chooses its samples. Others keep theirs as they come."""
        waiting = self._waiting
        if not len(waiting):
            return
        order = np.argsort(waiting.ids)  # the same choice, whatever the order of arrival was
        items = [waiting.items[place] for place in order]
        samples = [{name: plain(item.row, name) for name in item.row} for item in items]
        picks = CoresetSelector("diversity", self.buffer_size, seed=self.seed).select_indices(samples).picks.indices
        chosen = order[picks]
        ids, groups = waiting.ids[chosen].tolist(), waiting.groups[chosen].tolist()
        self._buffer.offer(ids, list(range(len(chosen))), groups, lambda rank: items[picks[rank]])
        waiting.clear()

    def renew(self, batch: Mapping[str, Any]) -> None:
        """Put the rows of a batch in place of the kept samples with their ids; others are not taken in."""
        rows, reader = self.columns.check(batch), self.columns.reader(batch)
        places = {identity: place for place, identity in enumerate(self._buffer.ids.tolist())}
        for index, identity in enumerate(self._ids_of(batch, rows)):
            if identity in places:
                self._buffer.items[places[identity]] = Item(reader(index))

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as tensors and plain values: `torch.load(weights_only=True)` reads it."""
        counters = {"rows_seen": self._rows_seen, "offered": self._offered, "draws": self._draws}
        return {"buffer": pack(self._buffer), "waiting": pack(self._waiting), **counters}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned. Raises ValueError if it holds more samples than buffer_size."""
        if len(state["buffer"]["ids"]) > self.buffer_size:
            raise ValueError(f"buffer_size must be at least {len(state['buffer']['ids'])}, got {self.buffer_size}")
        self.clear_buffer()
        unpack(state["buffer"], self._buffer)
        unpack(state["waiting"], self._waiting)
        self._rows_seen, self._offered, self._draws = state["rows_seen"], state["offered"], state["draws"]

    def _offer(
        self, ids: list[int], groups: list[int], losses: Sequence[float] | None, item: Callable[[int], Item]
    ) -> None:
        if dist.is_initialized() and dist.get_world_size() > 1:
            ids, groups, losses, item = _of_all_ranks(ids, groups, losses, item)
        if self.selection_strategy == "fifo":
            keys = [-float(self._offered + place) for place in range(len(ids))]
        else:
            draws = -np.log(uniform(self.seed, np.array(ids, dtype=np.uint64)))
            weights = np.maximum(np.array(losses), 1e-12) if self.selection_strategy == "loss" else 1.0
            keys = (draws / weights).tolist()
        self._offered += len(ids)
        buffer = self._waiting if self.selection_strategy == "coreset" else self._buffer
        buffer.offer(ids, keys, groups, item)

    def _due(self, rows: int) -> int:
        """Replayed rows that are due for the next `rows`: the fraction is carried over."""
        before = math.floor(self.replay_ratio * self._rows_seen + ROUNDING)
        self._rows_seen += rows
        return math.floor(self.replay_ratio * self._rows_seen + ROUNDING) - before

    def _choose(
        self, num: int, excluded: set[int], batch: Mapping[str, Any], interference: Interference | None
    ) -> list[int]:
        """Places in the buffer."""
        if self.draw != "mir":
            return self._drawn(num, excluded)
        if interference is None:
            raise ValueError("draw=mir ranks samples by the model: give `interference` to mix, got None")
        places = self._drawn(num * self.candidates, excluded)
        if len(places) <= num:
            return places
        nothing = {name: _rows(column, []) for name, column in batch.items()}
        rows, left = [self._buffer.items[place].row for place in places], self.columns.pads_left(batch)
        scores = interference(self.columns.join(nothing, rows, left=left))
        return [places[best] for best in scores.argsort(descending=True, stable=True)[:num].tolist()]

    def _drawn(self, num: int, excluded: Iterable[int]) -> list[int]:
        """At most `num` places, the smallest hashes first; every rank takes its own part of the same order."""
        ids = self._buffer.ids
        if not len(ids):
            return []
        number, self._draws = self._draws, self._draws + 1
        order = np.argsort(hash64(self._draw_seed(number), ids), kind="stable")
        if self.draw == "task_balanced":
            order = _in_turn(order, self._buffer.groups, self._draw_seed(number))
        if dist.is_initialized():
            order = order[dist.get_rank() :: dist.get_world_size()]
        unwanted = np.isin(ids[order], np.array(list(excluded), dtype=np.uint64))
        return order[~unwanted][:num].tolist()

    def _draw_seed(self, number: int) -> int:
        return (self.seed + 1) << 32 | number  # not self.seed, by which the samples were kept

    def _without(self, batch: Mapping[str, Any], rows: int, num: int) -> list[int]:
        """The rows that stay when `num` of them, the smallest hashes, are dropped."""
        ids = np.array(self._ids_of(batch, rows), dtype=np.uint64)
        hashes = hash64(~self._draw_seed(self._draws), ids)
        return sorted(np.argsort(hashes, kind="stable")[num:].tolist())

    def _ids_of(self, batch: Mapping[str, Any], rows: int) -> list[int]:
        name = next((name for name in ID_COLUMNS if name in batch), None)
        if name is None:
            return [_digest(*_content(row)) for row in map(self.columns.reader(batch), range(rows))]
        given = batch[name].tolist() if isinstance(batch[name], Tensor) else batch[name]
        return [_identity(value) for value in given]

    def _groups_of(self, batch: Mapping[str, Any], rows: int) -> list[int]:
        if TASK_COLUMN not in batch:
            if self.selection_strategy in ("task_balanced", "coreset"):
                raise ValueError(
                    f"selection_strategy={self.selection_strategy} needs batch[{TASK_COLUMN!r}], got {sorted(batch)}"
                )
            return [0] * rows
        given = batch[TASK_COLUMN].tolist() if isinstance(batch[TASK_COLUMN], Tensor) else batch[TASK_COLUMN]
        if not all(isinstance(group, int) for group in given):
            raise ValueError(f"batch[{TASK_COLUMN!r}] must hold whole numbers, got {list(given)!r:.80}")
        return list(given)


def _in_turn(order: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """`order` with the groups taking turns; which comes first in a turn is a hash of the group and the seed."""
    seen: dict[int, int] = {}
    turns: list[int] = []
    for group in groups[order].tolist():
        turns.append(seen.get(group, 0))
        seen[group] = turns[-1] + 1
    return order[np.lexsort((hash64(~seed, groups[order].astype(np.uint64)), np.array(turns)))]


def _identity(value: Any) -> int:
    """An id as an unsigned 64-bit number."""
    return value % 2**64 if isinstance(value, int) else _digest(str(value).encode())


def _checked_losses(losses: Sequence[float] | None, rows: int) -> list[float]:
    if losses is None:
        raise ValueError("selection_strategy=loss weighs samples by their losses: give losses, got None")
    found = [float(loss) for loss in losses]
    if len(found) != rows or not all(map(math.isfinite, found)):
        raise ValueError(f"losses must be one finite number for each of {rows} rows, got {found}")
    return found


def _rows(column: Any, rows: list[int]) -> Any:
    if isinstance(column, Tensor):
        return column[torch.tensor(rows, dtype=torch.int64, device=column.device)]
    return [column[row] for row in rows]


def _content(row: Row) -> list[bytes]:
    values = [row[name] for name in sorted(row)]
    return [value.tobytes() if isinstance(value, np.ndarray | np.generic) else repr(value).encode() for value in values]


def _digest(*parts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


def _of_all_ranks(
    ids: list[int], groups: list[int], losses: Sequence[float] | None, item: Callable[[int], Item]
) -> tuple[list[int], list[int], Sequence[float] | None, Callable[[int], Item]]:
    """What all ranks offer, in the order of the ranks."""
    mine = (ids, groups, list(losses) if losses is not None else [], [item(index) for index in range(len(ids))])
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    all_ids, all_groups, all_losses, items = (
        [value for part in column for value in part] for column in zip(*gathered, strict=True)
    )
    return all_ids, all_groups, all_losses if losses is not None else None, lambda index: items[index]
