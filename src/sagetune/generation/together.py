"""Prompts -> answers, what prompts share computed once, and the answers written together, one token each a step.

An answer that ends leaves its place; when a quarter of the places is free, prompts that wait take them. So the batch
stays full while answers differ in length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sagetune.generation.draws import drawn
from sagetune.generation.rows import Rows, States
from sagetune.generation.tree import Walk

Ended = list[tuple[int, list[int]]]
"""Places of prompts, and their answers."""


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
) -> Iterator[Ended]:
    """The answers that end at the same time. Arguments as in `generate`; seeds: none for greedy decoding."""
    writer = _Writer(model, prompts, stops, max_new_tokens, temperature, seeds, keep_stop)
    waiting = _order(prompts)
    while waiting or writer.running:
        num_free = batch_size - len(writer.running)
        if waiting and num_free >= max(1, batch_size // 4):
            ended = writer.start(waiting[:num_free])
            del waiting[:num_free]
        else:
            ended = writer.step()
        if ended:
            yield ended


def _order(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Neighbours begin alike and differ in length by less than a factor of two; the longest show the peak memory."""
    return sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]).bit_length(), tuple(prompts[index])))


@dataclass(slots=True)
class _Answer:
    index: int
    generators: list[torch.Generator]
    """One, or none where decoding is greedy."""
    tokens: list[int] = field(default_factory=list)


class _Writer:
    """The answers in their places."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        stops: Sequence[int],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        keep_stop: bool,
    ) -> None:
        self.running: list[_Answer] = []
        self._walk, self._rows = Walk(model), Rows(model)
        self._prompts = prompts
        self._stops, self._max_new_tokens = set(stops), max_new_tokens
        self._temperature, self._seeds = temperature, seeds
        self._keep_stop = keep_stop

    def start(self, indices: Sequence[int]) -> Ended:
        """Take these prompts in and write the first token of each; returns the answers that end with it."""
        order = sorted(indices, key=lambda index: tuple(self._prompts[index]))
        answers = [_Answer(index, self._generators(index)) for index in order]
        logits, states = self._prefill([self._prompts[index] for index in order])
        ended = self._append(answers, logits)
        going_on = [row for row in range(len(answers)) if row not in ended]
        if going_on:
            self._rows.add([states[row] for row in going_on])
            self.running.extend(answers[row] for row in going_on)
        return [(answers[row].index, answers[row].tokens) for row in sorted(ended)]

    def step(self) -> Ended:
        """Write one token of each answer; returns those that end with it."""
        answers = self.running
        ended = self._append(answers, self._rows.step([answer.tokens[-1] for answer in answers]))
        if ended:
            self.running = [answers[row] for row in self._rows.drop(ended)]
        return [(answers[row].index, answers[row].tokens) for row in sorted(ended)]

    def _generators(self, index: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(self._seeds[index])] if self._seeds else []

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, list[States]]:
        """The logits after each prompt, (B, V), and the keys and values of its tokens. prompts: as Walk wants them."""
        places: dict[tuple[int, ...], list[int]] = {}  # one prompt may be asked for with several seeds
        for place, prompt in enumerate(prompts):
            places.setdefault(tuple(prompt), []).append(place)
        logits: dict[int, Tensor] = {}
        states: dict[int, States] = {}
        different = list(places)
        for piece in self._walk.run(different, [[len(prompt) - 1] for prompt in different]):
            for (row, _), found in zip(piece.asked, piece.logits, strict=True):
                logits.update(dict.fromkeys(places[different[row]], found))
            for row, slots in piece.whole:
                states.update(dict.fromkeys(places[different[row]], piece.states(slots)))
        return torch.stack([logits[place] for place in range(len(prompts))]), [states[p] for p in range(len(prompts))]

    def _append(self, answers: Sequence[_Answer], logits: Tensor) -> set[int]:
        """Give each answer its next token; returns the rows of those that end with it. logits: (B, V)."""
        scores = logits.float()
        if self._temperature > 0:
            scores = drawn(scores, self._temperature, [one for answer in answers for one in answer.generators])
        ended = set()
        for row, (answer, token) in enumerate(zip(answers, scores.argmax(-1).tolist(), strict=True)):
            stops = token in self._stops
            if not stops or self._keep_stop:
                answer.tokens.append(token)
            if stops or len(answer.tokens) == self._max_new_tokens:
                ended.add(row)
        return ended
