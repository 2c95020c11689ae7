"""Scores are what their formulas say, whoever shares the pass, and are computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import conversation
from sagetune import adapters, models
from sagetune.batching import collate
from sagetune.chat import Encoded, encode_all
from sagetune.config import AdapterConfig, AgentSFTConfig, ModelConfig
from sagetune.selection import store as store_file
from sagetune.selection.scoring import Columns, alone, bare, language_model, make_sketch, passes, score_passes
from sagetune.selection.store import ScoreStore, model_key, sample_key


@pytest.fixture(scope="module")
def tiny() -> Any:
    return models.load_model("embedded:tiny", ModelConfig(dtype="float32"))


@pytest.fixture(scope="module")
def samples() -> list[Encoded]:
    tokenizer = models.load_tokenizer("embedded:tiny", ModelConfig())
    return encode_all([conversation(index) for index in range(24)], tokenizer, 2048)[0]


def scored(model: Any, samples: list[Encoded], **given: Any) -> Columns:
    columns: Columns = {}
    for places, figures in score_passes(model, samples, **({"batch_tokens": 2048} | given)):
        for name, values in figures.items():
            columns.setdefault(name, np.zeros((len(samples), *values.shape[1:]), dtype=np.float32))[places] = values
    return columns


def test_passes_hold_every_sample_once_and_keep_to_their_size() -> None:
    lengths = [5, 90, 30, 7, 200, 64, 64]
    found = passes(lengths, 100)
    assert sorted(place for places in found for place in places) == list(range(7))
    assert [sum(lengths[place] for place in places) for places in found] == [200, 90, 64, 94, 12]
    assert passes([], 100) == []


@pytest.mark.parametrize("attention", ["segment", "sdpa"])
def test_scores_do_not_depend_on_the_pass_or_its_padding(attention: str, samples: list[Encoded]) -> None:
    model = models.load_model("embedded:tiny", ModelConfig(dtype="float32", attention=attention))
    single = scored(model, samples, batch_tokens=1)
    for batch_tokens in (400, 100_000):
        shared = scored(model, samples, batch_tokens=batch_tokens)
        for name, values in single.items():
            np.testing.assert_allclose(shared[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.usefixtures("one_thread")
def test_scores_are_those_of_the_full_logits(tiny: Any, samples: list[Encoded]) -> None:
    found = scored(tiny, samples)
    padded = models.load_model("embedded:tiny", ModelConfig(dtype="float32", attention="sdpa"))
    for place, sample in enumerate(samples[:6]):
        batch = collate(samples, [place], 0)
        output = padded(input_ids=batch["input_ids"], output_hidden_states=True)
        keep = batch["labels"][0, 1:] != -100
        logits, targets = output.logits[0, :-1][keep], batch["labels"][0, 1:][keep]
        error = logits.softmax(-1) - F.one_hot(targets, logits.shape[-1])
        place_weight = torch.arange(1, len(sample.input_ids) + 1.0)
        hidden = (output.hidden_states[-1][0] * place_weight[:, None]).sum(0) / place_weight.sum()
        assert found["loss"][place] == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-5)
        assert found["el2n"][place] == pytest.approx(error.norm(dim=1).mean().item(), rel=1e-4)
        assert found["accuracy"][place] == pytest.approx((logits.argmax(-1) == targets).float().mean().item())
        np.testing.assert_allclose(found["embedding"][place], hidden.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_weighted_tokens_weigh_in_the_loss(tiny: Any, samples: list[Encoded]) -> None:
    sample = samples[0]
    supervised = [place for place, label in enumerate(sample.labels) if label != -100]
    weights = [0.0] * len(sample.labels)
    for place in supervised:
        weights[place] = 1.0
    weights[supervised[0]] = 3.0
    only_first = Encoded("x", "", sample.input_ids, [*sample.labels], None, 0)
    for place in supervised[1:]:
        only_first.labels[place] = -100
    weighted = Encoded("y", "", sample.input_ids, sample.labels, weights, 0)
    plain, first, both = scored(tiny, [sample, only_first, weighted])["loss"]
    num = len(supervised)
    assert both == pytest.approx((plain * num + 2 * first) / (num + 2), rel=1e-5)


def test_a_sketched_gradient_keeps_inner_products(tiny: Any, samples: list[Encoded]) -> None:
    """Against (p - y) h' itself; the error falls with the size of the sketch."""
    model = models.load_model("embedded:tiny", ModelConfig(dtype="float32", attention="sdpa"))
    exact = []
    for place in range(12):
        batch = collate(samples, [place], 0)
        output = model(input_ids=batch["input_ids"], output_hidden_states=True)
        keep = batch["labels"][0, 1:] != -100
        targets = F.one_hot(batch["labels"][0, 1:][keep], model.config.vocab_size)
        error = output.logits[0, :-1][keep].softmax(-1) - targets
        exact.append((error.T @ output.hidden_states[-1][0, :-1][keep] / len(targets)).flatten().detach())
    true = torch.stack(exact) @ torch.stack(exact).T
    for dim, limit in ((1024, 0.2), (16384, 0.1)):
        sketched = torch.from_numpy(scored(tiny, samples, sketch=make_sketch(tiny, dim))["sketch"][:12])
        assert sketched.shape[1] == dim
        assert ((sketched @ sketched.T - true).norm() / true.norm()) < limit
    assert "embedding" not in scored(tiny, samples[:2], sketch=make_sketch(tiny, 64))


