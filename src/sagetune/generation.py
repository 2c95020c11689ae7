"""Prompts -> the tokens that a model adds to each, greedy or drawn, in padded batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sagetune.attention import padded_attention
from sagetune.chat import stop_token_ids


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
    on_progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """The new tokens of each prompt, in the prompts' order, without the stop token and what follows it.

    With a KV cache; in float32 the same tokens as one prompt at a time. temperature: 0 = greedy; above, tokens are
    drawn, those of a prompt from its own seed in `seeds`, wherever it stands in a batch. model: a causal language model
    or a PeftModel around one; its training mode and attention are put back. on_progress receives the number of prompts
    that a finished batch held. Raises ValueError for an empty prompt, and for a temperature without a seed a prompt.
    """
    if temperature > 0 and (seeds is None or len(seeds) != len(prompts)):
        raise ValueError(f"generate: temperature {temperature} needs one seed a prompt")
    if any(not prompt for prompt in prompts):
        raise ValueError("generate: a prompt has no token, so there is nothing to go on from")
    stops = stop_token_ids(tokenizer)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=stops,
        pad_token_id=stops[0],  # what fills up a row that ended is cut off with its stop token
    )
    device = next(model.parameters()).device
    # Prompts of one batch are of similar length, so little is padding; the longest come first and show the peak memory.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    generated: list[list[int]] = [[] for _ in prompts]
    with _generating(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            input_ids, attention_mask = pad_left([prompts[row] for row in rows], stops[0])
            draws = [Draws(temperature, [seeds[row] for row in rows])] if seeds and temperature > 0 else []
            output = model.generate(
                input_ids=input_ids.to(device),
                attention_mask=attention_mask.to(device),
                generation_config=config,
                logits_processor=LogitsProcessorList(draws),
            )
            for row, tokens in zip(rows, output[:, input_ids.shape[1] :].tolist(), strict=True):
                generated[row] = until_stop(tokens, stops)
            if on_progress is not None:
                on_progress(len(rows))
    return generated


class Draws(LogitsProcessor):
    """Adds noise to the logits so that the largest of them is a draw at `temperature`, each row from its own seed.

    The largest of logits / temperature + Gumbel noise is distributed as their softmax. So greedy decoding draws, and
    unlike torch.multinomial over a batch no row uses up the random numbers of another.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # the CPU's, on every device

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores: logits (B, V) in float32."""
        rows = [torch.empty(scores.shape[1]).exponential_(generator=one) for one in self._generators]
        return scores / self._temperature - torch.stack(rows).log().to(scores.device)  # -log(exponential) is Gumbel


def pad_left(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`input_ids` and `attention_mask`, int64 (B, T), each prompt ending in the last column."""
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), pad_token_id)
    attention_mask = torch.zeros((len(prompts), width), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, width - len(prompt) :] = 1
    return input_ids, attention_mask


def until_stop(tokens: list[int], stops: Sequence[int]) -> list[int]:
    """`tokens` up to the first stop token, or all of them."""
    end = next((index for index, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[:end]


@contextmanager
def _generating(model: PreTrainedModel) -> Iterator[None]:
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
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
