"""An evaluation goes on only with the answers of the very model that it measures, on the very same terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sagetune.capability.evaluator import AgentCapabilityEvaluator
from sagetune.config import EvaluationConfig, ModelConfig
from sagetune.models import load_model, load_tokenizer
from sagetune.trajectories.local import LocalAgent, local_agent

DATA = "agent_benchmark:tool_selection:test"


def tiny(**given: Any) -> tuple[Any, Any]:
    config = ModelConfig(**({"dtype": "float32"} | given))
    return load_model("embedded:tiny", config), load_tokenizer("embedded:tiny", config)


def measure(model: Any, folder: Path, config: ModelConfig | None = None) -> float:
    asking = AgentCapabilityEvaluator(
        EvaluationConfig(samples=2, max_new_tokens=2), folder=folder, model_config=config or ModelConfig()
    )
    return asking.evaluate_capability(model, "tool_use", DATA).score


def test_a_model_in_memory_that_learnt_something_is_another(tmp_path: Path) -> None:
    model, tokenizer = tiny()
    measure((model, tokenizer), tmp_path)
    measure(tiny(), tmp_path)  # the same weights, loaded anew, go on
    with torch.no_grad():
        list(model.parameters())[-1].add_(1e-3)
    with pytest.raises(ValueError, match="was collected otherwise"):
        measure((model, tokenizer), tmp_path)


def test_a_folder_whose_model_was_trained_on_is_another(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model, tokenizer = tiny()
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    measure(str(folder), tmp_path)
    with torch.no_grad():
        next(iter(model.parameters())).mul_(1.01)
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="was collected otherwise"):
        measure(str(folder), tmp_path)


def test_another_template_or_precision_is_another_model(tmp_path: Path) -> None:
    model, tokenizer = tiny()
    plain = LocalAgent(model, tokenizer).identity
    assert plain == local_agent("embedded:tiny", config=ModelConfig(dtype="float32")).identity
    tokenizer.chat_template += " "
    assert LocalAgent(model, tokenizer).identity != plain
    assert LocalAgent(*tiny(dtype="bfloat16")).identity != plain
