"""What the studies' tables share."""

from __future__ import annotations

import csv
import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sagetune.capability.data import items_of
from sagetune.capability.evaluator import scored
from sagetune.trajectories.record import load_trajectories

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t, 97.5 %, by number of values."""


def mean_and_half(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half of its 95 % interval (Student's t); None for one value."""
    mean = round(statistics.mean(values), 9) + 0.0  # what is left of a sum that should be zero has no sign
    if len(values) < 2:
        return mean, None
    return mean, T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def share(values: Sequence[float], signed: bool = False) -> str:
    """Per cent: the mean, with its interval where there are several values."""
    mean, half = mean_and_half(values)
    number = f"{100 * mean:+.1f}" if signed else f"{100 * mean:.1f}"
    return number if half is None else f"{number} ± {100 * half:.1f}"


def number(values: Sequence[float], signed: bool = False) -> str:
    """The same of a plain number."""
    mean, half = mean_and_half(values)
    text = f"{mean:+.3f}" if signed else f"{mean:.3f}"
    return text if half is None else f"{text} ± {half:.3f}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[-1]), lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


def rescored(answers: Path, capability: str, data: str, samples: int) -> dict[str, Any]:
    """The score of answers that an evaluation has written, as the scorers are now: a CapabilityScore as a dict."""
    attempts = defaultdict(list)
    for trajectory in load_trajectories(answers):
        attempts[trajectory.task_id].append(trajectory)
    return dataclasses.asdict(scored(capability, items_of(capability, data, samples), attempts, {}))
