"""Each method is what its paper is about: the fields that it changes, and that they change what is trained.

What coresets, replay, trajectories and mixtures train on is tested with them (test_training_set.py,
test_continual_training.py, test_fireact.py, test_mixing.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from safetensors.torch import load_file

from sagetune.commands.entry import to_dataclass
from sagetune.config import CONF_DIR, RunConfig
from sagetune.methods import MethodRegistry, differences
from sagetune.trainer import AgentSFTTrainer

METHODS = MethodRegistry.get_all_methods()
STREAM = {"sft.use_online_continual": True, "data.stream": "sequential"}
FAMILIES = ("tool_selection", "planning", "timing", "general")
CHANGES: dict[str, dict[str, Any]] = {  # method -> all fields of its run in which it is not the baseline
    "A_baseline": {},
    "B1_coreset_loss": {
        **{"sft.use_coreset_selection": True, "sft.coreset_strategy": "loss_topk", "coreset.prune_top": 0.02},
    },
    "B2_coreset_diversity": {
        **{"sft.use_coreset_selection": True, "sft.coreset_strategy": "diversity", "coreset.embedding": "tfidf"},
    },
    "B3_coreset_hybrid": {"sft.use_coreset_selection": True, "coreset.prune_top": 0.02},  # hybrid is the default
    "C_continual": STREAM,
    "D_combined": {**STREAM, "sft.use_coreset_selection": True, "coreset.prune_top": 0.02},
    "E_fireact": {
        "trajectories.use": True,
        "trajectories.agent.error_rate": 0.2,
        "trajectories.collector.methods": ["react", "cot", "reflexion"],
    },
    "F_agenttuning": {
        "mixture.use": True,
        "mixture.eta": 0.2,
        "mixture.weights": dict(zip(FAMILIES, (0.35, 0.30, 0.20, 0.15), strict=True)),
        "mixture.sources": {family: f"agent_benchmark:{family}:train" for family in FAMILIES},
    },
    "G_dora": {"sft.use_dora": True},
    "H_lora_plus": {"sft.use_lora_plus": True},
}


@pytest.fixture(scope="module")
def composed() -> Iterator[Callable[[str], RunConfig]]:
    """The run that `sagetune train method=<option>` is."""
    ConfigStore.instance().store(name="run_config", node=RunConfig)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield lambda option: to_dataclass(compose("train", overrides=[f"method={option}"]), RunConfig)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_differs_from_the_baseline_in_what_its_paper_is_about(
    name: str, composed: Callable[[str], RunConfig]
) -> None:
    assert differences(METHODS[name], METHODS["A_baseline"]) == CHANGES[name]
    assert composed(METHODS[name].option) == METHODS[name].apply(composed("baseline")), "on the command line, too"


def first_step(name: str, make_run: Callable[..., RunConfig], folder: Path) -> dict[str, torch.Tensor]:
    """The adapter after one step of the method at a constant learning rate."""
    data = folder / "data.jsonl"
    turns = [[{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n}"}] for n in range(8)]
    data.write_text("\n".join(json.dumps({"messages": messages}) for messages in turns))
    run = METHODS[name].apply(make_run(train_data=str(data), batch_size=8, gradient_accumulation_steps=1))
    run.optim.lr_schedule, run.optim.warmup_ratio, run.optim.max_grad_norm = "constant", 0.0, 0.0
    return load_file(f"{AgentSFTTrainer(run).train().model_dir}/adapter_model.safetensors")


def test_lora_plus_steps_further_with_b_alone(make_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    """B starts at zero and Adam's first step is the learning rate, whatever the gradient: 16 times it for LoRA+."""
    plain, plus = (first_step(name, make_run, tmp_path) for name in ("A_baseline", "H_lora_plus"))
    assert plain.keys() == plus.keys()
    for name, weight in plain.items():
        if "lora_B" in name:
            torch.testing.assert_close(plus[name], 16 * weight, rtol=1e-3, atol=1e-6)
        else:
            assert torch.equal(plus[name], weight), "A does not see a B that is zero, and has the plain rate"


def test_dora_trains_magnitudes_beside_the_directions(make_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    plain, dora = (first_step(name, make_run, tmp_path) for name in ("A_baseline", "G_dora"))
    magnitudes = {name for name in dora if "magnitude" in name}
    assert dora.keys() - plain.keys() == magnitudes
    assert len(magnitudes) == sum("lora_B" in name for name in dora)
    model = AgentSFTTrainer(METHODS["A_baseline"].apply(make_run())).model
    for name in magnitudes:
        layer = name.removeprefix("base_model.model.").removesuffix(".lora_magnitude_vector")
        start = model.get_submodule(layer).weight.norm(dim=1)
        moved = (dora[name] - start).abs()
        torch.testing.assert_close(moved.max(), torch.tensor(1e-2), rtol=1e-2, atol=1e-4)  # one step at the rate
