"""Prompts -> the tokens that a model adds to each, greedy or drawn.

A model that `shares_prefixes` writes by together.py, any other by plain.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from sagetune.attention import padded_attention
from sagetune.chat import stop_token_ids
from sagetune.generation import plain, together
from sagetune.generation.tree import inner_model, shares_prefixes


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    keep_stop: bool = False,
    on_progress: Callable[[int], None] | None = None,
    on_result: Callable[[int, list[int]], None] | None = None,
) -> list[list[int]]:
    """The new tokens of each prompt, in the prompts' order, without the stop token and what follows it.

    keep_stop: with the stop token that ended the answer; an answer that was cut off has none.
    In float32 the same tokens as one prompt at a time. temperature: 0 = greedy; above, tokens are drawn, those of a
    prompt from its own seed in `seeds`, wherever it stands. batch_size: answers that are written at a time. model: a
    causal language model or a PeftModel around one; its training mode and attention are put back.
    on_result receives an answer's place in `prompts` and its tokens as soon as it is whole, on_progress then the number
    of answers that ended at once; the order is that of ending. What on_result has written to disk a later call can
    leave out of `prompts`: no answer depends on the others.
    Raises ValueError for an empty prompt, and for a temperature without a seed a prompt.
    """
    if temperature > 0 and (seeds is None or len(seeds) != len(prompts)):
        raise ValueError(f"generate: temperature {temperature} needs one seed a prompt")
    if any(not prompt for prompt in prompts):
        raise ValueError("generate: a prompt has no token, so there is nothing to go on from")
    generated: list[list[int]] = [[] for _ in prompts]
    with _generating(model):
        write = together.batches if shares_prefixes(model) else plain.batches
        for ended in write(
            model,
            prompts,
            stops=stop_token_ids(tokenizer),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            temperature=temperature,
            seeds=seeds if seeds is not None and temperature > 0 else [],
            keep_stop=keep_stop,
        ):
            for index, tokens in ended:
                generated[index] = tokens
                if on_result is not None:
                    on_result(index, tokens)
            if on_progress is not None:
                on_progress(len(ended))
    return generated


@contextmanager
def _generating(model: PreTrainedModel) -> Iterator[None]:
    inner = inner_model(model)
    was_training, own = model.training, inner.generation_config
    model.eval()
    # transformers fills what a config leaves open from the model's own, such as a repetition penalty: not greedy then.
    inner.generation_config = GenerationConfig()
    try:
        with padded_attention(model):
            yield
    finally:
        inner.generation_config = own
        model.train(was_training)
