"""A LightningModule is trained in a run's folder: logged, checkpointed, stopped on request and gone on with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import LambdaCallback
from rich.console import Console

from sagetune.config import RunConfig
from sagetune.interrupts import Interrupts
from sagetune.measuring import Stopwatch
from sagetune.modules.callbacks import Checkpoints, ProgressBar, StepLog
from sagetune.runfolder import RunFolder
from sagetune.tracking import Tracker


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is trained, and who is told."""

    folder: RunFolder
    tracker: Tracker
    interrupts: Interrupts
    console: Console
    device: torch.device
    clock: Stopwatch
    """Runs from the start of fitting; whoever prepares training laps it, and its last lap ends at the first step."""


def fit_module(
    module: Any,
    loader: Any,
    run: RunConfig,
    *,
    place: Place,
    accumulate: int,
    evaluate: Callable[[], dict[str, float]] | None,
    epochs: float | None = None,
) -> None:
    """Train `module`, one of ours, to its end, from the folder's checkpoint if there is one.

    accumulate: micro-batches of an optimiser step that Lightning takes. evaluate, epochs: of StepLog. Raises
    Interrupted when asked to stop.
    """
    folder = place.folder
    log = StepLog(place.tracker, eval_every=run.trainer.eval_every_n_steps, evaluate=evaluate, epochs=epochs)
    saves = Checkpoints(folder.checkpoint, run.trainer.checkpoint_every_n_steps, place.interrupts)
    began = LambdaCallback(on_train_start=lambda *_: place.clock.lap("other"))
    callbacks = [log, ProgressBar(place.console, log), saves, began]
    trainer = lightning_trainer(run, place.device, module.total_steps, accumulate, callbacks, folder)
    checkpoint = str(folder.checkpoint) if folder.checkpoint.is_file() else None
    trainer.fit(module, train_dataloaders=loader, ckpt_path=checkpoint, weights_only=True)


def lightning_trainer(
    run: RunConfig, device: torch.device, steps: int, accumulate: int, callbacks: list[Any], folder: RunFolder
) -> lightning.Trainer:
    """Lightning's loop for one run, with our own log, checkpoints and progress in place of its own."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)  # product tips and device lists
    return lightning.Trainer(
        accelerator="cuda" if device.type == "cuda" else "cpu",
        devices=1,
        max_steps=steps,
        max_epochs=1 if run.data.stream == "sequential" else run.sft.num_epochs,
        accumulate_grad_batches=accumulate,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder.path,
    )
