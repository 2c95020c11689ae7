"""A model of a few hundred weights that follow from a formula, so that no random generator decides what a test sees."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 24
PAD, EOS = 0, 1


def llama(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
        **more,
    )


def lora() -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0, task_type="CAUSAL_LM")


@torch.no_grad()
def fill(module: nn.Module, size: float = 0.4, only: str = "") -> None:
    """Give every parameter whose name holds `only` the values size * sin(place), in float64 before they are rounded."""
    for number, (name, parameter) in enumerate(sorted(module.named_parameters())):
        if only in name and "norm" not in name:
            place = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_((size * torch.sin(1.7 * place + number)).view_as(parameter))


def base_model() -> LlamaForCausalLM:
    """Float32, evaluation mode, filled by the formula."""
    model = LlamaForCausalLM(llama())
    fill(model)
    return model.eval()


def short_name(name: str) -> str:
    """A name of an adapter's tensor without what PEFT and trainers put around it."""
    return name[max(name.find("layers."), 0) :].replace(".default", "").replace(".value", "")
