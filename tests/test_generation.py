"""Batched generation gives what each prompt gives alone, and leaves the model as it was."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from sagetune import world
from sagetune.attention import padded_attention
from sagetune.chat import prompt_ids, stop_token_ids
from sagetune.config import ModelConfig
from sagetune.evaluation.actions import decision_points
from sagetune.generation import generate, plain, rows, tree, until_stop
from sagetune.generation.rows import Rows
from sagetune.generation.tree import Walk, num_common, shares_prefixes
from sagetune.lora_linear import speed_up
from sagetune.models import load_model, load_tokenizer


def random_tokens(seed: int, length: int) -> list[int]:
    numbers = random.Random(seed)
    return [numbers.randrange(200) for _ in range(length)]


PROMPTS = [random_tokens(n, length) for n, length in enumerate((7, 1, 30, 12, 3))]
SHARED = random_tokens(7, 40)
FAMILY = [[*SHARED, n, *random_tokens(n, length)] for n, length in enumerate((5, 0, 9, 24, 2, 60, 3))]
NESTED = [PROMPTS[2][:length] for length in (30, 8, 17, 7, 16, 31)]
MIXED = [*FAMILY, *PROMPTS, *NESTED, FAMILY[3] + [1, 2], SHARED, *FAMILY[:2]]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("embedded:tiny", ModelConfig())


def lively(model: Any) -> Any:
    """A model as initialised repeats the last token, whatever stood before it; this one does not."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def model() -> Any:
    return lively(load_model("embedded:tiny", ModelConfig(dtype="float32")))


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


@pytest.fixture(scope="module")
def mixed(tokenizer: Any) -> list[list[int]]:
    """The answers to MIXED, one by one."""
    return one_by_one(
        lively(load_model("embedded:tiny", ModelConfig(dtype="float32"))), MIXED, 8, stop_token_ids(tokenizer)
    )


@pytest.mark.parametrize(("piece", "batch_size"), [(1, 3), (5, 64), (16, 6), (256, 1), (256, 7)])
def test_prompts_with_common_beginnings_give_what_each_gives_alone(
    model: Any, tokenizer: Any, mixed: Any, monkeypatch: pytest.MonkeyPatch, piece: int, batch_size: int
) -> None:
    monkeypatch.setattr(tree, "PIECE_ON_CPU", piece)
    assert generate(model, tokenizer, MIXED, max_new_tokens=8, batch_size=batch_size) == mixed


def test_answers_longer_than_the_room_behind_the_prompts(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ROOM", 5)
    expected = one_by_one(model, PROMPTS, 20, stop_token_ids(tokenizer))
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=20, batch_size=4) == expected


def test_places_that_become_free_are_taken_and_answers_are_handed_over_as_they_end(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly = one_by_one(model, MIXED, 12, [])
    stops = sorted({tokens[place] for place, tokens in enumerate(plainly[:9])})  # untrained models do write them
    monkeypatch.setattr("sagetune.generation.answers.stop_token_ids", lambda tokenizer: stops)
    expected = one_by_one(model, MIXED, 12, stops)
    assert len({len(tokens) for tokens in expected}) > 3
    starts: list[int] = []
    add = Rows.add
    monkeypatch.setattr(Rows, "add", lambda self, new: (starts.append(len(new)), add(self, new)))
    seen: list[tuple[int, list[int]]] = []
    done: list[int] = []
    options: Any = {"max_new_tokens": 12, "batch_size": 4, "on_progress": done.append}
    got = generate(model, tokenizer, MIXED, on_result=lambda *result: seen.append(result), **options)
    assert got == expected
    assert sorted(seen) == list(enumerate(expected))
    assert sum(done) == len(MIXED)
    assert len(starts) > len(MIXED) / 4  # some came in while others were being written


def test_a_rerun_goes_on_with_what_is_missing(model: Any, tokenizer: Any) -> None:
    class Killed(Exception):
        pass

    kept: dict[int, list[int]] = {}

    def keep(index: int, tokens: list[int]) -> None:
        if len(kept) == 5:
            raise Killed
        kept[index] = tokens

    options: Any = {"max_new_tokens": 6, "batch_size": 4}
    seeds = list(range(len(MIXED)))
    expected = generate(model, tokenizer, MIXED, temperature=0.7, seeds=seeds, **options)
    with pytest.raises(Killed):
        generate(model, tokenizer, MIXED, temperature=0.7, seeds=seeds, on_result=keep, **options)
    left = [index for index in seeds if index not in kept]
    rest = generate(model, tokenizer, [MIXED[index] for index in left], temperature=0.7, seeds=left, **options)
    assert kept | dict(zip(left, rest, strict=True)) == dict(enumerate(expected))


def test_a_shared_beginning_runs_through_the_model_once(model: Any) -> None:
    prompts = sorted(FAMILY)
    ran: list[int] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, options: ran.append(options["input_ids"].numel()), with_kwargs=True
    )
    with torch.no_grad(), padded_attention(model):
        list(Walk(model).run(prompts, [[len(prompt) - 1] for prompt in prompts]))
    handle.remove()
    assert sum(ran) == len(SHARED) + sum(len(prompt) - len(SHARED) for prompt in FAMILY)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "segment"])
