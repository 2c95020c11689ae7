"""The training step of supervised fine-tuning: batch -> loss over supervised tokens -> one exact optimiser step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NoReturn

import lightning
import torch
from torch import Tensor, nn

from sagetune.batching import Batch
from sagetune.config import RunConfig
from sagetune.losses import TokenLosses, losses_of, supervised_logits
from sagetune.modules.stepping import (
    finish_gradients,
    open_step,
    optimizer_and_schedule,
    over_processes,
    refuse,
    reopen_step,
)
from sagetune.replay.step import Replayer
from sagetune.selection.rows import RowChooser, scores_rows


class StepWindow:
    """What the micro-batches of the open optimiser step have summed up so far, on this process."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.loss = 0.0
        """Sum of weighted negative log-likelihoods, nats."""
        self.weight = 0.0
        """Sum of token weights: the loss' denominator."""
        self.correct = 0
        self.supervised = 0
        self.tokens = 0
        self.samples: list[int] = []

    def add(self, total: Tensor, losses: TokenLosses, batch: Batch) -> None:
        self.loss += total.item()
        self.weight += losses.weights.sum().item()
        self.correct += int(losses.correct.sum())
        self.supervised += losses.correct.numel()
        self.tokens += int(batch["attention_mask"].sum())
        self.samples += batch["sample_index"].tolist()


class ChosenRows:
    """The rows that coreset.scope=batch has chosen in the open epoch, on this process."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.samples: list[int] = []
        self.scores: list[float] = []
        self.forward_tokens = 0
        self.seconds = 0.0


class SFTModule(lightning.LightningModule):
    """A causal language model under supervised fine-tuning.

    The gradient of an optimiser step is that of (sum of the step's weighted token losses) / (sum of its weights), over
    micro-batches and processes. Lightning averages the micro-batches' means instead, which weighs tokens unequally
    when their counts differ; so `training_step` returns the sum and the division happens once, before the optimiser.
    """

    def __init__(
        self,
        model: nn.Module,
        run: RunConfig,
        *,
        task_steps: Sequence[int],
        sample_ids: list[str],
        chooser: RowChooser | None = None,
        replayer: Replayer | None = None,
    ) -> None:
        """task_steps: optimiser steps of each task of a stream, whose learning rates rise and fall one after the other;
        one number for a run without a stream.
        """
        super().__init__()
        self.model = model
        self.run_config = run
        self.task_steps = task_steps
        self.total_steps = sum(task_steps)
        self.sample_ids = sample_ids
        self.chooser = chooser
        self.chosen = ChosenRows()
        self.replayer = replayer
        self.paused_seconds = 0.0
        """Spent on selection and between tasks since this process began; not training, and not counted as such."""
        self.window = StepWindow()
        self.last_step: dict[str, float] = {}
        """Figures of the last finished optimiser step, over all processes."""
        self.tokens_seen = 0
        self.supervised_seen = 0
        self.strict_loading = False  # a checkpoint holds what is trained, not the base model
        self._restored: dict[str, Any] | None = None

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        batch = self._choose(self.chooser, batch) if self.chooser is not None else batch
        rows = self.replayer.mix(self.model, batch, self.window.samples) if self.replayer is not None else batch
        found = supervised_logits(self.model, rows)
        losses = losses_of(found)
        each = losses.nll * losses.weights
        total = each.sum()
        if not torch.isfinite(total):
            self._refuse("loss", rows["sample_index"][losses.rows[~torch.isfinite(each)].unique()].tolist())
        self.window.add(total.detach(), losses, rows)
        if self.replayer is not None:
            total = total + self.replayer.dark(found)
            self.replayer.remember(batch, found, losses)
        return total * self.trainer.accumulate_grad_batches  # Lightning divides by it

    def _choose(self, chooser: RowChooser, batch: Batch) -> Batch:
        """The rows of a candidate batch that are trained on; what was chosen is kept for the epoch's record."""
        started = time.perf_counter()
        kept, picks = chooser(self.model, batch)
        if scores_rows(chooser.strategy, chooser.options) and len(picks.indices) < len(batch["labels"]):
            self.chosen.forward_tokens += int(batch["attention_mask"].sum())
        seconds = time.perf_counter() - started
        self.chosen.seconds += seconds
        self.paused_seconds += seconds
        self.chosen.samples += batch["sample_index"].cpu()[torch.from_numpy(picks.indices)].tolist()
        self.chosen.scores += picks.scores.tolist()
        return kept

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn the summed gradients into the step's mean, check them, clip them."""
        window = self.window
        figures = [window.loss, window.weight, window.correct, window.supervised, window.tokens]
        sums = over_processes(figures, self.trainer.world_size, self.device)
        loss, weight, correct, supervised, tokens = sums
        # DistributedDataParallel has averaged the gradients over the processes; the sums are wanted.
        factor = self.trainer.world_size / weight
        norm = finish_gradients(self.trained_parameters(), factor, self.run_config.optim.max_grad_norm)
        if not torch.isfinite(norm):
            self._refuse("gradient norm", window.samples)
        self.tokens_seen += int(tokens)
        self.supervised_seen += int(supervised)
        self.last_step = {
            "train/loss": loss / weight,
            "train/accuracy": correct / supervised,
            "train/grad_norm": norm.item(),
            "train/lr": optimizer.param_groups[0]["lr"],
        }
        window.clear()

    def configure_optimizers(self) -> dict[str, Any]:
        return optimizer_and_schedule(self.model, self.run_config, self.task_steps)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    # What Lightning does not keep: random states, the open window with its gradients; and less of what it keeps.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = self.trained_parameters()
        checkpoint["state_dict"] = {name: p.detach() for name, p in trained.items()}
        checkpoint["sagetune"] = {
            **open_step(trained, vars(self.window), begun=bool(self.window.samples)),
            "chosen": vars(self.chosen),
            "replay": self.replayer.state_dict() if self.replayer is not None else None,
            "tokens_seen": self.tokens_seen,
            "supervised_seen": self.supervised_seen,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint["sagetune"]
        vars(self.chosen).update(checkpoint["sagetune"]["chosen"])
        if self.replayer is not None:
            self.replayer.load_state_dict(checkpoint["sagetune"]["replay"])

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Restore as late as this: anything between loading and the first batch may draw random numbers."""
        if self._restored is None:
            return
        restored, self._restored = self._restored, None
        self.tokens_seen, self.supervised_seen = restored["tokens_seen"], restored["supervised_seen"]
        reopen_step(restored, self.trained_parameters(), vars(self.window))

    def _refuse(self, what: str, samples: list[int]) -> NoReturn:
        refuse(what, self.global_step + 1, (self.sample_ids[index] for index in sorted(set(samples))))
