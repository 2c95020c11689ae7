"""The scoring pass of coreset selection against ways to get a loss a sample from Transformers, in one run.

    python make_data.py data && python scoring.py data [samples] [rounds]      defaults: 48, 3; prints a Markdown table

SmolLM2-135M-Instruct on the study's conversations. Ours returns loss, EL2N, accuracy and an embedding; the others the
mean loss of the supervised tokens alone, from the full logits of `AutoModelForCausalLM`:
  one at a time   batches of 1, no padding
  random batches  batches of 8 in the given order, right-padded
Rounds alternate between the sides; seconds are medians. The last columns compare with one at a time in float32.
"""

# ruff: noqa: E402
from __future__ import annotations

from sagetune.processor import prepare_process

prepare_process()  # as every sagetune command does; it speeds the others up as well

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measure import load_data
from transformers import AutoModelForCausalLM

from sagetune import models
from sagetune.batching import collate
from sagetune.chat import Encoded
from sagetune.config import CoresetConfig, ModelConfig
from sagetune.selection.scoring import score_passes


@torch.no_grad()
def by_transformers(model: Any, samples: list[Encoded], size: int) -> np.ndarray:
    """Mean loss of each sample's supervised tokens, from batches of `size`."""
    losses = []
    for start in range(0, len(samples), size):
        batch = collate(samples, range(start, min(start + size, len(samples))), 0)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        labels = batch["labels"][:, 1:]
        nll = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels, ignore_index=-100, reduction="none")
        losses.append(nll.sum(1) / (labels != -100).sum(1))
    return torch.cat(losses).numpy()


def ours(model: Any, samples: list[Encoded]) -> np.ndarray:
    losses = np.empty(len(samples))
    for places, figures in score_passes(model, samples, batch_tokens=CoresetConfig().batch_tokens):
        losses[places] = figures["loss"]
    return losses


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def main(folder: str, num_samples: int = 48, rounds: int = 3) -> None:
    content, rows = load_data(folder, num_samples)
    samples = [Encoded(str(i), "", row["input_ids"], row["labels"], None, 0) for i, row in enumerate(rows)]
    where = content["model"]
    fast = models.load_model(where, ModelConfig(dtype="bfloat16")).eval()
    plain = AutoModelForCausalLM.from_pretrained(where, dtype=torch.bfloat16).eval()
    exact = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32).eval()
    sides: dict[str, Callable[[], np.ndarray]] = {
        "ours, bfloat16": lambda: ours(fast, samples),
        "one at a time, bfloat16": lambda: by_transformers(plain, samples, 1),
        "random batches of 8, bfloat16": lambda: by_transformers(plain, samples, 8),
        "one at a time, float32": lambda: by_transformers(exact, samples, 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, np.ndarray] = {}
    ours(fast, samples[:4])
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            losses[name] = run()
            seconds[name].append(time.perf_counter() - started)
    tokens = sum(len(sample.input_ids) for sample in samples)
    own, reference = statistics.median(seconds["ours, bfloat16"]), losses["one at a time, float32"]
    print(f"{num_samples} samples, {tokens} tokens, {rounds} rounds, {torch.get_num_threads()} threads\n")
    print("| way | samples/s | tokens/s | ours is faster by | rank correlation | largest difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, found in seconds.items():
        taken = statistics.median(found)
        correlation, difference = rank_correlation(losses[name], reference), np.abs(losses[name] - reference).max()
        rates = f"{num_samples / taken:.2f} | {tokens / taken:.0f} | {taken / own:.2f}"
        print(f"| {name} | {rates} | {correlation:.4f} | {difference:.4f} |")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
