"""Which samples of the pool a run trains on, epoch by epoch: the coreset methods' place in the run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import mean
from typing import Any

import numpy as np
from rich.console import Console
from torch import nn

from sagetune.batching import BatchLoader
from sagetune.chat import IGNORE_INDEX, Encoded
from sagetune.config import RunConfig
from sagetune.config.coreset import TARGETED_STRATEGIES
from sagetune.modules.sft import SFTModule
from sagetune.progress import progress_stage
from sagetune.runfolder import RunFolder
from sagetune.sample import Sample
from sagetune.selection import CoresetSelector, RowChooser
from sagetune.selection.picks import Picks, shares
from sagetune.selection.summary import SelectionFile, summarise
from sagetune.stream import StreamLoader
from sagetune.tracking import Tracker

COSTS = ("seconds", "forward_tokens", "reused_tokens")


@dataclass(frozen=True, slots=True)
class TrainingPool:
    """The training samples that fit, as conversations and as tokens, in one order."""

    samples: Sequence[Sample]
    encoded: Sequence[Encoded]

    def tasks(self) -> dict[str, list[int]]:
        """Places of each task's samples, the tasks by first appearance."""
        places: dict[str, list[int]] = {}
        for place, sample in enumerate(self.encoded):
            places.setdefault(sample.task, []).append(place)
        return places

    def part(self, places: Sequence[int]) -> TrainingPool:
        """The pool of these samples alone."""
        return TrainingPool([self.samples[place] for place in places], [self.encoded[place] for place in places])

    def lengths(self) -> np.ndarray:
        """Supervised tokens of each sample."""
        counts = [sum(label != IGNORE_INDEX for label in sample.labels) for sample in self.encoded]
        return np.array(counts, dtype=np.float64)


def select_from(
    run: RunConfig,
    pool: TrainingPool,
    model: nn.Module,
    console: Console,
    load_dev: Callable[[], list[Encoded]],
    epoch: int = 0,
    target_size: int | None = None,
) -> dict[str, Any]:
    """Select as `run` says, for `epoch`; returns an entry of selection.json. target_size: in place of the run's."""
    sft, options = run.sft, run.coreset
    selector = CoresetSelector(
        sft.coreset_strategy,
        target_size or target_sizes(run, [len(pool.samples)])[0],
        options.loss_ratio,
        options=options,
        seed=run.seed + epoch,
        stage=partial(progress_stage, console),
    )
    dev = load_dev() if sft.coreset_strategy in TARGETED_STRATEGIES else None
    selection = selector.run(pool.samples, pool.encoded, model, dev)
    usable = selection.pool.usable
    unusable = 0 if usable is None else int((~usable).sum())
    if unusable:
        console.print(f"{unusable} samples have figures that are not finite and are left out", markup=False)
    losses = selection.pool.figures.get("loss")
    if len(selection.picks.indices) == len(pool.samples):
        whole = f"coreset: all {len(pool.samples)} samples are taken, so nothing is selected; lower"
        console.print(f"{whole} sft.coreset_target_size or coreset.share", markup=False, soft_wrap=True)
    entry = describe(run, pool, selection.picks, losses=losses, num_unusable=unusable) | {"epoch": epoch}
    tokens = {"forward_tokens": selection.forward_tokens, "reused_tokens": selection.reused_tokens}
    return entry | {"seconds": selection.seconds, **tokens}


def steps_of_pool(run: RunConfig, loader: BatchLoader) -> int:
    """Optimiser steps over the samples that `loader` serves: of all epochs, or fewer as budget.max_steps and
    budget.supervised_tokens say; the tokens are counted in the order in which the samples are served.

    Of coreset.scope=batch, which chooses among the rows later, and of replayed rows the mean counts.
    """
    budget, sft = run.budget, run.sft
    steps = min(loader.steps_per_epoch * sft.num_epochs, budget.max_steps or 2**62)
    if budget.supervised_tokens is None:
        return steps
    chooses = sft.use_coreset_selection and run.coreset.scope == "batch"
    kept = _with_replayed(run) / (run.coreset.candidates if chooses else 1.0)
    tokens, seen = _supervised(loader.samples), 0.0
    for number, step in enumerate(islice(loader.steps(), steps)):
        added = kept * sum(tokens[index] for index in step)
        if seen + added > budget.supervised_tokens:
            nearer = seen + added - budget.supervised_tokens < budget.supervised_tokens - seen
            return max(1, number + nearer)
        seen += added
    return steps


def steps_of_stream(run: RunConfig, samples: Sequence[Encoded]) -> int | None:
    """The same of a stream over `samples`, None = all its epochs: by the mean of the samples, as what is selected of a
    task, and so the order, is known only when the stream comes to it."""
    budget, sft = run.budget, run.sft
    if budget.supervised_tokens is None:
        return budget.max_steps
    rows = sft.batch_size * sft.gradient_accumulation_steps * _with_replayed(run)
    steps = max(1, round(budget.supervised_tokens / (rows * mean(_supervised(samples)))))
    return min(steps, budget.max_steps or steps)


def _with_replayed(run: RunConfig) -> float:
    """Rows that are trained on for each row that is served."""
    replays = run.sft.use_online_continual and run.continual.mode == "append"
    return 1 + (run.sft.continual_replay_ratio if replays else 0.0)


def _supervised(samples: Sequence[Encoded]) -> list[int]:
    """Supervised tokens of each sample."""
    return [sum(label != IGNORE_INDEX for label in sample.labels) for sample in samples]


def target_sizes(run: RunConfig, sizes: Sequence[int]) -> list[int]:
    """How many samples to select from pools of `sizes` samples: sft.coreset_target_size in proportion, or the share."""
    if run.sft.coreset_target_size is not None:
        return [max(1, part) for part in shares(run.sft.coreset_target_size, sizes)]
    return [max(1, round(run.coreset.share * size)) for size in sizes]


