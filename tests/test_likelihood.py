"""Scores of given answers are those of one answer at a time, whatever they share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from sagetune import likelihood
from sagetune.attention import padded_attention
from sagetune.chat import encode, prompt_ids, stop_token_ids
from sagetune.config import ModelConfig
from sagetune.generation import generate, tree
from sagetune.likelihood import ChoiceScore, answer_ids, score_choices
from sagetune.models import load_model, load_tokenizer
from sagetune.sample import Message

START = [random.Random(3).randrange(200) for _ in range(30)]
PROMPTS = [[*START, 1, 2, 3], [9], [*START, 1, 2, 3], START[:7], [*START, 7], START, [5, 4]]
CHOICES = [
    ["yes", "no", "yesterday", "yes"],
    ["a"],
    ["no", "maybe so"],
    ["é", "日本", "abc"],
    ["x", "xx", "xxx"],
    ["one", "two"],
    ["<|im_end|>", "word"],
]


def lively(model: Any) -> Any:
    """A model as initialised repeats the last token, whatever stood before it; this one does not."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("embedded:tiny", ModelConfig())


@pytest.fixture
def model() -> Any:
    return lively(load_model("embedded:tiny", ModelConfig(dtype="float32")))


@torch.no_grad()
def one_by_one(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], choices: Sequence[Sequence[str]]
) -> list[list[ChoiceScore]]:
    """By the definition: one answer at a time, no cache."""

    def score(prompt: list[int], text: str) -> ChoiceScore:
        answer = [*answer_ids(text, tokenizer), stop_token_ids(tokenizer)[0]]
        with padded_attention(model):
            logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        total = float(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())
        greedy = logits.argmax(-1).tolist() == answer
        size = len(answer)
        return ChoiceScore(total, total / size, total / len(text), total / len(text.encode()), greedy, size)

    return [[score(prompt, text) for text in texts] for prompt, texts in zip(prompts, choices, strict=True)]


def assert_same(found: list[list[ChoiceScore]], expected: list[list[ChoiceScore]]) -> None:
    assert [len(scores) for scores in found] == [len(scores) for scores in expected]
    for one, other in zip(chain.from_iterable(found), chain.from_iterable(expected), strict=True):
        assert asdict(one) == pytest.approx(asdict(other), abs=1e-4)


@pytest.mark.parametrize("piece", [1, 4, 256])
def test_scores_are_those_of_one_answer_at_a_time(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(tree, "PIECE_ON_CPU", piece)
    expected = one_by_one(model, tokenizer, PROMPTS, CHOICES)
    assert_same(score_choices(model, tokenizer, PROMPTS, CHOICES), expected)


@pytest.mark.parametrize("kind", ["mistral", "bloom"])
def test_models_that_share_nothing_are_scored_in_batches(tokenizer: Any, kind: str) -> None:
    small: dict[str, Any] = {
        "mistral": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    }[kind]
    window = {"num_key_value_heads": 2, "sliding_window": 16} if kind == "mistral" else {}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **small, **window)
    model = lively(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    expected = one_by_one(model.eval(), tokenizer, PROMPTS, CHOICES)
    assert_same(score_choices(model, tokenizer, PROMPTS, CHOICES, batch_size=4), expected)


def test_both_ways_agree(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = score_choices(model, tokenizer, PROMPTS, CHOICES)
    monkeypatch.setattr(likelihood, "shares_prefixes", lambda model: False)
    assert_same(score_choices(model, tokenizer, PROMPTS, CHOICES, batch_size=3), shared)


def test_an_adapter_is_scored_without_its_dropout(model: Any, tokenizer: Any) -> None:
    base = score_choices(model, tokenizer, PROMPTS, CHOICES)
    config = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.9, use_dora=True, init_lora_weights=False)
    adapted = get_peft_model(model, config).train()
    found = score_choices(adapted, tokenizer, PROMPTS, CHOICES)
    assert adapted.training
    assert found != base
    assert_same(found, one_by_one(adapted.eval(), tokenizer, PROMPTS, CHOICES))


def test_the_answers_to_a_prompt_run_it_once(model: Any, tokenizer: Any) -> None:
    ran: list[int] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, options: ran.append(options["input_ids"].numel()), with_kwargs=True
    )
    score_choices(model, tokenizer, [START], [["abc", "abx", "b"]])
    handle.remove()
    assert sum(ran) == len(START) + len("abc") + len("x") + len("b")


