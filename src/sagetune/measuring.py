"""Figures of a model on held-out data: tokens under teacher forcing, and generated actions; in all and by task."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sagetune.chat import Encoded
from sagetune.config import RunConfig
from sagetune.evaluation.actions import evaluate_actions, num_cut_off
from sagetune.evaluation.tokens import over, sample_sums
from sagetune.sample import Sample


class Stopwatch:
    """Seconds since it was made, by what they went into."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count the seconds since the last lap to `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def measure(
    run: RunConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Sequence[Encoded],
    benchmark: Sequence[Sample],
    console: Console,
    when: str,
) -> dict[str, Any]:
    """Figures of `model`, and the seconds that each took. What has no data is None.

    held_out: for loss and token accuracy. benchmark: conversations to act in.
    """
    started = time.perf_counter()
    tokens = measure_tokens(run, model, tokenizer, held_out) if held_out else None
    scored = time.perf_counter()
    actions = None
    if benchmark:
        _tell_cut_off(run, tokenizer, benchmark, console)
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task(f"actions {when}", total=None)
            actions = evaluate_actions(
                model, tokenizer, benchmark, run.evaluation, lambda num: progress.update(task, advance=num)
            ).to_dict()
    seconds = {"tokens": scored - started, "actions": time.perf_counter() - scored}
    return {"tokens": tokens, "actions": actions, "seconds": seconds}


def _tell_cut_off(
    run: RunConfig, tokenizer: PreTrainedTokenizerBase, benchmark: Sequence[Sample], console: Console
) -> None:
    limit = run.evaluation.max_new_tokens
    num, total = num_cut_off(benchmark, tokenizer, limit)
    if num:
        long = f"{num} of {total} expert's turns of evaluation.data are longer than evaluation.max_new_tokens={limit}"
        console.print(f"{long}: no model can write them, so raise it", markup=False, soft_wrap=True)


def measure_tokens(
    run: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, held_out: Sequence[Encoded]
) -> dict[str, Any]:
    """An EvalResult as a dict, with `by_task`: one for each task, in order of first appearance."""
    sums = sample_sums(model, held_out, batch_size=run.sft.batch_size, pad_token_id=int(tokenizer.pad_token_id))
    places: dict[str, list[int]] = {}
    for place, sample in enumerate(held_out):
        places.setdefault(sample.task, []).append(place)
    tasks = {task: dataclasses.asdict(over(sums[rows])) for task, rows in places.items()}
    return dataclasses.asdict(over(sums)) | {"by_task": tasks}
