"""What happens between batches: log a step, validate, checkpoint, show progress, stop when asked to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sagetune.interrupts import Interrupts
from sagetune.modules.sft import SFTModule


def passes(every: int, before: int, step: int) -> bool:
    """Whether a multiple of `every` lies in (before, step]: a batch may take several optimiser steps, or none."""
    return step // every > before // every


class RowSink(Protocol):
    """Where metric rows go: the run's tracker."""

    def log(self, row: dict[str, Any]) -> None: ...


class StepLog(Callback):
    """Writes one row of metrics an optimiser step, and validates every `eval_every` steps.

    evaluate: returns the `eval/` figures of the model as it is now. epochs: those of a stream, which Lightning runs as
    one. seconds counts training alone, without the selection of samples and what happens between tasks, over all the
    stretches of a run that was resumed.
    """

    def __init__(
        self,
        sink: RowSink,
        *,
        eval_every: int | None,
        evaluate: Callable[[], dict[str, float]] | None,
        epochs: float | None = None,
    ) -> None:
        self._sink = sink
        self._eval_every = eval_every
        self._evaluate = evaluate
        self._epochs = epochs
        self._logged = 0
        self._seconds = 0.0
        self._since = 0.0
        self._step_seconds = 0.0
        self._selecting = 0.0
        self._tokens = 0
        self.rate = 0.0
        """Tokens a second of the last step."""

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._since = time.perf_counter()
        self._step_seconds = self._seconds
        self._logged = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        now = time.perf_counter()
        self._seconds += now - self._since - (module.paused_seconds - self._selecting)
        self._since, self._selecting = now, module.paused_seconds
        if trainer.global_step == self._logged:
            return
        before, self._logged = self._logged, trainer.global_step
        self.rate = (module.tokens_seen - self._tokens) / (self._seconds - self._step_seconds)
        self._step_seconds, self._tokens = self._seconds, module.tokens_seen
        self._sink.log(self._row(trainer, module))
        if self._evaluate and self._eval_every and passes(self._eval_every, before, trainer.global_step):
            self._sink.log({"step": trainer.global_step, **self._evaluate()})
        self._since = time.perf_counter()

    def _row(self, trainer: lightning.Trainer, module: SFTModule) -> dict[str, Any]:
        share = (trainer.fit_loop.epoch_loop.batch_idx + 1) / trainer.num_training_batches
        return {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch + share if self._epochs is None else share * self._epochs,
            **module.last_step,
            "train/tokens_per_second": self.rate,
            "train/tokens": module.tokens_seen,
            "train/supervised_tokens": module.supervised_seen,
            "seconds": self._seconds,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._seconds, "step_seconds": self._step_seconds, "tokens": self._tokens}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seconds, self._step_seconds, self._tokens = state["seconds"], state["step_seconds"], state["tokens"]


class Checkpoints(Callback):
    """Keeps `last.ckpt` (written beside and renamed): every n optimiser steps, and when the run is asked to stop."""

    def __init__(self, path: Path, every_n_steps: int, interrupts: Interrupts) -> None:
        self._path = path
        self._every = every_n_steps
        self._interrupts = interrupts
        self._saved_step = 0

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._interrupts.install()
        self._interrupts.deferred = True
        self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        step = trainer.global_step
        due = passes(self._every, self._saved_step, step)
        if due or self._interrupts.waiting is not None:
            self._saved_step = step
            trainer.save_checkpoint(self._path, weights_only=False)  # the optimiser, too
        self._interrupts.raise_if_waiting()

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self._interrupts.deferred = False
        self._interrupts.raise_if_waiting()  # one that came after the last batch


class ProgressBar(Callback):
    """Optimiser steps with loss, tokens/s and the time left; on a plain stream a line every tenth of the run."""

    def __init__(self, console: Console, log: StepLog) -> None:
        self._console = console
        self._log = log
        self._shown = 0
        columns = (
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.0f} tokens/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        total, self._shown = module.total_steps, trainer.global_step
        self._task = self._progress.add_task("", total=total, completed=trainer.global_step, loss=0.0, rate=0.0)
        self._progress.start()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        step, total = trainer.global_step, module.total_steps
        if step == self._shown or not module.last_step:
            return
        before, self._shown = self._shown, step
        loss = module.last_step["train/loss"]
        self._progress.update(self._task, completed=step, loss=loss, rate=self._log.rate)
        if not self._console.is_terminal and step * 10 // total > before * 10 // total:
            self._console.print(f"train {step}/{total}  loss {loss:.3f}  {self._log.rate:.0f} tokens/s")

    def teardown(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        self._progress.stop()
