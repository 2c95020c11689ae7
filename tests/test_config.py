"""The configuration is the public reference to the letter, and tells every mistake by field, value and range."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from sagetune.config import AgentSFTConfig, ModelConfig, OptimConfig, RunConfig

REFERENCE = {  # the table of the API reference: field -> (type, default)
    "base_model": ("str", dataclasses.MISSING),
    "train_data": ("str", dataclasses.MISSING),
    "eval_data": ("str | None", None),
    "output_dir": ("Path", Path(".sage/finetune/")),
    "num_epochs": ("int", 3),
    "batch_size": ("int", 8),
    "learning_rate": ("float", 2e-5),
    "gradient_accumulation_steps": ("int", 4),
    "max_seq_length": ("int", 2048),
    "use_lora": ("bool", True),
    "lora_r": ("int", 16),
    "lora_alpha": ("int", 32),
    "use_dora": ("bool", False),
    "use_lora_plus": ("bool", False),
    "lora_plus_lr_ratio": ("float", 16.0),
    "use_coreset_selection": ("bool", False),
    "coreset_strategy": ("str", "hybrid"),
    "coreset_target_size": ("int | None", None),
    "use_online_continual": ("bool", False),
    "continual_buffer_size": ("int", 2048),
    "continual_replay_ratio": ("float", 0.25),
}


def test_agent_sft_config_has_exactly_the_references_fields() -> None:
    ours = {field.name: (field.type, field.default) for field in dataclasses.fields(AgentSFTConfig)}
    assert ours == REFERENCE
    assert list(ours) == list(REFERENCE)


def test_the_references_example_constructs() -> None:
    config = AgentSFTConfig(
        base_model="Qwen/Qwen2.5-1.5B-Instruct",
        train_data="agent_sft:train",
        num_epochs=2,
        use_coreset_selection=True,
        coreset_strategy="hybrid",
        use_dora=True,
    )
    assert (config.num_epochs, config.lora_r) == (2, 16)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("num_epochs", 0, "at least 1"),
        ("batch_size", -1, "at least 1"),
        ("learning_rate", 0.0, "in (0, 1]"),
        ("max_seq_length", 4, "at least 16"),
        ("lora_r", 0, "at least 1"),
        ("lora_plus_lr_ratio", 0.5, "at least 1"),
        ("coreset_strategy", "best", "loss_topk, diversity, hybrid, random"),
        ("coreset_target_size", 0, "null or at least 1"),
        ("continual_replay_ratio", 1.5, "in [0, 1]"),
        ("base_model", "", "non-empty"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(field: str, value: object, allowed: str) -> None:
    given = {"base_model": "m", "train_data": "d", field: value}
    with pytest.raises(ValueError, match=re.escape(f"sft.{field} must be")) as error:
        AgentSFTConfig(**given)  # type: ignore[arg-type]
    assert allowed in str(error.value)
    assert repr(value) in str(error.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)sft\.num_epochs.*sft\.lora_r"):
        AgentSFTConfig(base_model="m", train_data="d", num_epochs=0, lora_r=0)


def test_groups_check_their_values() -> None:
    with pytest.raises(ValueError, match=r"model\.dtype must be one of auto, float32, bfloat16, got 'int4'"):
        ModelConfig(dtype="int4")
    with pytest.raises(ValueError, match=r"optim\.warmup_ratio must be in \[0, 1\), got 1\.5"):
        OptimConfig(warmup_ratio=1.5)


def test_full_fine_tuning_refuses_bfloat16_weights() -> None:
    sft = AgentSFTConfig(base_model="m", train_data="d", use_lora=False)
    with pytest.raises(ValueError, match=r"model\.dtype must be auto or float32"):
        RunConfig(sft=sft, model=ModelConfig(dtype="bfloat16"))