def test_an_answer_alone_has_the_same_supervised_tokens(samples: list[Encoded], tiny: Any) -> None:
    for sample in samples:
        short = alone(sample)
        assert [label for label in short.labels if label != -100] == [x for x in sample.labels if x != -100]
        assert short.labels[0] == -100
        assert len(short.input_ids) < len(sample.input_ids)
    assert (scored(tiny, [alone(sample) for sample in samples])["loss"] > 0).all()


def test_peft_models_and_modules_are_found_and_nothing_else(tiny: Any, samples: list[Encoded]) -> None:
    plain = models.load_model("embedded:tiny", ModelConfig(dtype="float32"))
    adapted = adapters.add_adapter(plain, AgentSFTConfig("given", "given"), AdapterConfig())
    holder = torch.nn.ModuleDict({"inner": adapted})
    assert language_model(holder) is adapted
    assert bare(holder) is adapted.get_base_model()
    np.testing.assert_allclose(scored(holder, samples)["loss"], scored(tiny, samples)["loss"], rtol=1e-5)
    with pytest.raises(ValueError, match="Transformers or PEFT model, got Linear"):
        language_model(torch.nn.Linear(2, 2))


def test_the_training_mode_is_put_back(samples: list[Encoded]) -> None:
    model = models.load_model("embedded:tiny", ModelConfig(dtype="float32")).train()
    scored(model, samples[:2])
    assert model.training


class Counting:
    """A scorer that remembers which samples it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, samples: Any) -> Any:
        for place, sample in enumerate(samples):
            self.asked.append(sample.sample_id)
            yield [place], {"loss": np.array([len(sample.input_ids)], dtype=np.float32)}


def test_scores_are_kept_by_model_and_sample(tmp_path: Path, samples: list[Encoded]) -> None:
    make = Counting()
    first, tokens, known = ScoreStore(tmp_path).complete(samples[:10], make)
    assert (tokens, known) == (sum(len(sample.input_ids) for sample in samples[:10]), 0)
    again, none, reused = ScoreStore(tmp_path).complete(samples[4:12][::-1], make)
    assert reused == sum(len(sample.input_ids) for sample in samples[4:10])
    assert make.asked == [sample.sample_id for sample in samples[:10]] + ["c11", "c10"]
    assert none == sum(len(sample.input_ids) for sample in samples[10:12])
    assert again["loss"].tolist() == [len(sample.input_ids) for sample in samples[4:12][::-1]]
    np.testing.assert_array_equal(first["loss"][4:10], again["loss"][::-1][:6])


def test_what_a_killed_scoring_had_written_is_not_scored_again(
    tmp_path: Path, samples: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_file, "WRITE_EVERY", 4)
    make = Counting()

    def killed(part: Any) -> Any:
        for number, scores in enumerate(make(part)):
            if number == 10:
                raise KeyboardInterrupt
            yield scores

    with pytest.raises(KeyboardInterrupt):
        ScoreStore(tmp_path).complete(samples, killed)
    next(tmp_path.glob("*.npz")).with_name("cut.npz").write_bytes(b"PK\x03")
    np.savez(tmp_path / "foreign.npz", other=np.ones(3))
    make.asked.clear()
    columns, _, _ = ScoreStore(tmp_path).complete(samples, make)
    assert make.asked == [sample.sample_id for sample in samples[8:]]
    assert columns["loss"].tolist() == [len(sample.input_ids) for sample in samples]


def test_equal_samples_are_scored_once(samples: list[Encoded]) -> None:
    make = Counting()
    columns, _, reused = ScoreStore(None).complete([samples[0], samples[1], samples[0]], make)
    assert (len(make.asked), reused) == (2, 0)
    assert columns["loss"][0] == columns["loss"][2]
    assert ScoreStore(None).complete([], make) == ({}, 0, 0)


def test_a_full_disk_costs_the_cache_and_not_the_scores(tmp_path: Path, samples: list[Encoded]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="scores are not kept"):
        columns, _, _ = ScoreStore(tmp_path / "file").complete(samples[:2], Counting())
    assert len(columns["loss"]) == 2


def test_the_key_of_a_model_tells_adapters_that_act_differently_apart() -> None:
    def adapted(alpha: int) -> Any:
        torch.manual_seed(0)
        plain = models.load_model("embedded:tiny", ModelConfig(dtype="float32"))
        return adapters.add_adapter(plain, AgentSFTConfig("given", "given", lora_alpha=alpha), AdapterConfig())

    one, other = adapted(16), adapted(160)
    assert model_key(one) == model_key(adapted(16))
    assert model_key(one) != model_key(other)
    before = model_key(one)
    with one.disable_adapter():
        assert model_key(one) != before


def test_keys_tell_models_and_samples_apart(samples: list[Encoded]) -> None:
    model = models.load_model("embedded:tiny", ModelConfig(dtype="float32"))
    before = model_key(model)
    assert before == model_key(models.load_model("embedded:tiny", ModelConfig(dtype="float32")))
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert model_key(model) != before
    masked = Encoded("other", "", samples[0].input_ids, [-100] * len(samples[0].labels), None, 0)
    renamed = Encoded("renamed", "task", samples[0].input_ids, samples[0].labels, None, 0)
    assert sample_key(samples[0]) == sample_key(renamed) != sample_key(masked)
