"""Token sequences -> logits, keys and values of their tokens; what several begin with is computed once.

Sequences in lexicographic order are a walk through their prefix tree: each adds to the path of the one before it the
tokens after their common beginning. The new tokens of several share a forward pass, as one row without padding, in
which a mask lets a token see its own path and nothing else.
Letters: n new tokens of a pass, S slots of the cache (one token each), K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

PIECE_ON_CPU = 256
PIECE_ON_DEVICE = 2048
"""New tokens of one forward pass. More saves little once the processor is busy, while the mask, and with it the
products of tokens that do not see each other, grows with the square."""

MASKS = ("sdpa", "eager")
"""Attentions that take a mask of their caller's making."""
NEEDED = {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"}
BY_SLOT = ("falcon", "gpt_neo")
"""Model types whose ALiBi or local windows count slots of the cache, whatever `position_ids` say."""

States = list[tuple[Tensor, Tensor]]
"""Keys and values of one sequence, each (K, tokens, D), layer by layer."""

Whole = list[tuple[int, list[int]]]
"""Sequences, each with the slots of all its tokens."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens [start, end) of one sequence: the new ones of a forward pass."""

    row: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What one forward pass found."""

    asked: list[tuple[int, int]]
    """Sequence and position of each row of `logits`."""
    logits: Tensor
    """(len(asked), V), in the model's dtype."""
    whole: Whole
    """The sequences that this pass completed, each with the slots of all its tokens."""
    cache: DynamicCache
    """Keys and values, (1, K, S, D) a layer; the next pass moves them."""

    def states(self, slots: list[int]) -> States:
        """Of the tokens in `slots`."""
        where = torch.tensor(slots, device=self.logits.device)
        layers = [(layer.keys[0], layer.values[0]) for layer in self.cache.layers]
        return [(keys.index_select(1, where), values.index_select(1, where)) for keys, values in layers]


class Walk:
    """Runs sequences through a model that `shares_prefixes`, and remembers the last one for the next call."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = inner_model(model)
        self._device = next(model.parameters()).device
        self._piece = PIECE_ON_CPU if self._device.type == "cpu" else PIECE_ON_DEVICE
        self._cache = DynamicCache(config=self._model.config)
        self._tokens: Sequence[int] = []  # the sequence that was run last
        self._path: list[int] = []  # the slots of its tokens

    def run(self, sequences: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> Iterator[Piece]:
        """One piece after the other, as they are computed.

        sequences: none empty, in lexicographic order. wanted: the positions of each whose logits are asked for, in
        order; they must lie behind what the sequence shares with the one before it in `sequences`.
        """
        segments = list(self._segments(sequences))
        while segments:
            size = self._num_segments(segments)
            yield self._forward(segments[:size], sequences, wanted)
            del segments[:size]

    def _segments(self, sequences: Sequence[Sequence[int]]) -> Iterator[Segment]:
        for row, tokens in enumerate(sequences):
            start = num_common(self._tokens, tokens)
            if row == 0:  # a former call's logits are gone, so one token is run again
                start = min(start, len(tokens) - 1)
            for begin in range(start, len(tokens), self._piece):
                yield Segment(row, begin, min(begin + self._piece, len(tokens)))
            self._tokens = tokens

    def _num_segments(self, segments: list[Segment]) -> int:
        """How many of the first segments fit one pass; at least one."""
        total = 0
        for index, segment in enumerate(segments):
            total += segment.end - segment.start
            if total > self._piece:
                return index
        return len(segments)

    def _forward(
        self, segments: Sequence[Segment], sequences: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]
    ) -> Piece:
        self._keep(self._path[: segments[0].start])
        sees, whole = _lay_out(segments, self._path, [len(tokens) for tokens in sequences])
        asked: list[tuple[int, int]] = []
        columns: list[int] = []
        first = 0
        for segment in segments:
            here = [position for position in wanted[segment.row] if segment.start <= position < segment.end]
            asked.extend((segment.row, position) for position in here)
            columns.extend(first + position - segment.start for position in here)
            first += segment.end - segment.start
        logits = self._model(
            input_ids=self._row(token for one in segments for token in sequences[one.row][one.start : one.end])[None],
            position_ids=self._row(position for one in segments for position in range(one.start, one.end))[None],
            attention_mask=self._mask(sees),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=self._row(columns),
        ).logits[0]
        return Piece(asked, logits, whole, self._cache)

    def _row(self, numbers: Iterable[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.int64, device=self._device)

    def _keep(self, slots: list[int]) -> None:
        """Drop the other slots: what comes next in lexicographic order branches off from this path."""
        where = self._row(slots)
        for layer in self._cache.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys.index_select(2, where), layer.values.index_select(2, where)
        self._path = list(range(len(slots)))

    def _mask(self, sees: Tensor) -> Tensor:
        """(1, 1, n, S): for sdpa what a token sees, for eager what is added to its scores."""
        mask = sees[None, None].to(self._device)
        if self._model.config._attn_implementation == "sdpa":
            return mask
        lowest = torch.finfo(self._model.dtype).min
        return torch.zeros(mask.shape, dtype=self._model.dtype, device=self._device).masked_fill_(~mask, lowest)


def _lay_out(segments: Sequence[Segment], path: list[int], lengths: Sequence[int]) -> tuple[Tensor, Whole]:
    """What each new token sees, bool (n, S), and the sequences that are whole with these segments.

    path: the slots of the tokens before the first segment, the only ones in use; becomes those of the last sequence.
    lengths: of all sequences.
    """
    num_old, num_new = len(path), sum(segment.end - segment.start for segment in segments)
    sees = torch.zeros(num_new, num_old + num_new, dtype=torch.bool)
    whole, first = [], 0
    for segment in segments:
        last = first + segment.end - segment.start
        del path[segment.start :]
        sees[first:last, path] = True
        sees[first:last, num_old + first : num_old + last] = torch.ones(last - first, last - first).tril().bool()
        path.extend(range(num_old + first, num_old + last))
        if segment.end == lengths[segment.row]:
            whole.append((segment.row, path.copy()))
        first = last
    return sees, whole


def shares_prefixes(model: PreTrainedModel) -> bool:
    """Whether `model`, as it is set now, can run a Walk.

    It must be transformers' own, whose masks and positions are known to be free; keep keys and values of every token,
    as neither recurrent layers nor sliding windows do; and have no virtual tokens of prompt learning before the first.
    """
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return False
    inner = inner_model(model)
    return (
        type(inner).__module__.startswith("transformers.")
        and inner.config.model_type not in BY_SLOT
        and inner.config._attn_implementation in MASKS
        and set(inspect.signature(inner.forward).parameters) >= NEEDED
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=inner.config).layers)
    )


def inner_model(model: PreTrainedModel) -> PreTrainedModel:
    """The causal language model itself, with the adapters that a PeftModel put into it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def num_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    differ = (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))
