"""TRL's side: SFTTrainer without gradient checkpointing, on the same token ids in the same order.

    python trl_side.py <data folder> <samples> nopack|padfree [lora|dora]      prints one JSON line

Runs in TRL's own environment; nothing of sagetune is imported.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from measure import ALPHA, BATCH_SIZE, LEARNING_RATE, RANK, StepClock, load_data, report
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Recorder(TrainerCallback):
    """Times every step and keeps its loss."""

    def __init__(self) -> None:
        self.clock = StepClock()
        self.losses: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.clock.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.stop()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def main(folder: str, num_samples: int, mode: str, method: str = "lora") -> None:
    content, rows = load_data(folder, num_samples)
    tokenizer = AutoTokenizer.from_pretrained(content["model"])
    tokenizer.pad_token_id = content["pad_token_id"]
    recorder = Recorder()
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH_SIZE,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        max_length=None,
        packing=False,
        padding_free=mode == "padfree",
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=True,
        disable_tqdm=True,
        seed=0,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(content["model"], dtype=torch.bfloat16),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[recorder],
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=method == "dora"
        ),
    )
    trainer.train()
    report(f"TRL {mode} {method}", recorder.clock, rows, recorder.losses)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
