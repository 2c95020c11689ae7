"""One loss, however a batch is laid out: padded, padding-free, one by one, all logits or only the supervised ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sagetune import losses
from sagetune.adapters import add_adapter
from sagetune.config import AdapterConfig, AgentSFTConfig, ModelConfig
from sagetune.losses import TokenLosses, token_losses
from sagetune.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

Batch = dict[str, Tensor]
LENGTHS = (9, 31, 4, 17)


def make_batch(lengths: tuple[int, ...] = LENGTHS, side: str = "right", weighted: bool = False) -> Batch:
    """Ragged rows of random tokens, about half of them supervised, the first of a row among them."""
    generator = torch.Generator().manual_seed(sum(lengths))
    shape = (len(lengths), max(lengths))
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.int64),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
        "labels": torch.full(shape, -100),
    }
    if weighted:
        batch["loss_weights"] = torch.zeros(shape)
    for row, length in enumerate(lengths):
        where = slice(0, length) if side == "right" else slice(shape[1] - length, None)
        ids = torch.randint(250, (length,), generator=generator)
        supervised = torch.rand(length, generator=generator) < 0.5
        supervised[-1] = True
        batch["input_ids"][row, where], batch["attention_mask"][row, where] = ids, 1
        batch["labels"][row, where] = torch.where(supervised, ids, -100)
        if side == "right":
            batch["labels"][row, 0] = -100
        else:
            batch["labels"][row, shape[1] - length] = -100
        if weighted:
            batch["loss_weights"][row, where] = torch.rand(length, generator=generator)
    return batch


def row_of(batch: Batch, row: int) -> Batch:
    """One sample without its padding."""
    columns = batch["attention_mask"][row].bool()
    return {name: tensor[row : row + 1, columns] for name, tensor in batch.items()}


def tiny(attention: str = "segment", **sft: Any) -> nn.Module:
    """The tiny model in float32 with a LoRA adapter whose B is not zero, or whole."""
    model = load_model("embedded:tiny", ModelConfig(dtype="float32", attention=attention))
    settings = AgentSFTConfig("embedded:tiny", "x", lora_r=4, **sft)
    torch.manual_seed(0)
    if not settings.use_lora:
        return model
    adapted = add_adapter(model, settings, AdapterConfig()).train()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return adapted


def gradients(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> tuple[Tensor, Tensor]:
    """The loss and its gradient with respect to everything trainable, as one vector."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    value = loss(model)
    return value.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(value, trainable)])


def mean_nll(batch: Batch) -> Callable[[nn.Module], Tensor]:
    return lambda model: token_losses(model, batch).nll.mean()


def assert_same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> None:
    assert (a[0] - b[0]).abs() < 1e-5
    assert a[1].abs().max() > 1e-4
    assert (a[1] - b[1]).abs().max() < 1e-5 * max(1.0, a[1].abs().max().item())


@pytest.mark.parametrize("sft", [{}, {"use_dora": True}, {"use_lora": False}])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_free_equals_padded_equals_one_by_one(sft: dict[str, Any], side: str) -> None:
    batch = make_batch(side=side)
    free = gradients(tiny(**sft), mean_nll(batch))
    assert_same(free, gradients(tiny("sdpa", **sft), mean_nll(batch)))
    assert_same(free, gradients(tiny("eager", **sft), mean_nll(batch)))
    rows = [row_of(batch, row) for row in range(len(LENGTHS))]
    assert_same(free, gradients(tiny(**sft), lambda m: torch.cat([token_losses(m, row).nll for row in rows]).mean()))


@pytest.mark.parametrize("sft", [{}, {"use_lora": False}])
def test_supervised_logits_equal_all_logits_and_transformers_own_loss(sft: dict[str, Any]) -> None:
    batch = make_batch()
    ours = gradients(tiny(**sft), mean_nll(batch))
    assert_same(ours, gradients(tiny("sdpa", **sft), lambda model: model(**batch).loss))

    def from_all_logits(model: nn.Module) -> Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())

    assert_same(ours, gradients(tiny("sdpa", **sft), from_all_logits))


@pytest.mark.parametrize("chunk", [1, 3, 10_000])
def test_the_chunk_size_changes_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch()
    whole = gradients(tiny(), mean_nll(batch))
    monkeypatch.setattr(losses, "CHUNK", chunk)
    assert_same(whole, gradients(tiny(), mean_nll(batch)))


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.sampled_from(["left", "right"]), st.booleans())
@settings(max_examples=15, deadline=None)
def test_figures_belong_to_their_tokens(lengths: list[int], side: str, weighted: bool) -> None:
    """rows, weights and correct follow the supervised tokens in row-major order, on both paths."""
    batch = make_batch(tuple(lengths), side, weighted)
    free, padded = token_losses(SEGMENTS, batch), token_losses(PADDED, batch)
    supervised = batch["labels"][:, 1:] != -100
    assert torch.equal(free.rows, supervised.nonzero()[:, 0])
    expected = batch["loss_weights"][:, 1:][supervised] if weighted else torch.ones(int(supervised.sum()))
    assert torch.equal(free.weights, expected)
    assert torch.equal(free.rows, padded.rows)
    assert torch.equal(free.correct, padded.correct)
    assert (free.nll - padded.nll).abs().max() < 1e-5


SEGMENTS, PADDED = tiny(), tiny("sdpa")


def test_correct_means_that_the_likeliest_token_is_the_label() -> None:
    batch = make_batch((12,))
    logits = tiny("sdpa")(input_ids=batch["input_ids"]).logits[0, :-1]
    supervised = batch["labels"][0, 1:] != -100
    batch["labels"][0, 1:][supervised] = logits.argmax(-1)[supervised]
    found = token_losses(tiny(), batch)
    assert found.correct.all()
    batch["labels"][0, 1:][supervised] = logits.argmin(-1)[supervised]
    assert not token_losses(tiny(), batch).correct.any()


def test_losses_of_a_bfloat16_model_are_float32() -> None:
    found = token_losses(tiny().to(torch.bfloat16), make_batch())
    assert (found.nll.dtype, found.weights.dtype, found.correct.dtype) == (torch.float32, torch.float32, torch.bool)


def test_weights_of_single_tokens_scale_their_gradient() -> None:
    batch = make_batch(weighted=True)

    def weighted(model: nn.Module) -> Tensor:
        found = token_losses(model, batch)
        return (found.nll * found.weights).sum()

    def by_hand(model: nn.Module) -> Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        each = nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="none")
        return (each * batch["loss_weights"][:, 1:].flatten()).sum()

    ours, theirs = gradients(tiny(), weighted), gradients(tiny("sdpa"), by_hand)
    assert ours[0] == pytest.approx(theirs[0].item(), rel=1e-5)
    assert (ours[1] - theirs[1]).norm() < 1e-5 * theirs[1].norm()


@torch.no_grad()
def test_without_gradients_none_is_made() -> None:
    found = token_losses(tiny(), make_batch())
    assert isinstance(found, TokenLosses)
    assert not found.nll.requires_grad


def test_a_batch_without_supervised_tokens_has_no_losses() -> None:
    batch: Mapping[str, Any] = make_batch() | {"labels": torch.full((len(LENGTHS), max(LENGTHS)), -100)}
    for model in (tiny(), tiny("sdpa")):
        assert token_losses(model, batch).nll.shape == (0,)
