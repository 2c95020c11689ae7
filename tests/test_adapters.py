"""Adapters compute what PEFT's do, stay plain PEFT on disk, and every parameter has its own learning rate."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sagetune.adapters import add_adapter, load_adapter, parameter_groups, save_adapter
from sagetune.config import AdapterConfig, AgentSFTConfig, OptimConfig
from sagetune.embedded import tiny_model
from sagetune.lora_linear import FastLinear, speed_up

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = (torch.arange(2 * 24) * 5 % 250).view(2, 24)
METHODS = [{}, {"use_dora": True}]


def sft(**given: Any) -> AgentSFTConfig:
    return AgentSFTConfig("embedded:tiny", "x", **({"lora_r": 4, "lora_alpha": 12} | given))


def randomise(model: nn.Module) -> None:
    """Give every adapter tensor a value that an untrained adapter does not have."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
        if "lora_magnitude_vector" in name:
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)


def pair(base: Callable[[], PreTrainedModel] = tiny_model, **given: Any) -> tuple[PeftModel, PeftModel]:
    """The same trained adapter twice: ours, and PEFT's own forward."""
    torch.manual_seed(0)
    ours = add_adapter(base(), sft(**given), AdapterConfig())
    config = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM", **given)
    theirs = get_peft_model(base(), config)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    return ours.train(), theirs.train()


def logits(model: nn.Module) -> Tensor:
    return model(input_ids=IDS).logits


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value where that is above 1."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


def biased_qwen() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("qwen2", **shape, num_attention_heads=4, num_key_value_heads=2)
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("base", [tiny_model, biased_qwen])
def test_forward_and_gradients_are_pefts(method: dict[str, Any], base: Callable[[], PreTrainedModel]) -> None:
    ours, theirs = pair(base, **method)
    assert difference(logits(ours), logits(theirs)) < 1e-6
    mine, reference = gradients(ours), gradients(theirs)
    assert mine.keys() == reference.keys() == {n for n, p in ours.named_parameters() if p.requires_grad}
    assert max(difference(mine[name], reference[name]) for name in mine) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_merging_is_pefts_and_gives_a_plain_model_that_saves(method: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = pair(**method)
    adapted = logits(ours.eval()).detach()
    merged, reference = ours.merge_and_unload(), theirs.merge_and_unload()
    assert difference(logits(merged), logits(reference)) < 1e-6
    assert difference(logits(merged), adapted) < 1e-5
    merged.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(merged))
    assert (tmp_path / "model.safetensors").stat().st_size < 1.1 * 4 * sum(p.numel() for p in tiny_model().parameters())


@pytest.mark.parametrize("method", METHODS)
def test_an_untrained_adapter_changes_nothing(method: dict[str, Any]) -> None:
    model = add_adapter(tiny_model(), sft(**method), AdapterConfig())
    assert difference(logits(model), logits(tiny_model())) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_a_disabled_adapter_is_the_base_model_bit_for_bit(method: dict[str, Any]) -> None:
    model, _ = pair(**method)
    adapted = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny_model()))
    assert torch.equal(logits(model), adapted)


@pytest.mark.parametrize("method", METHODS)
def test_a_merged_and_unmerged_adapter_computes_as_before(method: dict[str, Any]) -> None:
    model, _ = pair(**method)
    adapted = logits(model).detach()
    model.merge_adapter()
    assert difference(logits(model), adapted) < 1e-5
    model.unmerge_adapter()
    assert difference(logits(model), adapted) < 1e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_a_changed_adapter_is_noticed(method: dict[str, Any], training: bool, fused: bool) -> None:
    """After optimiser steps, in-place edits and loading, in training and in evaluation; PEFT's forward tells."""
    model, reference = pair(**method)
    model.train(training)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, fused=fused)

    def check() -> None:
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                reference.load_state_dict(model.state_dict())
                assert difference(logits(model), logits(reference)) < 1e-5

    first = copy.deepcopy(model.state_dict())
    check()
    for _ in range(2):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        check()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.mul_(2)
    check()
    model.load_state_dict(first)
    check()


