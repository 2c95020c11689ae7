"""How fast is the replay buffer, and what share of a training step does mixing take?

    python replay.py                     ours; with a training step of SmolLM2-135M
    python replay.py avalanche           Avalanche's reservoir on the same samples, in an environment that has it

Eight samples of 512 tokens an update, a buffer of 2,048.
"""

from __future__ import annotations

import importlib.util
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROWS, TOKENS, BUFFER = 8, 512, 2048
UPDATES, ROUNDS = 4_000, 5


def batch_of(start: int) -> dict[str, torch.Tensor]:
    """Rows of 456 to 512 tokens, half of them supervised, padded on the right."""
    generator = torch.Generator().manual_seed(start)
    ids = torch.randint(0, 49_152, (ROWS, TOKENS), generator=generator)
    mask = (torch.arange(TOKENS) < TOKENS - 8 * torch.arange(ROWS)[:, None]).long()
    labels = torch.where((mask == 1) & (torch.arange(TOKENS) >= TOKENS // 2), ids, -100)
    return {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": mask,
        "sample_index": torch.arange(start, start + ROWS),
    }


def rate(batches: list[dict[str, torch.Tensor]], update: Callable[[dict[str, torch.Tensor]], None]) -> float:
    """Updates a second."""
    started = time.perf_counter()
    for batch in batches:
        update(batch)
    return len(batches) / (time.perf_counter() - started)


def ours() -> None:
    from sagetune.replay import OnlineContinualLearner

    first = [batch_of(ROWS * number) for number in range(BUFFER // ROWS)]
    later = [batch_of(BUFFER + ROWS * number) for number in range(UPDATES)]
    filling, filled, mixing = [], [], []
    for _ in range(ROUNDS):
        learner = OnlineContinualLearner(BUFFER, 0.25)
        filling.append(rate(first, learner.update_buffer))
        filled.append(rate(later, learner.update_buffer))
        started = time.perf_counter()
        for batch in later[:500]:
            learner.mix_with_replay(batch)
        mixing.append((time.perf_counter() - started) / 500)
    print(f"updates a second while the buffer fills: {statistics.median(filling):,.0f}")
    print(f"updates a second of the full buffer:     {statistics.median(filled):,.0f}")
    print(f"milliseconds to mix 2 rows into 8:       {1000 * statistics.median(mixing):.3f}")
    print(f"bytes a token:                           {learner.num_bytes / (BUFFER * (TOKENS - 28)):.2f}")
    step = step_seconds(first[0])
    share = statistics.median(mixing) / step
    print(f"seconds of a step on these 8 rows:       {step:.2f}; mixing takes {share:.3%} of it")


def step_seconds(batch: dict[str, torch.Tensor]) -> float:
    """Forward and backward of SmolLM2-135M with LoRA on one batch, median of three."""
    from sagetune.adapters import add_adapter
    from sagetune.config import AdapterConfig, AgentSFTConfig, ModelConfig
    from sagetune.losses import token_losses
    from sagetune.models import load_model

    sft = AgentSFTConfig("embedded:smollm2_135m", "agent_sft:train")
    model = add_adapter(load_model(sft.base_model, ModelConfig()), sft, AdapterConfig()).train()
    times = []
    for _ in range(4):
        started = time.perf_counter()
        token_losses(model, batch).nll.mean().backward()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def avalanche() -> None:
    """ReservoirSamplingBuffer of avalanche-lib, given the same samples as a data set a batch."""
    # A torchvision of another build lacks its operators and will not be imported; none of them is used here.
    library: Any = torch.library.Library("torchvision", "DEF")
    found = importlib.util.find_spec("torchvision")
    assert found is not None
    assert found.origin is not None
    registrations = (Path(found.origin).parent / "_meta_registrations.py").read_text()
    for name in {"nms", *re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', registrations)}:
        library.define(f"{name}(Tensor a) -> Tensor")
    from avalanche.benchmarks.utils import AvalancheDataset
    from avalanche.training.storage_policy import ReservoirSamplingBuffer
    from torch.utils.data import TensorDataset

    def update(buffer: Any, batch: dict[str, torch.Tensor]) -> None:
        names = ("input_ids", "labels", "attention_mask")
        buffer.update_from_dataset(AvalancheDataset([TensorDataset(*(batch[name] for name in names))]))

    batches = [batch_of(ROWS * number) for number in range(BUFFER // ROWS + 500)]
    buffer = ReservoirSamplingBuffer(BUFFER)
    for start, end, when in (
        (0, BUFFER // ROWS, "while the buffer fills"),
        (BUFFER // ROWS, len(batches), "of the full one"),
    ):
        print(
            f"Avalanche, updates a second {when}: {rate(batches[start:end], lambda batch: update(buffer, batch)):,.1f}"
        )


if __name__ == "__main__":
    avalanche() if sys.argv[1:] == ["avalanche"] else ours()