def test_every_attention_shares_prefixes(tokenizer: Any, mixed: Any, attention: Any) -> None:
    model = lively(load_model("embedded:tiny", ModelConfig(dtype="float32", attention=attention)))
    with padded_attention(model):
        assert shares_prefixes(model)
    assert generate(model, tokenizer, MIXED, max_new_tokens=8, batch_size=6) == mixed


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("fast", [False, True], ids=["peft", "ours"])
def test_an_adapter_writes_what_it_writes_alone(
    model: Any, tokenizer: Any, mixed: Any, use_dora: bool, fast: bool
) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", use_dora=use_dora, init_lora_weights=False)
    adapted = get_peft_model(model, config)
    assert not fast or speed_up(adapted)
    expected = one_by_one(adapted, MIXED, 8, stop_token_ids(tokenizer))
    assert expected != mixed
    assert generate(adapted, tokenizer, MIXED, max_new_tokens=8, batch_size=6) == expected


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
TOGETHER: dict[str, dict[str, Any]] = {
    "qwen2": {**SMALL, "num_key_value_heads": 2},
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 8},
    "smollm3": {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0},
    "phi": SMALL,
    "gpt2": GPT,
    "gpt_neox": SMALL,
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
    },
    "olmo2": {**SMALL, "num_key_value_heads": 2},
    "qwen3_moe": {
        **SMALL,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    },
}
PLAINLY: dict[str, dict[str, Any]] = {
    "mistral": {**SMALL, "num_key_value_heads": 2, "sliding_window": 16},
    "gemma3_text": {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}


def small(kind: str, vocab_size: int) -> Any:
    config = AutoConfig.for_model(kind, vocab_size=vocab_size, **{**TOGETHER, **PLAINLY}[kind])
    return lively(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())


@torch.no_grad()
@pytest.mark.parametrize("kind", TOGETHER)
def test_logits_are_those_of_each_prompt_alone(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(tree, "PIECE_ON_CPU", 24)
    model, prompts = small(kind, 259), sorted(set(map(tuple, MIXED)))
    ends = [[len(prompt) - 1] for prompt in prompts]
    batch, states = Rows(model), []
    for piece in Walk(model).run(prompts, ends):
        for (row, _), logits in zip(piece.asked, piece.logits, strict=True):
            alone = model(input_ids=torch.tensor([prompts[row]]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)
        states.extend(piece.states(slots) for _, slots in piece.whole)
    batch.add(states[:6])
    lines = [list(prompt) for prompt in prompts]
    for kept in (range(6), [0, 4, 2, 5], [0, 4, 2, 5, *range(6, len(lines))]):
        if len(kept) == 4:
            assert batch.drop({1, 3}) == kept
        if len(kept) > 6:
            batch.add(states[6:])
        for row in kept:
            lines[row].append(row)
        for row, logits in zip(kept, batch.step(kept), strict=True):
            alone = model(input_ids=torch.tensor([lines[row]]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [*TOGETHER, *PLAINLY])
def test_models_of_many_kinds_write_what_they_write_alone(tokenizer: Any, kind: str) -> None:
    model = small(kind, len(tokenizer))
    assert shares_prefixes(model) == (kind in TOGETHER)
    expected = one_by_one(model, MIXED, 8, stop_token_ids(tokenizer))
    assert len({tuple(tokens) for tokens in expected}) > 10  # of 21, two of which are there twice
    assert generate(model, tokenizer, MIXED, max_new_tokens=8, batch_size=6) == expected


def test_prompt_learning_writes_plainly(model: Any, tokenizer: Any) -> None:
    adapted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert not shares_prefixes(adapted)
    assert len(generate(adapted, tokenizer, PROMPTS, max_new_tokens=3, batch_size=1)) == len(PROMPTS)


@pytest.mark.parametrize("way", ["together", "plain"])
def test_draws_follow_from_the_seed_alone(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    options: Any = {"max_new_tokens": 10, "temperature": 0.9}
    seeds = [index * 3 for index in range(len(MIXED))]
    alone = [
        generate(model, tokenizer, [MIXED[n]], batch_size=1, seeds=[seeds[n]], **options)[0] for n in range(len(MIXED))
    ]
    if way == "plain":
        monkeypatch.setattr("sagetune.generation.answers.shares_prefixes", lambda model: False)
    assert generate(model, tokenizer, MIXED, batch_size=6, seeds=seeds, **options) == alone


def test_one_prompt_with_several_seeds_is_one_path_and_several_answers(model: Any, tokenizer: Any) -> None:
    options: Any = {"max_new_tokens": 10, "temperature": 0.9}
    alone = [generate(model, tokenizer, [SHARED], batch_size=1, seeds=[seed], **options)[0] for seed in range(6)]
    assert len(set(map(tuple, alone))) == 6
    assert generate(model, tokenizer, [SHARED] * 6, batch_size=4, seeds=range(6), **options) == alone


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


@pytest.mark.slow
@pytest.mark.thorough
def test_smollm2_writes_what_it_writes_alone() -> None:
    config = ModelConfig(dtype="float32", attention="sdpa")
    tokenizer = load_tokenizer("embedded:smollm2_135m", config)
    model = load_model("embedded:smollm2_135m", config).eval()
    samples = [*world.generate("planning", "test", 2, seed=0), *world.generate("timing", "test", 3, seed=0)]
    prompts = [prompt_ids(item.messages, item.tools, tokenizer) for item in decision_points(samples)]
    limits: Any = {"max_new_tokens": 12, "batch_size": 1}
    stops = stop_token_ids(tokenizer)
    with torch.no_grad():
        options: dict[str, Any] = {"temperature": 0.0, "seeds": [], "keep_stop": False}
        found = list(plain.batches(model, prompts, stops=stops, **options, **limits))
    expected = [tokens for batch in found for _, tokens in batch]
    order = [index for batch in found for index, _ in batch]
    got = generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=8)
    assert [got[index] for index in order] == expected


def test_common_beginnings_are_counted() -> None:
    assert num_common([1, 2, 3], [1, 2, 4, 5]) == 2
    assert num_common([1, 2], [1, 2, 4]) == 2
    assert num_common([], [1]) == 0


def test_until_stop_keeps_what_stands_before() -> None:
    assert until_stop([5, 6, 2, 7], [2, 3]) == [5, 6]
    assert until_stop([5], [2]) == [5]
    assert until_stop([5, 6, 2, 7], [2, 3], keep_stop=True) == [5, 6, 2]
    assert until_stop([5], [2], keep_stop=True) == [5]


def test_a_kept_stop_token_ends_the_answers_that_it_ended(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = generate(model, tokenizer, PROMPTS[:1], max_new_tokens=4, batch_size=2)[0][2]
    monkeypatch.setattr("sagetune.generation.answers.stop_token_ids", lambda _: [stop])
    options: dict[str, Any] = {"max_new_tokens": 4, "batch_size": 2}
    without = generate(model, tokenizer, PROMPTS, **options)
    assert len(without[0]) < 4
    for shares in (True, False):
        monkeypatch.setattr("sagetune.generation.answers.shares_prefixes", lambda _, shares=shares: shares)
        kept = generate(model, tokenizer, PROMPTS, keep_stop=True, **options)
        assert kept == [answer if len(answer) == 4 else [*answer, stop] for answer in without]