def test_what_the_model_writes_is_greedy_and_nothing_else_is(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[*START, number] for number in range(200)]
    written = generate(model, tokenizer, prompts, max_new_tokens=2, batch_size=200)
    texts = [tokenizer.decode(tokens[:1]) for tokens in written]
    place = next(n for n, text in enumerate(texts) if answer_ids(text, tokenizer) == written[n][:1])
    monkeypatch.setattr(likelihood, "stop_token_ids", lambda tokenizer: written[place][1:])
    (found,) = score_choices(model, tokenizer, [prompts[place]], [[texts[place], chr(ord(texts[place]) ^ 1)]])
    assert [score.greedy for score in found] == [True, False]
    monkeypatch.setattr(likelihood, "stop_token_ids", lambda tokenizer: [written[place][1] ^ 1])
    assert not score_choices(model, tokenizer, [prompts[place]], [[texts[place]]])[0][0].greedy


def test_results_come_as_prompts_are_done(model: Any, tokenizer: Any) -> None:
    seen: dict[int, list[ChoiceScore]] = {}
    found = score_choices(model, tokenizer, PROMPTS, CHOICES, on_result=seen.__setitem__)
    assert [seen[place] for place in range(len(PROMPTS))] == found


def test_control_tokens_in_an_answer_are_text(tokenizer: Any) -> None:
    assert len(answer_ids("<|im_end|>", tokenizer)) == len("<|im_end|>")


@pytest.mark.parametrize(
    ("prompts", "choices", "message"),
    [
        ([[1]], [], "1 prompts but choices for 0"),
        ([[]], [["a"]], "no token"),
        ([[1]], [[]], "needs answers"),
        ([[1]], [[""]], "needs answers"),
    ],
)
def test_what_cannot_be_scored_is_refused(model: Any, tokenizer: Any, prompts: Any, choices: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_choices(model, tokenizer, prompts, choices)


def test_prompt_learning_is_refused(model: Any, tokenizer: Any) -> None:
    adapted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match="prompt learning"):
        score_choices(adapted, tokenizer, [[1]], [["a"]])


@pytest.mark.parametrize("name", ["embedded:tiny", "embedded:smollm2_135m"])
def test_prompt_and_answer_are_the_tokens_that_training_uses(name: str) -> None:
    tokenizer = load_tokenizer(name, ModelConfig())
    messages: list[Message] = [{"role": "user", "content": "Which is larger?"}]
    for text in ("The second.", "a\n\nbreak", "42", "é 日本", '<tool_call>\n{"a": 1}'):
        reply: Message = {"role": "assistant", "content": text}
        encoded: Any = encode(
            {"id": "a", "task": "t", "messages": [*messages, reply], "tools": [], "meta": {}}, tokenizer, 999
        )
        ours = [*prompt_ids(messages, [], tokenizer), *answer_ids(text, tokenizer), stop_token_ids(tokenizer)[0]]
        assert encoded.input_ids[: len(ours)] == ours


@pytest.mark.slow
def test_smollm2_scores_as_one_answer_at_a_time() -> None:
    config = ModelConfig(dtype="float32", attention="sdpa")
    tokenizer = load_tokenizer("embedded:smollm2_135m", config)
    model = load_model("embedded:smollm2_135m", config)
    asked = ["What is the capital of France?", "What is the capital of Italy?"]
    prompts = [prompt_ids([{"role": "user", "content": text}], [], tokenizer) for text in asked]
    choices = [["The capital of France is Paris.", "Paris", "Rome"], ["Rome", "The capital of Italy is Rome."]]
    found = score_choices(model, tokenizer, prompts, choices)
    assert_same(found, one_by_one(model.eval(), tokenizer, prompts, choices))
    assert found[0][1].log_likelihood > found[0][2].log_likelihood