def describe(
    run: RunConfig, pool: TrainingPool, picks: Picks, *, losses: np.ndarray | None, num_unusable: int = 0
) -> dict[str, Any]:
    """What was chosen of the pool: an entry of selection.json without epoch and costs."""
    figures = summarise(
        pool.samples,
        [sample.sample_id for sample in pool.encoded],
        [sample.task for sample in pool.encoded],
        picks,
        lengths=pool.lengths(),
        losses=losses,
        num_unusable=num_unusable,
    )
    return {"strategy": run.sft.coreset_strategy, **figures}


class Selections:
    """The selections of one run. Each is in selection.json before it is used, and a resumed run reads it there.

    load_dev: reads and tokenises the development set, for strategies that select for one.
    """

    def __init__(
        self,
        run: RunConfig,
        pool: TrainingPool,
        folder: RunFolder,
        tracker: Tracker,
        console: Console,
        load_dev: Callable[[], list[Encoded]],
    ) -> None:
        self._run = run
        self._pool = pool
        self._file = SelectionFile(folder.selection)
        self._tracker = tracker
        self._console = console
        self._load_dev = load_dev

    def chosen(
        self,
        model: nn.Module,
        epoch: int,
        step: int,
        within: Sequence[int] | None = None,
        target_size: int | None = None,
    ) -> list[int]:
        """Places in the pool of the samples that are trained on from `epoch` on, which begins after `step`.

        within, target_size: the places that may be chosen, and how many; None = all, as the run says.
        """
        pool = self._pool if within is None else self._pool.part(within)
        entry = self._file.entry(epoch) or self._select(pool, model, epoch, step, target_size)
        places = {sample.sample_id: place for place, sample in enumerate(self._pool.encoded)}
        return [places[sample_id] for sample_id in entry["ids"]]

    def chooser(self) -> RowChooser | None:
        """What chooses rows inside the training step, where coreset.scope is batch."""
        if self._run.coreset.scope != "batch":
            return None
        return RowChooser(self._run.sft.coreset_strategy, self._run.coreset, self._run.seed)

    def follow(self, loader: BatchLoader, module: SFTModule) -> None:
        """Select again, and write down what the steps chose, as the epochs of `loader` go by."""
        every = self._run.coreset.refresh_epochs

        def before_epoch(epoch: int) -> None:
            self.record_rows(module, epoch - 1)
            if epoch and every and epoch % every == 0:
                started = time.perf_counter()
                loader.choose(self.chosen(module.model, epoch, module.global_step))
                module.paused_seconds += time.perf_counter() - started

        loader.before_epoch = before_epoch

    def before_pass(self, loader: StreamLoader, module: SFTModule, number: int) -> None:
        """`follow` for a stream: each task is selected from when it begins, and the others are not looked at."""
        self.record_rows(module, number - 1)
        every, part = self._run.coreset.refresh_epochs, loader.passes[number]
        if self._run.coreset.scope == "pool" and (part.epoch == 0 or (every and part.epoch % every == 0)):
            places = list(self._pool.tasks().values())
            target = target_sizes(self._run, [len(places_of) for places_of in places])[part.task]
            loader.choose(part.task, self.chosen(module.model, number, module.global_step, places[part.task], target))

    def record_rows(self, module: SFTModule, epoch: int) -> None:
        """Write down the rows that were chosen inside the steps of an epoch that is over, if any were."""
        if not module.chosen.samples:
            return
        picks = Picks.of(module.chosen.samples, module.chosen.scores)
        costs = {"seconds": module.chosen.seconds, "forward_tokens": module.chosen.forward_tokens}
        entry = describe(self._run, self._pool, picks, losses=None)
        self._keep({**entry, **costs, "reused_tokens": 0, "epoch": epoch}, module.global_step)
        module.chosen.clear()

    def costs(self) -> dict[str, float]:
        """Seconds and tokens of all selections so far."""
        entries = self._file.entries()
        return {name: sum(entry[name] for entry in entries) for name in COSTS}

    def _select(
        self, pool: TrainingPool, model: nn.Module, epoch: int, step: int, target_size: int | None
    ) -> dict[str, Any]:
        run = self._run
        if epoch:  # scores of a model in training are not met again
            run = dataclasses.replace(run, coreset=dataclasses.replace(run.coreset, cache=False))
        return self._keep(select_from(run, pool, model, self._console, self._load_dev, epoch, target_size), step)

    def _keep(self, entry: dict[str, Any], step: int) -> dict[str, Any]:
        self._file.add(entry)
        self._mirror(entry, step)
        return entry

    def _mirror(self, entry: dict[str, Any], step: int) -> None:
        """The figures as metrics at `step`; the chosen samples and the tasks as tables."""
        names = ("num_selected", "coverage", "duplicate_share", *COSTS)
        figures = {f"selection/{name}": entry[name] for name in names}
        for name in ("length", "loss"):
            if entry[name] is not None:
                figures[f"selection/{name}_pool"] = entry[name]["pool_mean"]
                figures[f"selection/{name}_selected"] = entry[name]["selected_mean"]
        self._tracker.log({"step": step, "selection/epoch": entry["epoch"], **figures})
        rows = [list(pair) for pair in zip(entry["ids"], entry["scores"], strict=True)]
        self._tracker.table(f"selection/epoch_{entry['epoch']}", ["id", "score"], rows)
        tasks = [[task, count["pool"], count["selected"]] for task, count in entry["tasks"].items()]
        self._tracker.table(f"selection/tasks_{entry['epoch']}", ["task", "pool", "selected"], tasks)
