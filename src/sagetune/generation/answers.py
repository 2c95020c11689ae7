"""Prompts -> the tokens that a model adds to each, greedy or drawn.

Where the model `shares_prefixes`, what prompts have in common runs through it once, and the answers are written
together, one token each a step: an answer that ends leaves, and when a quarter of the places is free, prompts that
wait take them. Other models write through transformers' `generate`, in padded batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from sagetune.attention import padded_attention
from sagetune.chat import stop_token_ids
from sagetune.generation import plain
from sagetune.generation.draws import drawn
from sagetune.generation.rows import Rows, States
from sagetune.generation.tree import Walk, inner_model, shares_prefixes

Ended = list[tuple[int, list[int]]]
"""Places of prompts, and their answers."""


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
    on_result: Callable[[int, list[int]], None] | None = None,
) -> list[list[int]]:
    """The new tokens of each prompt, in the prompts' order, without the stop token and what follows it.

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
        write = _together if shares_prefixes(model) else plain.batches
        for ended in write(
            model,
            prompts,
            stops=stop_token_ids(tokenizer),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            temperature=temperature,
            seeds=seeds if seeds is not None and temperature > 0 else [],
        ):
            for index, tokens in ended:
                generated[index] = tokens
                if on_result is not None:
                    on_result(index, tokens)
            if on_progress is not None:
                on_progress(len(ended))
    return generated


@dataclass(slots=True)
class _Answer:
    index: int
    generators: list[torch.Generator]
    """One, or none where decoding is greedy."""
    tokens: list[int] = field(default_factory=list)


def _together(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    stops: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    temperature: float,
    seeds: Sequence[int],
) -> Iterator[Ended]:
    """The answers that end at the same time. Arguments as in `plain.batches`."""

    def take(answers: list[_Answer], logits: Tensor) -> set[int]:
        """Give each answer its next token; returns the rows of those that end with it."""
        scores = logits.float()
        if temperature > 0:
            scores = drawn(scores, temperature, [one for answer in answers for one in answer.generators])
        ended = set()
        for row, (answer, token) in enumerate(zip(answers, scores.argmax(-1).tolist(), strict=True)):
            if token not in stops:
                answer.tokens.append(token)
            if token in stops or len(answer.tokens) == max_new_tokens:
                ended.add(row)
        return ended

    waiting = _order(prompts)
    walk, rows = Walk(model), Rows(model)
    running: list[_Answer] = []
    while waiting or running:
        num_free = batch_size - len(running)
        if waiting and num_free >= max(1, batch_size // 4):
            new, waiting = sorted(waiting[:num_free], key=lambda index: list(prompts[index])), waiting[num_free:]
            answers = [_Answer(i, [torch.Generator().manual_seed(seeds[i])] if seeds else []) for i in new]
            logits, states = _prefill(walk, [prompts[index] for index in new])
            ended = take(answers, logits)
            left = [row for row in range(len(answers)) if row not in ended]
            if left:
                rows.add([states[row] for row in left])
                running.extend(answers[row] for row in left)
        else:
            answers = running
            ended = take(answers, rows.step([answer.tokens[-1] for answer in answers]))
            if ended:
                running = [answers[row] for row in rows.drop(ended)]
        if ended:
            yield [(answers[row].index, answers[row].tokens) for row in sorted(ended)]


def _order(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Neighbours begin alike and differ in length by less than a factor of two; the longest show the peak memory."""
    return sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]).bit_length(), list(prompts[index])))


def _prefill(walk: Walk, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, list[States]]:
    """The logits after each prompt, (B, V), and the keys and values of its tokens. prompts: in lexicographic order."""
    first = [row for row, prompt in enumerate(prompts) if row == 0 or list(prompt) != list(prompts[row - 1])]
    found: dict[int, Tensor] = {}
    kept: dict[int, States] = {}
    different = [prompts[row] for row in first]
    for piece in walk.run(different, [[len(prompt) - 1] for prompt in different]):
        found.update((row, logits) for (row, _), logits in zip(piece.asked, piece.logits, strict=True))
        kept.update((row, piece.rows_of(slots)) for row, slots in piece.whole)
    which = [sum(start <= row for start in first) - 1 for row in range(len(prompts))]
    return torch.stack([found[row] for row in which]), [kept[row] for row in which]


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
