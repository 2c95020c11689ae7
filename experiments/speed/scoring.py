"""The scoring pass of coreset selection against ways to get a loss a sample from Transformers.

    python make_data.py data && python scoring.py data [samples] [rounds]      defaults: 48, 3; prints a Markdown table

SmolLM2-135M-Instruct on the study's conversations. Ours returns loss, EL2N, accuracy and an embedding; the others the
mean loss of the supervised tokens alone, from the full logits of `AutoModelForCausalLM`:
  one at a time   batches of 1, no padding
  random batches  batches of 8 in the given order, right-padded
Each run is a process of its own (ours set up as every sagetune command is, the others as Python starts), the sides
alternate within a round, loading and a first small pass are left out; seconds are medians. The last columns compare
with one at a time in float32.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

SIDES = ("ours, bfloat16", "one at a time, bfloat16", "random batches of 8, bfloat16", "one at a time, float32")


def by_transformers(model: Any, samples: list[Any], size: int) -> list[float]:
    """Mean loss of each sample's supervised tokens, from batches of `size`."""
    import torch
    import torch.nn.functional as F

    from sagetune.batching import collate

    losses: list[float] = []
    with torch.no_grad():
        for start in range(0, len(samples), size):
            batch = collate(samples, range(start, min(start + size, len(samples))), 0)
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
            labels = batch["labels"][:, 1:]
            nll = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels, ignore_index=-100, reduction="none")
            losses += (nll.sum(1) / (labels != -100).sum(1)).tolist()
    return losses


def ours(model: Any, samples: list[Any]) -> list[float]:
    from sagetune.config import CoresetConfig
    from sagetune.selection.scoring import score_passes

    losses = [0.0] * len(samples)
    for places, figures in score_passes(model, samples, batch_tokens=CoresetConfig().batch_tokens):
        for place, loss in zip(places, figures["loss"].tolist(), strict=True):
            losses[place] = loss
    return losses


def run_side(side: str, folder: str, num_samples: int) -> dict[str, Any]:
    """Seconds, losses and tokens of one side, in this process."""
    if side.startswith("ours"):
        from sagetune.processor import prepare_process

        prepare_process()
    import torch
    from measure import load_data
    from transformers import AutoModelForCausalLM

    from sagetune import models
    from sagetune.chat import Encoded
    from sagetune.config import ModelConfig

    content, rows = load_data(folder, num_samples)
    samples = [Encoded(str(i), "", row["input_ids"], row["labels"], None, 0) for i, row in enumerate(rows)]
    dtype = torch.float32 if "float32" in side else torch.bfloat16
    if side.startswith("ours"):
        model, score = models.load_model(content["model"], ModelConfig(dtype="bfloat16")).eval(), ours
    else:
        model = AutoModelForCausalLM.from_pretrained(content["model"], dtype=dtype).eval()
        size = 8 if "batches" in side else 1

        def score(model: Any, samples: list[Any]) -> list[float]:
            return by_transformers(model, samples, size)

    score(model, samples[:4])
    started = time.perf_counter()
    losses = score(model, samples)
    tokens = sum(len(sample.input_ids) for sample in samples)
    return {"seconds": time.perf_counter() - started, "losses": losses, "tokens": tokens}


def rank_correlation(a: list[float], b: list[float]) -> float:
    import numpy as np

    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


def main(folder: str, num_samples: int = 48, rounds: int = 3) -> None:
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, folder, str(num_samples)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[side].append(json.loads(done.stdout))
    tokens, reference = found[SIDES[0]][0]["tokens"], found["one at a time, float32"][0]["losses"]
    own = statistics.median(run["seconds"] for run in found[SIDES[0]])
    print(f"{num_samples} samples, {tokens} tokens, {rounds} rounds\n")
    print("| way | samples/s | tokens/s | ours is faster by | rank correlation | largest difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for side, runs in found.items():
        taken, losses = statistics.median(run["seconds"] for run in runs), runs[0]["losses"]
        difference = max(abs(a - b) for a, b in zip(losses, reference, strict=True))
        rates = f"{num_samples / taken:.2f} | {tokens / taken:.0f} | {taken / own:.2f}"
        print(f"| {side} | {rates} | {rank_correlation(losses, reference):.4f} | {difference:.4f} |")


if __name__ == "__main__":
    if sys.argv[1] == "--side":
        print(json.dumps(run_side(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main(sys.argv[1], *map(int, sys.argv[2:]))