@pytest.mark.parametrize("method", METHODS)
def test_other_base_weights_are_noticed(method: dict[str, Any]) -> None:
    ours, theirs = pair(**method)
    logits(ours)
    other = {name: tensor * 1.5 for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict(other)
    theirs.load_state_dict(other)
    assert difference(logits(ours), logits(theirs)) < 1e-6


def test_a_base_weight_that_is_trained_too_gets_its_gradient() -> None:
    ours, theirs = pair()
    for model in (ours, theirs):
        model.requires_grad_(True)
    mine, reference = gradients(ours), gradients(theirs)
    assert mine.keys() == reference.keys()
    assert max(difference(mine[name], reference[name]) for name in mine) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_two_batches_add_up(method: dict[str, Any]) -> None:
    """A second forward pass before the first backward pass must not disturb it."""
    model, _ = pair(**method)
    losses = [model(input_ids=IDS[row : row + 1], labels=IDS[row : row + 1]).loss for row in range(2)]
    model.zero_grad()
    sum(losses).backward()
    together = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for row in range(2):
        model(input_ids=IDS[row : row + 1], labels=IDS[row : row + 1]).loss.backward()
    apart = [p.grad for p in model.parameters() if p.grad is not None]
    assert max(difference(a, b) for a, b in zip(together, apart, strict=True)) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_on_disk_is_plain_peft(method: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = pair(**method)
    save_adapter(ours, tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    by_peft = PeftModel.from_pretrained(tiny_model(), tmp_path / "ours")
    by_us = load_adapter(tiny_model(), tmp_path / "theirs")
    assert torch.equal(logits(by_us), logits(ours.eval()))
    assert difference(logits(by_peft), logits(ours)) < 1e-6
    assert any(isinstance(module, FastLinear) for module in by_us.modules())


def test_a_whole_model_saves_as_itself(tmp_path: Path) -> None:
    save_adapter(tiny_model(), tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(tiny_model()))


def test_the_base_weight_is_held_once() -> None:
    model = add_adapter(tiny_model(), sft(), AdapterConfig())
    logits(model)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.base_layer.weight.data_ptr() == layer.extended_state.extended.data_ptr()


@pytest.mark.parametrize("method", METHODS)
def test_a_bfloat16_base_keeps_a_float32_adapter(method: dict[str, Any]) -> None:
    model = add_adapter(tiny_model().bfloat16(), sft(**method), AdapterConfig())
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    assert trained == {torch.float32}
    assert logits(model).dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in gradients(model).values())


def test_magnitudes_start_as_pefts_in_bfloat16() -> None:
    ours = add_adapter(tiny_model().bfloat16(), sft(use_dora=True), AdapterConfig())
    theirs = get_peft_model(tiny_model().bfloat16(), LoraConfig(r=4, use_dora=True, target_modules="all-linear"))
    vectors = [
        [p for name, p in model.named_parameters() if "lora_magnitude_vector" in name] for model in (ours, theirs)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*vectors, strict=True))


def test_small_contributions_survive_bfloat16() -> None:
    """Base and adapter share one accumulator: the sum is rounded once, not twice as in PEFT."""
    exact, _ = pair()
    ours, theirs = pair(lambda: tiny_model().bfloat16())
    # The adapter of the first steps: its contribution is about the rounding error of the base's output.
    with torch.no_grad():
        layers = [m.base_model.model.model.layers[0].mlp.down_proj for m in (exact, ours, theirs)]
        x = torch.randn(512, 128)
        for layer in layers:
            layer.base_layer.weight.data.copy_(layers[0].base_layer.weight.bfloat16())
            layer.lora_B["default"].weight.mul_(0.03)
        wanted, mine, peft = (layer(x.to(layer.base_layer.weight.dtype)).float() for layer in layers)
    assert (mine - wanted).norm() < 0.9 * (peft - wanted).norm()


def test_dropout_and_other_layers_take_pefts_own_forward() -> None:
    torch.manual_seed(0)
    dropping = add_adapter(tiny_model(), sft(), AdapterConfig(dropout=0.5)).train()
    randomise(dropping)
    assert not torch.equal(logits(dropping), logits(dropping))
    assert torch.equal(logits(dropping.eval()), logits(dropping))
    gpt2 = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=4, vocab_size=260)
    )
    adapted = get_peft_model(
        gpt2, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    )
    assert speed_up(adapted) == []
    logits(adapted)


def test_target_modules_choose_the_layers() -> None:
    model = add_adapter(tiny_model(), sft(), AdapterConfig(target_modules="q_proj, v_proj"))
    assert {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad} == {"q_proj", "v_proj"}
    with pytest.raises(ValueError, match="not found in the base model"):
        add_adapter(tiny_model(), sft(), AdapterConfig(target_modules="w_pack"))


def groups_of(model: nn.Module, settings: AgentSFTConfig, **optim: Any) -> dict[str, dict[str, Any]]:
    return {group["name"]: group for group in parameter_groups(model, settings, OptimConfig(**optim))}


def test_lora_plus_raises_the_rate_of_b_alone() -> None:
    settings = sft(use_dora=True, use_lora_plus=True, learning_rate=1e-4)
    model = add_adapter(tiny_model(), settings, AdapterConfig())
    groups = groups_of(model, settings, weight_decay=0.1)
    rates = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert rates == {
        "A": (1e-4, 0.1),
        "B": (pytest.approx(1.6e-3), 0.1),
        "magnitude/no_decay": (1e-4, 0.0),
    }


def test_the_ratio_counts_only_when_lora_plus_is_asked_for() -> None:
    model = add_adapter(tiny_model(), sft(), AdapterConfig())
    assert {group["lr"] for group in parameter_groups(model, sft(lora_plus_lr_ratio=16.0), OptimConfig())} == {2e-5}


def test_embeddings_have_their_own_rate_and_vectors_no_decay_in_full_fine_tuning() -> None:
    groups = groups_of(tiny_model(), sft(use_lora=False), weight_decay=0.1, embedding_lr_ratio=0.5)
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "embedding": (1e-5, 0.1),
        "other": (2e-5, 0.1),
        "other/no_decay": (2e-5, 0.0),
    }


def test_adapters_on_embeddings_are_embeddings_not_b() -> None:
    settings = sft(use_lora_plus=True)
    model = add_adapter(tiny_model(), settings, AdapterConfig(target_modules="embed_tokens, q_proj"))
    groups = groups_of(model, settings, embedding_lr_ratio=0.5)
    assert {name: group["lr"] for name, group in groups.items()} == {
        "A": 2e-5,
        "B": pytest.approx(3.2e-4),
        "embedding": 1e-5,
    }


@pytest.mark.parametrize("given", [{}, {"use_dora": True}, {"use_lora_plus": True}, {"use_lora": False}])
def test_every_trainable_parameter_is_in_one_group(given: dict[str, Any]) -> None:
    settings = sft(**given)
    model = add_adapter(tiny_model(), settings, AdapterConfig()) if settings.use_lora else tiny_model()
    grouped = [id(p) for group in parameter_groups(model, settings, OptimConfig()) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_a_frozen_model_has_nothing_to_optimise() -> None:
    with pytest.raises(ValueError, match="nothing of the model is trainable"):
        parameter_groups(tiny_model().requires_grad_(False), sft(), OptimConfig())
