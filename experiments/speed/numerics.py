"""How much bfloat16 costs in quality: held-out loss after 12 optimiser steps, against PEFT in float32.

    python numerics.py <data folder> [seeds]      prints a Markdown table; the folder is make_data.py's

Every run starts from the same adapter and sees the same batches; only the arithmetic differs.
  PEFT float32   PEFT's own forward, model and adapter in float32: the reference
  PEFT bfloat16  PEFT's own forward, bfloat16 model, float32 adapter: what TRL and the Hugging Face Trainer do
  ours bfloat16  sagetune's forward, bfloat16 model, float32 adapter
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from measure import ALPHA, BATCH_SIZE, LEARNING_RATE, RANK, load_data
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from sagetune import adapters, models
from sagetune.batching import Batch, collate
from sagetune.chat import Encoded
from sagetune.config import AdapterConfig, AgentSFTConfig, ModelConfig, OptimConfig
from sagetune.losses import token_losses

STEPS = 12
HELD_OUT = 24


def adapted(content: dict[str, Any], sft: AgentSFTConfig, dtype: str, ours: bool, seed: int) -> PeftModel:
    """The model with a fresh adapter; ours or PEFT's forward."""
    model = models.load_model(content["model"], ModelConfig(dtype=dtype))
    torch.manual_seed(seed)
    if ours:
        return adapters.add_adapter(model, sft, AdapterConfig()).train()
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=sft.use_dora
    )
    return get_peft_model(model, config).train()


def train(model: PeftModel, sft: AgentSFTConfig, batches: list[Batch]) -> float:
    """Loss of the last of the steps."""
    optimizer = torch.optim.AdamW(adapters.parameter_groups(model, sft, OptimConfig()), fused=True)
    for batch in batches:
        loss = token_losses(model, batch).nll.mean()
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


@torch.no_grad()
def held_out_loss(model: PeftModel, batches: list[Batch]) -> float:
    """Mean over the supervised tokens of all batches."""
    model.eval()
    return torch.cat([token_losses(model, batch).nll for batch in batches]).mean().item()


def main(folder: str, num_seeds: int = 1) -> None:
    content, rows = load_data(folder, 400)
    samples = [Encoded(str(i), "", row["input_ids"], row["labels"], None, 0) for i, row in enumerate(rows)]

    def batches(start: int, stop: int) -> list[Batch]:
        return [
            collate(samples, range(i, i + BATCH_SIZE), content["pad_token_id"]) for i in range(start, stop, BATCH_SIZE)
        ]

    held_out = batches(len(rows) - HELD_OUT, len(rows))
    print("| method | seed | arithmetic | last step | held-out | gap to float32 |\n|---|---|---|---|---|---|")
    for use_dora in (False, True):
        sft = AgentSFTConfig(
            "given", "given", learning_rate=LEARNING_RATE, lora_r=RANK, lora_alpha=ALPHA, use_dora=use_dora
        )
        for seed in range(num_seeds):
            first = seed * STEPS * BATCH_SIZE
            exact = 0.0
            for name in ("PEFT float32", "PEFT bfloat16", "ours bfloat16"):
                owner, dtype = name.split()
                model = adapted(content, sft, dtype, owner == "ours", seed)
                last = train(model, sft, batches(first, first + STEPS * BATCH_SIZE))
                loss = held_out_loss(model, held_out)
                exact = loss if dtype == "float32" else exact
                method = "DoRA" if use_dora else "LoRA"
                print(f"| {method} | {seed} | {name} | {last:.4f} | {loss:.4f} | {loss - exact:+.4f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
