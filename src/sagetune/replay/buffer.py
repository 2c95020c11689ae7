"""A buffer that keeps, of all that it is offered, the items with the smallest keys.

With key = a hash of seed and id that is a uniform sample of the distinct ids (a bottom-k sketch): inserting an id again
changes nothing, the order of insertion does not matter, and two buffers merge exactly. With key = -ln(u) / w it is a
weighted sample without replacement (Efraimidis and Spirakis 2006, in exponential form), with key = -time a queue.

Letters: M places, n items.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

INCREMENT = np.uint64(0x9E3779B97F4A7C15)
ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
LAST_SHIFT = np.uint64(31)
"""The constants of splitmix64."""

Row = dict[str, Any]
"""One sample: numpy arrays without padding, or other values, by column."""


@dataclass(slots=True)  # frozen would take twice as long to make, and one is made for each row
class Item:
    """One kept sample."""

    row: Row
    beliefs: dict[str, np.ndarray] = field(default_factory=dict)
    """What the model thought of its supervised tokens when it was trained on; see `sagetune.replay.distill`."""


def hash64(seed: int, ids: np.ndarray) -> np.ndarray:
    """uint64 (n,): one well mixed number for each id, another for each seed (splitmix64, Steele et al. 2014).

    ids: uint64 (n,).
    """
    return _mixed(_mixed(ids + INCREMENT) ^ _start(seed))


@cache
def _start(seed: int) -> np.ndarray:
    return _mixed(np.array([(seed * int(INCREMENT) + 0x632BE59BD9B4E019) % 2**64], dtype=np.uint64))


def _mixed(values: np.ndarray) -> np.ndarray:
    for shift, factor in ROUNDS:
        values = (values ^ (values >> shift)) * factor
    return values ^ (values >> LAST_SHIFT)


def uniform(seed: int, ids: np.ndarray) -> np.ndarray:
    """float64 (n,) in (0, 1), from the hash of each id."""
    return ((hash64(seed, ids) >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53


class KeyedBuffer:
    """At most `size` items. With `balanced`, every group holds as many, or all that it was offered if that is fewer."""

    def __init__(self, size: int, *, balanced: bool = False) -> None:
        self.size = size
        self.balanced = balanced
        self.clear()

    def clear(self) -> None:
        self.items: list[Item] = []
        self._ids = np.empty(0, dtype=np.uint64)
        self._keys = np.empty(0, dtype=np.float64)
        self._groups = np.empty(0, dtype=np.int64)
        self._place: dict[int, int] = {}
        self._pools: dict[int, list[tuple[float, int]]] = {}
        """(key, id) of each pool's items, in order: the last is the first to go."""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def ids(self) -> np.ndarray:
        """uint64 (n,), beside `items`."""
        return self._ids[: len(self.items)]

    @property
    def keys(self) -> np.ndarray:
        """float64 (n,)."""
        return self._keys[: len(self.items)]

    @property
    def groups(self) -> np.ndarray:
        """int64 (n,)."""
        return self._groups[: len(self.items)]

    def offer(
        self, ids: Sequence[int], keys: Sequence[float], groups: Sequence[int], item: Callable[[int], Item]
    ) -> None:
        """Insert the items whose keys are small enough; `item(i)` is called for those alone. A known id is renewed."""
        for index, (identity, key, group) in enumerate(zip(ids, keys, groups, strict=True)):
            place = self._place.get(identity)
            if place is None:
                if len(self.items) < self.size:
                    self._append(identity, key, group, item(index))
                    continue
                loser = self._loser(group)
                members = self._pools.get(loser)
                if not members or (loser == self._pool(group) and key >= members[-1][0]):
                    continue
                place = self._place[members[-1][1]]
            self._write(place, identity, key, group, item(index))

    def _pool(self, group: int) -> int:
        """The pool that a group's items compete in: its own, or one for all."""
        return group if self.balanced else 0

    def _loser(self, group: int) -> int:
        """The pool that gives up an item for a new one of `group`: the largest then; of equals the highest number.

        A fixed order of equals makes each pool's final share depend on what was offered, not on when.
        """
        if not self.balanced:
            return 0
        return max({*self._pools, group}, key=lambda pool: (len(self._pools.get(pool, ())) + (pool == group), pool))

    def _append(self, identity: int, key: float, group: int, item: Item) -> None:
        if len(self.items) == len(self._ids):  # room for twice as many
            room = min(self.size, max(8, 2 * len(self._ids))) - len(self._ids)
            self._ids = np.append(self._ids, np.zeros(room, dtype=np.uint64))
            self._keys = np.append(self._keys, np.zeros(room))
            self._groups = np.append(self._groups, np.zeros(room, dtype=np.int64))
        self.items.append(item)
        self._set(len(self.items) - 1, identity, key, group)

    def _write(self, place: int, identity: int, key: float, group: int, item: Item) -> None:
        old, members = int(self._ids[place]), self._pools[self._pool(int(self._groups[place]))]
        del members[bisect_left(members, (float(self._keys[place]), old))]
        del self._place[old]
        self.items[place] = item
        self._set(place, identity, key, group)

    def _set(self, place: int, identity: int, key: float, group: int) -> None:
        self._ids[place], self._keys[place], self._groups[place] = identity, key, group
        self._place[identity] = place
        insort(self._pools.setdefault(self._pool(group), []), (key, identity))
