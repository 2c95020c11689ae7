"""LoRA, DoRA and LoRA+: what is trained, at which learning rate, and how it is saved (PEFT's own format)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from sagetune.config import AdapterConfig, AgentSFTConfig, OptimConfig
from sagetune.lora_linear import speed_up

OWN = "default"
"""PEFT's name of the adapter that is trained and saved."""
EMBEDDING_NAMES = re.compile(r"\b(lora_embedding_[AB]|embed_tokens|wte|embed_in|word_embeddings)\b")


def add_adapter(model: PreTrainedModel, sft: AgentSFTConfig, adapter: AdapterConfig) -> PeftModel:
    """Put a fresh LoRA or DoRA adapter on `model` and freeze the rest; the adapter's tensors are float32.

    Initial values come from torch's global generator. Raises ValueError for target modules that the model lacks.
    """
    names = [name.strip() for name in adapter.target_modules.split(",")]
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=sft.lora_r,
        lora_alpha=sft.lora_alpha,
        lora_dropout=adapter.dropout,
        use_dora=sft.use_dora,
        target_modules="all-linear" if names == ["all-linear"] else names,
    )
    peft_model = get_peft_model(model, config)
    speed_up(peft_model)
    return peft_model


def load_adapter(model: PreTrainedModel, path: Path, *, trainable: bool = False) -> PeftModel:
    """`model` with the adapter that `save_adapter` or PEFT wrote to `path`, in evaluation mode; frozen unless asked."""
    peft_model = PeftModel.from_pretrained(model, str(path), is_trainable=trainable)
    speed_up(peft_model)
    return peft_model.eval()


def find_adapter(path: str, sft: AgentSFTConfig) -> Path:
    """The adapter in `path`, a PEFT folder or a run's folder, if it is what `sft` says it is.

    Raises ValueError where there is none, and where rank, scale or DoRA differ: the adapter has its own, and the run's
    configuration would tell others.
    """
    found = next((folder for folder in (Path(path), Path(path) / "adapter") if is_adapter(folder)), None)
    if found is None:
        raise ValueError(f"adapter.start_from: there is no adapter in {path!r} (no adapter_config.json)")
    config = LoraConfig.from_pretrained(str(found))
    theirs = {"lora_r": config.r, "lora_alpha": config.lora_alpha, "use_dora": config.use_dora}
    fixes = [f"sft.{name}={value}" for name, value in theirs.items() if vars(sft)[name] != value]
    if fixes:
        raise ValueError(f"adapter.start_from: {found} was made with {' '.join(fixes)}: set that, too")
    return found


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def save_adapter(model: nn.Module, path: Path) -> None:
    """Write the adapter that `add_adapter` or `load_adapter` made as a plain PEFT folder, or a model without one."""
    assert isinstance(model, PeftModel | PreTrainedModel), type(model)
    if isinstance(model, PeftModel):
        model.save_pretrained(str(path), selected_adapters=[OWN])  # others are of the training alone
    else:
        model.save_pretrained(str(path))


def parameter_groups(model: nn.Module, sft: AgentSFTConfig, optim: OptimConfig) -> list[dict[str, Any]]:
    """The optimiser's groups: every trainable parameter in exactly one, each group with its name, lr and weight_decay.

    LoRA+ (arXiv:2402.12354, section 4) multiplies the learning rate of the B matrices by `lora_plus_lr_ratio`, and
    of nothing else: DoRA's magnitudes and everything else keep the base rate. Vectors (magnitudes, biases, norms) are
    never decayed. Raises ValueError if nothing is trainable.
    """
    rates = {
        "A": sft.learning_rate,
        "B": sft.learning_rate * (sft.lora_plus_lr_ratio if sft.use_lora_plus else 1.0),
        "magnitude": sft.learning_rate,
        "embedding": sft.learning_rate * optim.embedding_lr_ratio,
        "other": sft.learning_rate,
    }
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault((kind_of(name), parameter.ndim > 1), []).append(parameter)
    if not members:
        raise ValueError("adapter.target_modules: nothing of the model is trainable")
    return [
        {
            "name": kind if decays else f"{kind}/no_decay",
            "params": parameters,
            "lr": rates[kind],
            "weight_decay": optim.weight_decay if decays else 0.0,
        }
        for (kind, decays), parameters in members.items()
    ]


def kind_of(name: str) -> str:
    """What a parameter is, by its name in the model: A, B, magnitude, embedding or other."""
    if EMBEDDING_NAMES.search(name):
        return "embedding"
    for part, kind in (("lora_magnitude_vector", "magnitude"), ("lora_A", "A"), ("lora_B", "B")):
        if f".{part}." in name:
            return kind
    return "other"
