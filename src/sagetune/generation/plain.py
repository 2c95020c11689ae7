"""Prompts -> answers by transformers' own `generate`, in padded batches of similar length, for every kind of model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from sagetune.generation.draws import Draws


def batches(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    stops: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    temperature: float,
    seeds: Sequence[int],
    keep_stop: bool,
) -> Iterator[list[tuple[int, list[int]]]]:
    """The places and answers of each batch. Arguments as in `generate`; seeds: none for greedy decoding."""
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=list(stops),
        pad_token_id=stops[0],  # what fills up a row that ended is cut off with its stop token
    )
    device = next(model.parameters()).device
    # Prompts of one batch are of similar length, so little is padding; the longest come first and show the peak memory.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        input_ids, attention_mask = pad_left([prompts[row] for row in rows], stops[0])
        draws = [Draws(temperature, [seeds[row] for row in rows])] if seeds else []
        output = model.generate(
            input_ids=input_ids.to(device),
            attention_mask=attention_mask.to(device),
            generation_config=config,
            logits_processor=LogitsProcessorList(draws),
        )
        written = output[:, input_ids.shape[1] :].tolist()
        yield [(row, until_stop(tokens, stops, keep_stop)) for row, tokens in zip(rows, written, strict=True)]


def pad_left(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`input_ids` and `attention_mask`, int64 (B, T), each prompt ending in the last column."""
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), pad_token_id)
    attention_mask = torch.zeros((len(prompts), width), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, width - len(prompt) :] = 1
    return input_ids, attention_mask


def until_stop(tokens: list[int], stops: Sequence[int], keep_stop: bool = False) -> list[int]:
    """`tokens` up to the first stop token, or all of them; keep_stop: with it."""
    end = next((index for index, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[: end + keep_stop]
