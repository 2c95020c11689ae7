"""Which learning rate a run trains with: each of a small grid is tried on a short training and judged on dev data.

Methods want different rates: at one rate for all a comparison measures the rate, and with tuned ones most variants of
LoRA are within one or two per cent (arXiv:2602.04998). The grid and the steps are the same for every method; what the
search costs is counted as the method's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console

from sagetune.config import RunConfig
from sagetune.files import write_json
from sagetune.runfolder import RunFolder

Trial = dict[str, Any]


def searched(
    run: RunConfig, folder: RunFolder, train: Callable[[RunConfig, RunFolder], Trial], console: Console
) -> RunConfig:
    """`run` with the rate of budget.learning_rates that has the lowest loss on sft.eval_data; `run` without a grid.

    train: trains as a trial says in its folder and returns its figures, of which `loss` (None if training diverged)
    decides; of two alike the first wins. Every trial is written as it ends, and what is written is not tried again.
    Raises ValueError if all diverge.
    """
    rates = run.budget.learning_rates
    if not rates:
        return run
    tried: list[Trial] = json.loads(folder.search.read_text())["tried"] if folder.search.is_file() else []
    for rate in rates[len(tried) :]:
        started = time.perf_counter()
        trial = trial_of(run, folder, rate)
        place = RunFolder(trial.sft.output_dir / str(trial.run_name))
        if not place.config.is_file():
            RunFolder.create(trial)
            reuse_trajectories(folder, place)
        figures = train(trial, place)
        keep_trajectories(place, folder)
        for weights in (place.model, place.checkpoint.parent):
            shutil.rmtree(weights, ignore_errors=True)  # only the figures of a trial are of use
        tried.append({"learning_rate": rate, **figures, "seconds": time.perf_counter() - started})
        write_json(folder.search, {"steps": run.budget.search_steps, "tried": tried, "chosen": chosen(tried)})
        told = "diverged" if figures["loss"] is None else f"dev loss {figures['loss']:.4f}"
        console.print(f"learning rate {rate:g}: {told} after {run.budget.search_steps} steps", markup=False)
    best = chosen(tried)
    if best is None:
        raise ValueError(f"budget.learning_rates must have a rate at which training does not diverge, got {rates}")
    return dataclasses.replace(run, sft=dataclasses.replace(run.sft, learning_rate=best))


def trial_of(run: RunConfig, folder: RunFolder, rate: float) -> RunConfig:
    """A short run of the same method, data and seed that measures nothing but the loss on sft.eval_data."""
    return dataclasses.replace(
        run,
        sft=dataclasses.replace(run.sft, learning_rate=rate, output_dir=folder.trials),
        budget=dataclasses.replace(run.budget, max_steps=run.budget.search_steps, learning_rates=[]),
        evaluation=dataclasses.replace(run.evaluation, data=None, capabilities={}),
        trainer=dataclasses.replace(run.trainer, eval_every_n_steps=None),
        run_name=f"rate-{rate:g}",
        sweep=None,
    )


def chosen(tried: list[Trial]) -> float | None:
    """The rate with the lowest finite loss, or None."""
    sound = [trial for trial in tried if trial["loss"] is not None and math.isfinite(trial["loss"])]
    return min(sound, key=lambda trial: trial["loss"])["learning_rate"] if sound else None


def reuse_trajectories(folder: RunFolder, place: RunFolder) -> None:
    """Let a trial train on the attempts that an earlier one has made: they do not depend on the rate."""
    if folder.trajectories.is_file():
        shutil.copyfile(folder.trajectories, place.trajectories)


def keep_trajectories(place: RunFolder, folder: RunFolder) -> None:
    if place.trajectories.is_file() and not folder.trajectories.is_file():
        shutil.copyfile(place.trajectories, folder.trajectories)
