"""CoresetSelector is the reference's class: names, defaults, the same dict objects; and it refuses clearly."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import conversation
from sage.libs.sias import CoresetSelector
from sagetune import adapters, models
from sagetune.config import AdapterConfig, AgentSFTConfig, CoresetConfig, ModelConfig
from sagetune.formats import to_openai, to_sharegpt
from sagetune.selection import selector as selector_file
from sagetune.world import generate

NO_CACHE = CoresetConfig(cache=False)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return models.load_model("embedded:tiny", ModelConfig(dtype="float32"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return models.load_tokenizer("embedded:tiny", ModelConfig())


@pytest.fixture
def samples() -> list[dict[str, Any]]:
    return [dict(conversation(index)) for index in range(20)]


def test_the_signature_is_the_references() -> None:
    given = list(inspect.signature(CoresetSelector).parameters.values())
    defaults = [("strategy", "hybrid"), ("target_size", 1000), ("loss_ratio", 0.6)]
    assert [(p.name, p.default) for p in given[:3]] == defaults
    assert all(p.kind is p.KEYWORD_ONLY for p in given[3:])


def test_the_references_example(tiny: Any, tokenizer: Any, samples: list[dict[str, Any]]) -> None:
    selector = CoresetSelector(strategy="hybrid", target_size=8, loss_ratio=0.6, tokenizer=tokenizer, options=NO_CACHE)
    selected = selector.select(samples, model=tiny)
    assert len(selected) == 8
    assert all(any(chosen is sample for sample in samples) for chosen in selected)
    losses = selector.compute_losses(samples, model=tiny)
    assert len(losses) == 20
    assert all(isinstance(loss, float) for loss in losses)
    by_loss = sorted(range(20), key=lambda index: -losses[index])
    assert [chosen["id"] for chosen in selected[:5]] == [samples[index]["id"] for index in by_loss[:5]]


@pytest.mark.parametrize("strategy", ["loss_topk", "hybrid", "el2n", "ifd", "ccs", "deita", "rds", "less", "s2l"])
def test_a_loss_without_a_model_is_refused(strategy: str, samples: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=rf"'{strategy}' scores samples by a model: pass select\(samples, model="):
        CoresetSelector(strategy, 5).select(samples)


@pytest.mark.parametrize("strategy", ["diversity", "random", "length", "kcenter", "facility_location"])
def test_no_model_is_needed_where_the_reference_says_so(strategy: str, samples: list[dict[str, Any]]) -> None:
    assert len(CoresetSelector(strategy, 5).select(samples)) == 5


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [("strategy", "best", "one of loss_topk"), ("target_size", 0, "at least 1"), ("loss_ratio", 1.5, r"in \[0, 1\]")],
)
def test_a_value_out_of_range_is_named(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be {allowed}"):
        CoresetSelector(**{field: value})


def test_conversations_of_any_format_and_tokens_give_the_same(tiny: Any, tokenizer: Any) -> None:
    plain = [conversation(index) for index in range(12)]
    selector = CoresetSelector("loss_topk", 4, tokenizer=tokenizer, options=NO_CACHE)
    encoded = selector.encode([dict(sample) for sample in plain], tiny)
    tokens = [{"input_ids": sample.input_ids, "labels": sample.labels} for sample in encoded]
    forms: list[list[dict[str, Any]]] = [[to_openai(s) for s in plain], [to_sharegpt(s) for s in plain], tokens]
    indices = [selector.select_indices(form, tiny).picks.indices.tolist() for form in forms]
    assert indices[0] == indices[1] == indices[2]
    assert CoresetSelector("diversity", 4).select(tokens)


def test_peft_models_score_as_they_are(tiny: Any, tokenizer: Any, samples: list[dict[str, Any]]) -> None:
    plain = models.load_model("embedded:tiny", ModelConfig(dtype="float32"))
    adapted = adapters.add_adapter(plain, AgentSFTConfig("given", "given"), AdapterConfig())
    selector = CoresetSelector("loss_topk", 5, tokenizer=tokenizer, options=NO_CACHE)
    assert selector.compute_losses(samples, adapted) == pytest.approx(selector.compute_losses(samples, tiny), rel=1e-5)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
    assert selector.compute_losses(samples, adapted) != pytest.approx(selector.compute_losses(samples, tiny), rel=1e-3)


@pytest.mark.parametrize("strategy", ["less", "s2l"])
def test_a_warm_up_leaves_the_model_as_it_was(strategy: str, tokenizer: Any, samples: list[dict[str, Any]]) -> None:
    options = CoresetConfig(cache=False, warmup_share=0.5, warmup_epochs=2, warmup_learning_rate=1e-2, sketch_dim=64)
    dev = [dict(sample) for sample in map(conversation, range(30, 33))]
    plain = models.load_model("embedded:tiny", ModelConfig(dtype="float32"))
    names = list(plain.state_dict())
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    trainable = [parameter.requires_grad for parameter in plain.parameters()]
    assert all(trainable)
    selector = CoresetSelector(strategy, 6, options=options, tokenizer=tokenizer, dev_samples=dev)
    state = torch.get_rng_state()
    first = selector.select(samples, plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(plain.state_dict()) == names
    assert [parameter.requires_grad for parameter in plain.parameters()] == trainable
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    assert [sample["id"] for sample in selector.select(samples, plain)] == [sample["id"] for sample in first]
    adapted = adapters.add_adapter(plain, AgentSFTConfig("given", "given"), AdapterConfig())
    kept = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    selector.select(samples, adapted)
    assert all(torch.equal(p.detach(), kept[name]) for name, p in adapted.named_parameters())


def test_less_prefers_what_the_development_set_is_like(tokenizer: Any) -> None:
    pool = generate("general", "train", 12, 0) + generate("timing", "train", 12, 0)
    dev = [dict(sample) for sample in generate("timing", "dev", 4, 0)]
    options = CoresetConfig(cache=False, warmup_share=0.5, warmup_epochs=1, warmup_learning_rate=1e-2, sketch_dim=512)
    model = models.load_model("embedded:tiny", ModelConfig(dtype="float32"))
    selector = CoresetSelector("less", 8, options=options, tokenizer=tokenizer, dev_samples=dev)
    chosen = selector.select([dict(sample) for sample in pool], model)
    assert sum(sample["task"] == "timing" for sample in chosen) >= 6


def test_a_development_set_is_asked_for(tiny: Any, tokenizer: Any, samples: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"coreset.dev_data: this strategy selects what resembles a development set"):
        CoresetSelector("rds", 4, tokenizer=tokenizer, options=NO_CACHE).select(samples, tiny)


def poisoned(samples: list[dict[str, Any]], tokenizer: Any) -> tuple[Any, list[dict[str, Any]], int]:
    """A model whose embedding of one token is NaN, the samples as tokens, and the place of the one that holds it."""
    model = models.load_model("embedded:tiny", ModelConfig(dtype="float32"))
    tokens = [
        {"input_ids": e.input_ids, "labels": e.labels}
        for e in CoresetSelector(tokenizer=tokenizer).encode(samples, model)
    ]
    unseen = next(i for i in range(model.config.vocab_size) if all(i not in sample["input_ids"] for sample in tokens))
    tokens[5] = {"input_ids": [unseen, *tokens[5]["input_ids"]], "labels": [-100, *tokens[5]["labels"]]}
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.get_input_embeddings().weight[unseen] = float("nan")
    return model, tokens, 5


@pytest.mark.parametrize(
    "strategy",
    ["loss_topk", "el2n", "hybrid", "diversity", "kcenter", "facility_location", "deita", "ccs", "ifd", "rds"],
)
def test_one_sample_that_the_model_cannot_score_harms_no_other(
    strategy: str, tokenizer: Any, samples: list[dict[str, Any]]
) -> None:
    model, tokens, bad = poisoned(samples, tokenizer)
    dev = tokens[:3]
    selector = CoresetSelector(strategy, 12, options=NO_CACHE, dev_samples=dev)
    chosen = selector.select_indices(tokens, model).picks.indices.tolist()
    assert len(set(chosen)) == 12
    assert bad not in chosen
    clean = [sample for index, sample in enumerate(tokens) if index != bad]
    without = selector.select_indices(clean, model).picks.indices
    if strategy != "ccs":  # draws at random, so another number of samples draws others
        assert chosen == [int(index) + (index >= bad) for index in without]


def test_a_warm_up_that_meets_a_bad_sample_names_it(tokenizer: Any, samples: list[dict[str, Any]]) -> None:
    model, tokens, _ = poisoned(samples, tokenizer)
    options = CoresetConfig(cache=False, warmup_share=1.0, warmup_epochs=1)
    with pytest.raises(ValueError, match=r"loss of the warm-up is not finite; leave out .*samples\[5\]"):
        CoresetSelector("s2l", 4, options=options).select(tokens, model)


def test_padding_of_tokenised_samples_has_no_part(tiny: Any, tokenizer: Any, samples: list[dict[str, Any]]) -> None:
    encoded = CoresetSelector(tokenizer=tokenizer).encode(samples[:4], tiny)
    plain = [{"input_ids": e.input_ids, "labels": e.labels} for e in encoded]
    padded = []
    for number, sample in enumerate(plain):
        pads, ones = [0] * 7, [1] * len(sample["input_ids"])
        left, right = (pads, []) if number % 2 else ([], pads)
        none = [-100] * 7
        padded.append(
            {
                "input_ids": left + sample["input_ids"] + right,
                "labels": none[: len(left)] + sample["labels"] + none[: len(right)],
                "attention_mask": [0] * len(left) + ones + [0] * len(right),
            }
        )
    selector = CoresetSelector("loss_topk", 2, options=NO_CACHE)
    assert selector.compute_losses(padded, tiny) == selector.compute_losses(plain, tiny)
    with pytest.raises(ValueError, match=r"samples\[0\]: .* tokens, max_length is 16"):
        CoresetSelector("loss_topk", 2, max_length=16).select(plain, tiny)


def test_hybrid_with_ratio_0_is_diversity_for_the_same_arguments(
    tiny: Any, tokenizer: Any, samples: list[dict[str, Any]]
) -> None:
    hybrid = CoresetSelector("hybrid", 8, loss_ratio=0.0, options=NO_CACHE, tokenizer=tokenizer)
    diversity = CoresetSelector("diversity", 8, options=NO_CACHE, tokenizer=tokenizer)
    assert hybrid.select(samples, tiny) == diversity.select(samples, tiny)


def test_an_empty_pool_gives_nothing_and_a_small_one_everything(tiny: Any, tokenizer: Any) -> None:
    assert CoresetSelector("random").select([]) == []
    few = [dict(conversation(index)) for index in range(3)]
    chosen = CoresetSelector("loss_topk", 10, tokenizer=tokenizer, options=NO_CACHE).select(few, tiny)
    assert sorted(sample["id"] for sample in chosen) == ["c0", "c1", "c2"]


def test_a_sample_without_a_supervised_token_is_refused_by_its_place(tiny: Any, tokenizer: Any) -> None:
    selector = CoresetSelector("loss_topk", 2, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"samples\[1\].labels: no token is supervised"):
        selector.select([{"input_ids": [1, 2, 3]}, {"input_ids": [1, 2], "labels": [-100, -100]}], tiny)
    with pytest.raises(ValueError, match=r"samples\[0\].labels: has 1 entries, input_ids has 2"):
        selector.select([{"input_ids": [1, 2], "labels": [1]}], tiny)
    silent = dict(conversation(1))
    silent["messages"][-1]["loss"] = False
    with pytest.raises(ValueError, match=r"samples\[0\]: cannot train \(unsupervised"):
        selector.select([silent], tiny)
    with pytest.raises(ValueError, match=r"samples\[1\]: record: is in no known format"):
        CoresetSelector("random", 2).select([dict(conversation(0)), {"text": "hello"}])


def test_one_token_answers_have_a_loss(tiny: Any) -> None:
    losses = CoresetSelector().compute_losses([{"input_ids": [5, 6], "labels": [-100, 6]}], tiny)
    assert np.isfinite(losses).all()


def test_an_embedding_of_the_users_own(samples: list[dict[str, Any]]) -> None:
    selector = CoresetSelector("facility_location", 2, embed=lambda items: np.eye(2)[[0] * 10 + [1] * 10])
    chosen = [samples.index(sample) for sample in selector.select(samples)]
    assert sorted(index // 10 for index in chosen) == [0, 1]
    with pytest.raises(ValueError, match=r"embed must return one finite vector a sample, \(20, d\), got \(3, 2\)"):
        CoresetSelector("diversity", 2, embed=lambda items: np.ones((3, 2))).select(samples)


def test_a_bad_embedding_is_refused_and_one_with_a_gradient_taken(samples: list[dict[str, Any]]) -> None:
    rows = torch.randn(20, 4, requires_grad=True)
    assert len(CoresetSelector("diversity", 3, embed=lambda items: rows).select(samples)) == 3
    assert CoresetSelector(embed=lambda items: rows).compute_diversity(samples).shape == (20, 20)
    with pytest.raises(ValueError, match="NaN or infinity"):
        CoresetSelector("diversity", 3, embed=lambda items: np.full((20, 4), np.nan)).select(samples)


def test_hidden_states_can_be_the_embedding(tiny: Any, tokenizer: Any, samples: list[dict[str, Any]]) -> None:
    options = CoresetConfig(cache=False, embedding="hidden", whiten=True, embed_dim=16)
    selector = CoresetSelector("diversity", 5, options=options, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="scores samples by a model"):
        selector.select(samples)
    selection = selector.select_indices(samples, tiny)
    assert selection.pool.points is not None
    assert selection.pool.points.shape[1] <= 16
    assert selection.forward_tokens > 0


def test_the_diversity_matrix(samples: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    samples.append(dict(samples[0]))
    matrix = CoresetSelector().compute_diversity(samples)
    assert matrix.shape == (21, 21)
    assert matrix.dtype == np.float32
    assert (matrix == matrix.T).all()
    assert (matrix.diagonal() == 0).all()
    assert matrix[0, 20] == pytest.approx(0, abs=1e-6)
    assert matrix[0, 1] > 0
    monkeypatch.setattr(selector_file, "DENSE_LIMIT", 20)
    with pytest.raises(ValueError, match=r"a matrix of 21 samples .* the limit is 20 samples"):
        CoresetSelector().compute_diversity(samples)


def test_scores_are_reused_by_the_next_strategy(
    tiny: Any, tokenizer: Any, samples: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGETUNE_CACHE", str(tmp_path))
    first = CoresetSelector("loss_topk", 5, tokenizer=tokenizer).select_indices(samples, tiny)
    second = CoresetSelector("hybrid", 5, tokenizer=tokenizer).select_indices(samples, tiny)
    assert (first.reused_tokens, second.forward_tokens) == (0, 0)
    assert first.forward_tokens == second.reused_tokens > 0
    fresh = CoresetSelector("hybrid", 5, tokenizer=tokenizer, options=NO_CACHE).select_indices(samples, tiny)
    assert fresh.picks.indices.tolist() == second.picks.indices.tolist()
    assert fresh.picks.scores.tolist() == second.picks.scores.tolist()


def test_real_conversations_of_two_formats_are_selected_from() -> None:
    data = Path(__file__).parents[2] / "shared" / "data"
    if not data.is_dir():
        pytest.skip(f"no real data at {data}")
    glaive = json.loads((data / "glaive_sharegpt" / "glaive_toolcall_en_demo.json").read_text())
    lines = (data / "fireact" / "finetune" / "gpt_format" / "hotpotqa.jsonl").read_text().splitlines()
    pool = glaive + [json.loads(line) for line in lines]
    selection = CoresetSelector("diversity", 50).select_indices(pool)
    assert len(set(selection.picks.indices.tolist())) == 50
    from_glaive = (selection.picks.indices < len(glaive)).sum()
    assert 5 < from_glaive < 50
