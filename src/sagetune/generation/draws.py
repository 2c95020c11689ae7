"""Logits -> the next tokens, greedy or drawn, each row from random numbers of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class Draws(LogitsProcessor):
    """Adds noise to the logits so that the largest of them is a draw at `temperature`, each row from its own seed.

    The largest of logits / temperature + Gumbel noise is distributed as their softmax. So greedy decoding draws, and
    unlike torch.multinomial over a batch no row uses up the random numbers of another.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # the CPU's, on every device

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: logits (B, V) in float32."""
        return drawn(scores, self._temperature, self._generators)


def drawn(scores: Tensor, temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Scores whose largest is a draw. scores: float32 (B, V); generators: one a row."""
    rows = [torch.empty(scores.shape[1]).exponential_(generator=one) for one in generators]
    return scores / temperature - torch.stack(rows).log().to(scores.device)  # -log(exponential) is Gumbel
