"""Which tasks are acted on in which update: an order that (seed, epoch) decides, resumable between updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sagetune.batching import epoch_steps


class UpdateLoader:
    """Iterates over the updates of an epoch, each the places of its tasks; every task once an epoch."""

    def __init__(self, num_tasks: int, tasks_per_update: int, seed: int) -> None:
        self._num_tasks = num_tasks
        self._tasks_per_update = tasks_per_update
        self._seed = seed
        self._epoch = 0
        self._position = 0

    def __len__(self) -> int:
        return -(-self._num_tasks // self._tasks_per_update)

    def __iter__(self) -> Iterator[list[int]]:
        updates = epoch_steps([1] * self._num_tasks, self._tasks_per_update, 1, self._seed, self._epoch)
        while self._position < len(updates):
            tasks = updates[self._position]
            # Moved on before it is given away: a checkpoint made after the update must not serve it again.
            self._position += 1
            if self._position == len(updates):
                self._epoch, self._position = self._epoch + 1, 0
                yield tasks
                return
            yield tasks

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._position = state["epoch"], state["position"]
