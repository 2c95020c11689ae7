"""Time, processor time and peak memory of training steps. Standard library and torch only: both sides import it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

BATCH_SIZE = 4
LEARNING_RATE = 2e-4
RANK, ALPHA = 16, 32


def load_data(folder: str, num_samples: int) -> tuple[dict[str, Any], list[dict[str, list[int]]]]:
    """The study's description and its first `num_samples` rows."""
    content = json.loads((Path(folder) / "data.json").read_text())
    return content, content["rows"][:num_samples]


class StepClock:
    """Wall and processor seconds of each training step."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall.append(time.perf_counter() - self._wall)
        self.cpu.append(time.process_time() - self._cpu)


def report(name: str, clock: StepClock, rows: list[dict[str, list[int]]], losses: list[float]) -> None:
    """Print one JSON line. Rates count real tokens and leave out the first step, which warms up."""
    tokens = [sum(len(row["input_ids"]) for row in rows[i : i + BATCH_SIZE]) for i in range(0, len(rows), BATCH_SIZE)]
    steady = sum(tokens[1:])
    figures = {
        "name": name,
        "steps": len(clock.wall),
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "tokens_per_second": steady / sum(clock.wall[1:]),
        "cpu_ms_per_token": 1000 * sum(clock.cpu[1:]) / steady,
        "peak_mb": peak_memory_mb(),
        "losses": losses,
    }
    assert len(clock.wall) == len(tokens), (len(clock.wall), len(tokens))
    print(json.dumps(figures), flush=True)


def peak_memory_mb() -> float:
    """Largest resident size of this process so far (Linux)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
