"""Segments of a row neither see nor move each other, and a model that cannot promise that is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM

from sagetune.attention import PADDED, SEGMENT, DenseCausal, check_segments, padded_attention, segment_attention
from sagetune.config import ModelConfig
from sagetune.embedded import tiny_model
from sagetune.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def qkv(heads: int, groups: int, tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(heads * tokens)
    shapes = [(1, heads, tokens, 16), (1, groups, tokens, 16), (1, groups, tokens, 16)]
    query, key, value = (torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)
    return query, key, value


def one_by_one(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """The reference: PyTorch's attention on each segment alone, (1, T, H, D)."""
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    return torch.cat([scaled_dot_product_attention(*p, is_causal=True, enable_gqa=True) for p in parts], 2).transpose(
        1, 2
    )


def borders(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (9, 3), (4, 1)])
@pytest.mark.parametrize("lengths", [[1], [7, 1, 30], [600, 5]])
def test_outputs_and_gradients_equal_attention_of_each_segment_alone(
    heads: int, groups: int, lengths: list[int]
) -> None:
    inputs = qkv(heads, groups, sum(lengths))
    ours, weights = segment_attention(nn.Identity(), *inputs, None, cu_seq_lens_q=borders(lengths))
    theirs = one_by_one(*inputs, lengths)
    direction = torch.randn_like(theirs)
    assert weights is None
    assert (ours - theirs).abs().max() < 1e-5
    pairs = zip(
        torch.autograd.grad(ours, inputs, direction), torch.autograd.grad(theirs, inputs, direction), strict=True
    )
    assert all((a - b).abs().max() < 1e-5 for a, b in pairs)


def test_values_may_be_wider_than_queries() -> None:
    query, key, _ = qkv(4, 2, 9)
    value = torch.randn(1, 2, 9, 24, requires_grad=True)
    ours, _ = segment_attention(nn.Identity(), query, key, value, None, cu_seq_lens_q=borders([4, 5]))
    theirs = one_by_one(query, key, value, [4, 5])
    direction, inputs = torch.randn_like(theirs), (query, key, value)
    pairs = zip(*(torch.autograd.grad(out, inputs, direction) for out in (ours, theirs)), strict=True)
    assert (ours - theirs).abs().max() < 1e-5
    assert all((a - b).abs().max() < 1e-5 for a, b in pairs)


def test_gradients_are_those_of_finite_differences() -> None:
    query, key, value = (tensor[0].double().detach().requires_grad_() for tensor in qkv(4, 2, 5))
    # The scores are made in float32 whatever the input, so the comparison has float32's accuracy.
    assert torch.autograd.gradcheck(
        lambda q, k, v: DenseCausal.apply(q, k, v, 0.25), (query, key, value), eps=1e-2, atol=1e-3, rtol=1e-3
    )


def test_bfloat16_is_as_close_to_float32_as_pytorchs_own() -> None:
    exact = one_by_one(*qkv(9, 3, 64), [64])
    inputs = qkv(9, 3, 64, torch.bfloat16)
    ours, _ = segment_attention(nn.Identity(), *inputs, None, cu_seq_lens_q=borders([64]))
    theirs = one_by_one(*inputs, [64])
    assert (ours - exact).norm() < 1.5 * (theirs - exact).norm()


@pytest.mark.parametrize(
    "asked", [{"sliding_window": 8}, {"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"is_causal": False}]
)
def test_what_is_not_computed_is_refused_with_the_way_out(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"set model\.attention=sdpa"):
        segment_attention(nn.Identity(), *qkv(4, 2, 8), None, cu_seq_lens_q=borders([8]), **asked)


def test_a_padded_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="takes one row and cu_seq_lens_q"):
        segment_attention(nn.Identity(), *qkv(4, 2, 8), None)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt", "phi", "olmo2", "granite"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_common_families_pass_the_check(family: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SMALL, intermediate_size=64, ffn_dim=64, word_embed_proj_dim=32)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=SEGMENT).to(dtype).train()
    check_segments(model)
    assert model.training


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mistral", "sliding_window"),
        ("gemma2", "softcap"),
        ("mamba", "change the next"),  # a recurrent state runs on over the border
        ("bloom", "change the next"),  # attention outside the interface, which got no mask
        ("codegen", "change the next"),
        ("stablelm", "takes one row and cu_seq_lens_q"),  # drops the segments on the way
    ],
)
def test_a_model_that_mixes_samples_is_refused(family: str, reason: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SMALL, intermediate_size=64, rotary_dim=4)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=SEGMENT)
    with pytest.raises(ValueError, match=rf"(?s){reason}.*set model.attention=sdpa"):
        check_segments(model)


def test_generation_leaves_segments_and_comes_back() -> None:
    model = load_model("embedded:tiny", ModelConfig())
    ids = torch.arange(12).view(2, 6)
    with padded_attention(model):
        assert model.config._attn_implementation == PADDED
        inside = model(input_ids=ids).logits
    assert model.config._attn_implementation == SEGMENT
    model.set_attn_implementation("eager")
    assert (inside - model(input_ids=ids).logits).abs().max() < 1e-5
    with padded_attention(model):
        assert model.config._attn_implementation == "eager"


def test_an_error_while_generating_brings_segments_back() -> None:
    model = load_model("embedded:tiny", ModelConfig())
    with pytest.raises(RuntimeError, match="stop"), padded_attention(model):
        raise RuntimeError("stop")
    assert model.config._attn_implementation == SEGMENT


def test_the_plain_tiny_model_knows_no_segments_until_asked() -> None:
    assert tiny_model().config._attn_implementation != SEGMENT
