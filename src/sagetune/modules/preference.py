"""The training step of direct preference optimisation: pairs -> a loss a pair -> one exact optimiser step.

Rows come two by two, a pair's chosen and then its rejected. Letters: P pairs, so a batch has 2 P rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from peft import PeftModel
from torch import Tensor, nn

from sagetune.batching import Batch
from sagetune.config import RLTrainingConfig, RunConfig
from sagetune.losses import TokenLosses, row_logps, token_losses
from sagetune.modules.stepping import (
    finish_gradients,
    open_step,
    optimizer_and_schedule,
    over_processes,
    refuse,
    reopen_step,
)
from sagetune.objectives.dpo import dpo_losses, log_ratios, pair_metrics


class PairWindow:
    """What the micro-batches of the open optimiser step have summed up so far, on this process."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.loss = 0.0
        self.pairs = 0
        self.metrics: dict[str, float] = {}
        """Sums over the pairs."""
        self.supervised = 0
        self.tokens = 0
        self.samples: list[int] = []

    def add(self, losses: Tensor, metrics: dict[str, Tensor], tokens: TokenLosses, batch: Batch) -> None:
        self.loss += losses.sum().item()
        self.pairs += len(losses)
        for name, values in metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + values.sum().item()
        self.supervised += tokens.nll.numel()
        self.tokens += int(batch["attention_mask"].sum())
        self.samples += batch["sample_index"].tolist()


class PreferenceModule(lightning.LightningModule):
    """A causal language model that learns to prefer the chosen of each pair, held to its reference.

    The gradient of an optimiser step is that of the mean over all its pairs, however micro-batches and processes share
    them. The model stays in evaluation mode: dropout would be noise in the comparison with the reference.
    """

    def __init__(
        self,
        model: nn.Module,
        run: RunConfig,
        rl: RLTrainingConfig,
        *,
        total_steps: int,
        sample_ids: Sequence[str],
        reference: Tensor | None,
    ) -> None:
        """sample_ids: of the rows that `sample_index` counts. reference: log-probabilities that the reference gives
        them, float32 (rows,); None = asked of the model without its adapter, in every step.
        """
        super().__init__()
        self.model = model
        self.run_config = run
        self.rl = rl
        self.total_steps = total_steps
        self.sample_ids = sample_ids
        self.reference = reference
        self.window = PairWindow()
        self.last_step: dict[str, float] = {}
        """Figures of the last finished optimiser step, over all processes."""
        self.tokens_seen = 0
        self.supervised_seen = 0
        self.paused_seconds = 0.0
        self.strict_loading = False  # a checkpoint holds what is trained, not the base model
        self._restored: dict[str, Any] | None = None

    def on_train_start(self) -> None:
        self.model.eval()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        rows = len(batch["labels"])
        reference = self._reference(batch)
        tokens = token_losses(self.model, batch)
        logps, lengths = (sums.view(-1, 2) for sums in row_logps(tokens, rows))  # (P, 2)
        ratios = log_ratios(logps, reference)
        dpo, beta = self.run_config.dpo, self.rl.kl_coef
        losses = dpo_losses(ratios, lengths, beta=beta, loss=dpo.loss, label_smoothing=dpo.label_smoothing)
        total = losses.sum()
        if not torch.isfinite(total):
            self._refuse("loss", batch["sample_index"].view(-1, 2)[~torch.isfinite(losses)].flatten().tolist())
        metrics = pair_metrics(logps.detach(), ratios.detach(), beta=beta)
        self.window.add(losses.detach(), metrics, tokens, batch)
        return total * self.trainer.accumulate_grad_batches  # Lightning divides by it

    def _reference(self, batch: Batch) -> Tensor:
        """The reference's log-probabilities of the batch's pairs, (P, 2)."""
        if self.reference is not None:
            return self.reference[batch["sample_index"].cpu()].to(self.device).view(-1, 2)
        assert isinstance(self.model, PeftModel), type(self.model)
        with torch.no_grad(), self.model.disable_adapter():
            logps, _ = row_logps(token_losses(self.model, batch), len(batch["labels"]))
        return logps.view(-1, 2)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn the summed gradients into the step's mean over pairs, check them, clip them."""
        window = self.window
        figures = [window.loss, window.pairs, window.supervised, window.tokens, *window.metrics.values()]
        sums = over_processes(figures, self.trainer.world_size, self.device)
        loss, pairs, supervised, tokens, *metrics = sums
        # DistributedDataParallel has averaged the gradients over the processes; the sums are wanted.
        factor = self.trainer.world_size / pairs
        norm = finish_gradients(self.trained_parameters(), factor, self.run_config.optim.max_grad_norm)
        if not torch.isfinite(norm):
            self._refuse("gradient norm", window.samples)
        self.tokens_seen += int(tokens)
        self.supervised_seen += int(supervised)
        self.last_step = {
            "train/loss": loss / pairs,
            **{f"train/{name}": value / pairs for name, value in zip(window.metrics, metrics, strict=True)},
            "train/grad_norm": norm.item(),
            "train/lr": optimizer.param_groups[0]["lr"],
        }
        window.clear()

    def configure_optimizers(self) -> dict[str, Any]:
        return optimizer_and_schedule(self.model, self.run_config, [self.total_steps])

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = self.trained_parameters()
        checkpoint["state_dict"] = {name: p.detach() for name, p in trained.items()}
        checkpoint["sagetune"] = {
            **open_step(trained, vars(self.window), begun=bool(self.window.samples)),
            "tokens_seen": self.tokens_seen,
            "supervised_seen": self.supervised_seen,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint["sagetune"]

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Restore as late as this: anything between loading and the first batch may draw random numbers."""
        if self._restored is None:
            return
        restored, self._restored = self._restored, None
        self.tokens_seen, self.supervised_seen = restored["tokens_seen"], restored["supervised_seen"]
        reopen_step(restored, self.trained_parameters(), vars(self.window))

    def _refuse(self, what: str, samples: list[int]) -> None:
        refuse(what, self.global_step + 1, (self.sample_ids[index] for index in sorted(set(samples))))
