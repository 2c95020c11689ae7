"""Batched generation gives what each prompt gives alone, and leaves the model as it was."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sagetune.attention import padded_attention
from sagetune.chat import stop_token_ids
from sagetune.config import ModelConfig
from sagetune.generation import generate, until_stop
from sagetune.models import load_model, load_tokenizer

PROMPTS = [[random.Random(n).randrange(200) for _ in range(length)] for n, length in enumerate((7, 1, 30, 12, 3))]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("embedded:tiny", ModelConfig())


@pytest.fixture
def model() -> Any:
    return load_model("embedded:tiny", ModelConfig(dtype="float32"))


def one_by_one(model: Any, prompts: list[list[int]], num: int, stops: list[int]) -> list[list[int]]:
    """Greedy decoding by the definition: no cache, no padding."""
    results = []
    for prompt in prompts:
        tokens = list(prompt)
        for _ in range(num):
            with torch.no_grad(), padded_attention(model):
                following = int(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax())
            if following in stops:
                break
            tokens.append(following)
        results.append(tokens[len(prompt) :])
    return results


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_batch_gives_what_each_prompt_gives_alone(model: Any, tokenizer: Any, batch_size: int) -> None:
    stops = stop_token_ids(tokenizer)
    expected = one_by_one(model, PROMPTS, 12, stops)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=batch_size) == expected


def test_rows_end_at_the_stop_token_and_do_not_disturb_the_others(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = [one_by_one(model, PROMPTS, 12, [])[0][3]]  # a token that an untrained model does write
    monkeypatch.setattr("sagetune.generation.answers.stop_token_ids", lambda tokenizer: stops)
    expected = one_by_one(model, PROMPTS, 12, stops)
    assert len({len(tokens) for tokens in expected}) > 1
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=5) == expected


def test_the_models_own_sampling_defaults_do_not_matter(model: Any, tokenizer: Any) -> None:
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=5)
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=9.0, max_length=3)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=5) == plain


def test_an_adapter_generates_and_its_training_mode_stays(model: Any, tokenizer: Any) -> None:
    base = generate(model, tokenizer, PROMPTS, max_new_tokens=4, batch_size=5)
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", lora_dropout=0.9)).train()
    cached = adapted.config.use_cache
    assert generate(adapted, tokenizer, PROMPTS, max_new_tokens=4, batch_size=5) == base
    assert adapted.training
    assert adapted.config.use_cache == cached


def test_progress_counts_every_prompt(model: Any, tokenizer: Any) -> None:
    done: list[int] = []
    generate(model, tokenizer, PROMPTS, max_new_tokens=1, batch_size=2, on_progress=done.append)
    assert done == [2, 2, 1]


def test_an_empty_prompt_is_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="no token"):
        generate(model, tokenizer, [[]], max_new_tokens=1, batch_size=1)


def test_until_stop_keeps_what_stands_before() -> None:
    assert until_stop([5, 6, 2, 7], [2, 3]) == [5, 6]
    assert until_stop([5], [2]) == [5]
