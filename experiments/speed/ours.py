"""Our side: SFTModule under Lightning, as `sagetune train` runs it, on batches in the given order.

python ours.py <data folder> <samples> [lora|dora]      prints one JSON line
"""

# ruff: noqa: E402
from __future__ import annotations

from sagetune.processor import prepare_process

prepare_process()  # as every sagetune command does

import sys
from typing import Any

import lightning
import torch
from measure import ALPHA, BATCH_SIZE, LEARNING_RATE, RANK, StepClock, load_data, report
from torch.utils.data import DataLoader

from sagetune import adapters, models
from sagetune.batching import collate
from sagetune.chat import Encoded
from sagetune.config import AgentSFTConfig, OptimConfig, RunConfig
from sagetune.modules.sft import SFTModule


class Recorder(lightning.Callback):
    """Times every step and keeps its loss."""

    def __init__(self) -> None:
        self.clock = StepClock()
        self.losses: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.start()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        self.clock.stop()
        assert isinstance(module, SFTModule)
        self.losses.append(module.last_step["train/loss"])


def main(folder: str, num_samples: int, method: str = "lora") -> None:
    content, rows = load_data(folder, num_samples)
    sft = AgentSFTConfig(
        content["model"],
        "given",
        learning_rate=LEARNING_RATE,
        lora_r=RANK,
        lora_alpha=ALPHA,
        use_dora=method == "dora",
        batch_size=BATCH_SIZE,
        gradient_accumulation_steps=1,
    )
    run = RunConfig(sft=sft, optim=OptimConfig(lr_schedule="constant", warmup_ratio=0.0))
    samples = [Encoded(str(i), "", row["input_ids"], row["labels"], None, 0) for i, row in enumerate(rows)]
    batches = [
        collate(samples, range(i, min(i + BATCH_SIZE, len(rows))), content["pad_token_id"])
        for i in range(0, len(rows), BATCH_SIZE)
    ]
    torch.manual_seed(0)
    model = adapters.add_adapter(models.load_model(sft.base_model, run.model), sft, run.adapter)
    module = SFTModule(model.train(), run, task_steps=[len(batches)], sample_ids=[s.sample_id for s in samples])
    recorder = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    report(f"ours {method}", recorder.clock, rows, recorder.losses)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
