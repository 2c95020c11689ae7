"""A stream of tasks: one after the other, each for some epochs, in an order that the seed alone decides.

Every optimiser step of a stream has all its micro-batches, so that steps and tasks end together: what does not
fill a step is spread over the steps of its epoch. Batch 8 x accumulate 1 and 1 x 8 take the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sagetune.batching import Batch, collate
from sagetune.chat import Encoded
from sagetune.selection.picks import shares


@dataclass(frozen=True, slots=True)
class Pass:
    """One epoch of one task."""

    task: int
    epoch: int
    """Of the task, from 0."""
    num_steps: int
    """Optimiser steps that the task's samples are spread over."""
    taken: int
    """Those of them that the run takes; fewer than `num_steps` only where its budget of steps ends."""


def plan_passes(sizes: Sequence[int], samples_per_step: int, epochs: int, max_steps: int | None) -> list[Pass]:
    """The passes over tasks of `sizes` samples; `max_steps` in all are shared among the tasks in proportion.

    Raises ValueError if `max_steps` leaves a task without a step.
    """
    full = [max(1, size // samples_per_step) for size in sizes]
    wanted = [steps * epochs for steps in full]
    budgets = wanted if max_steps is None else shares(max_steps, wanted)
    if not all(budgets):
        raise ValueError(
            f"budget.max_steps={max_steps} leaves a task of the stream without a step: the tasks get {budgets}"
        )
    passes = []
    for task, (steps, budget) in enumerate(zip(full, budgets, strict=True)):
        for epoch in range(epochs):
            taken = min(steps, budget - epoch * steps)
            if taken > 0:
                passes.append(Pass(task, epoch, steps, taken))
    return passes


def micro_batches(sizes: Sequence[int], passes: Sequence[Pass], rows: int) -> int:
    """Micro-batches of each step: as few as hold at most `rows` samples each, but none is empty in any step.

    Where the smallest step has too few samples for that, the micro-batches of larger steps hold more rows.
    """
    largest = max(-(-sizes[part.task] // part.num_steps) for part in passes)
    smallest = min(sizes[part.task] // part.num_steps for part in passes)
    return min(-(-largest // rows), smallest)


class StreamLoader:
    """The micro-batches of all passes, one iteration; resumes at any of them.

    tasks: the sample indices of each task. Raises ValueError for a task with fewer samples than micro-batches a step.
    """

    def __init__(
        self,
        samples: Sequence[Encoded],
        tasks: Sequence[Sequence[int]],
        passes: Sequence[Pass],
        *,
        accumulate: int,
        pad_token_id: int,
        seed: int,
    ) -> None:
        self.samples = samples
        self.tasks = [list(task) for task in tasks]
        """The samples that are served of each task."""
        self.passes = passes
        self.before_pass: Callable[[int], None] | None = None
        """Called with the number of a pass before its first batch is made, also in a resumed run; may `choose`."""
        self.pad_token_id = pad_token_id
        self.accumulate = accumulate
        self.open_step: list[int] = []
        """All samples of the optimiser step of the batch that was given away last."""
        self._lengths = [len(sample.input_ids) for sample in samples]
        self._seed = seed
        self._position = 0
        self._starts = np.cumsum([0, *(part.taken * accumulate for part in passes)]).tolist()
        for number, task in enumerate(self.tasks):
            self._check(number, len(task))

    def choose(self, task: int, indices: Sequence[int]) -> None:
        """Serve these samples of a task alone, from its next pass on."""
        self._check(task, len(indices))
        self.tasks[task] = sorted(indices)

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def task_steps(self) -> list[int]:
        """Optimiser steps of each task."""
        return [sum(part.taken for part in self.passes if part.task == task) for task in range(len(self.tasks))]

    @property
    def num_epochs(self) -> float:
        """How often a task's samples are seen, as a mean over the tasks; parts of an epoch count as such."""
        return sum(part.taken / part.num_steps for part in self.passes) / len(self.tasks)

    @property
    def pass_of_last_batch(self) -> int:
        """The number of the pass of the batch that was given away last."""
        return int(np.searchsorted(self._starts, self._position - 1, side="right")) - 1

    def __iter__(self) -> Iterator[Batch]:
        while self._position < len(self):
            number = int(np.searchsorted(self._starts, self._position, side="right")) - 1
            start = self._starts[number]
            if self._position == start and self.before_pass is not None:
                self.before_pass(number)
            batches = self._micro_batches(number)
            for place in range(self._position - start, len(batches)):
                first = place - place % self.accumulate
                self.open_step = [index for micro in batches[first : first + self.accumulate] for index in micro]
                # Moved on before the batch is given away: a checkpoint made while it trains must not serve it again.
                self._position += 1
                yield collate(self.samples, batches[place], self.pad_token_id)

    def state_dict(self) -> dict[str, Any]:
        """The number of micro-batches that were given away, and the samples that are served of each task."""
        return {"position": self._position, "tasks": self.tasks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position, self.tasks = state["position"], state["tasks"]

    def _micro_batches(self, number: int) -> list[list[int]]:
        part = self.passes[number]
        order = np.random.default_rng([self._seed, number]).permutation(np.array(self.tasks[part.task]))
        found = []
        for step in np.array_split(order, part.num_steps)[: part.taken]:
            by_length = sorted(step.tolist(), key=lambda index: -self._lengths[index])
            found += [micro.tolist() for micro in np.array_split(np.array(by_length), self.accumulate)]
        return found

    def _check(self, task: int, num: int) -> None:
        steps = max((part.num_steps for part in self.passes if part.task == task), default=1)
        if num < steps * self.accumulate:
            raise ValueError(
                f"task {task + 1} of the stream has {num} samples, too few for {steps} steps of {self.accumulate} "
                "micro-batches: give it more, or a larger sft.batch_size"
            )
