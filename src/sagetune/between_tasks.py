"""What happens when a task of a stream is over and the next one begins: measure, choose what is kept, answer anew."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from sagetune.batching import collate
from sagetune.chat import encode_all
from sagetune.files import write_json
from sagetune.modules.sft import SFTModule
from sagetune.replay.step import Replayer
from sagetune.runfolder import RunFolder
from sagetune.stream import StreamLoader
from sagetune.tracking import Tracker
from sagetune.training_set import Selections, TrainingPool
from sagetune.trajectories.own_answers import own_answers

Measured = dict[str, Any]


class BetweenTasks:
    """Attends the passes of a stream.

    measure: figures of the model as it is, by task. Rows go to stream.json as they come; a resumed run reads them.
    """

    def __init__(
        self,
        pool: TrainingPool,
        folder: RunFolder,
        tracker: Tracker,
        measure: Callable[[str], Measured],
        selections: Selections | None,
        console: Console,
    ) -> None:
        self._pool = pool
        self._names = list(pool.tasks())
        self._folder = folder
        self._tracker = tracker
        self._measure = measure
        self._selections = selections
        self._console = console

    def attend(self, loader: StreamLoader, module: SFTModule, tokenizer: PreTrainedTokenizerBase) -> None:
        """Have `loader` call before each pass."""

        def before_pass(number: int) -> None:
            started = time.perf_counter()
            part = loader.passes[number]
            if part.task and not part.epoch:
                self._finish(part.task - 1, module, tokenizer)
            if self._selections is not None:
                self._selections.before_pass(loader, module, number)
            module.paused_seconds += time.perf_counter() - started

        loader.before_pass = before_pass

    def _finish(self, task: int, module: SFTModule, tokenizer: PreTrainedTokenizerBase) -> None:
        if module.replayer is not None:
            module.replayer.learner.end_task()
            if module.run_config.continual.targets == "self":
                self._renew(task, module, module.replayer, tokenizer)
        name, rows = self._names[task], read_rows(self._folder)
        row = next((row for row in rows if row["task"] == name), None)
        if row is None:
            row = {"task": name, "step": module.global_step, "tasks": task_figures(self._measure(f"after {name}"))}
            write_json(self._folder.stream, {"tasks": self._names, "rows": [*rows, row]})
        if not self._is_logged(name):  # a kill can have cost the log its row and left the file
            self._tracker.log({"step": row["step"], "stream/task": name, **_flat(row["tasks"])})

    def _renew(self, task: int, module: SFTModule, replayer: Replayer, tokenizer: PreTrainedTokenizerBase) -> None:
        """Put the model's own answers in place of the gold ones, for kept samples of a task that it solves."""
        run, learner, samples = module.run_config, replayer.learner, self._pool.samples
        kept = [place for place, group in zip(learner.ids, learner.groups, strict=True) if group == task]
        places = sorted(kept)[: run.continual.self_answers]
        asked = [samples[place] for place in places]
        encoded, _ = encode_all(
            own_answers(module.model, tokenizer, asked, run.evaluation, self._console),
            tokenizer,
            run.sft.max_seq_length,
        )
        place_of = {samples[place]["id"]: place for place in places}
        for sample in encoded:
            row = collate([sample], [0], int(tokenizer.pad_token_id))
            row["sample_index"][0] = place_of[sample.sample_id]
            learner.renew(replayer.named(row))
        replayer.own_answers += len(encoded)

    def _is_logged(self, task: str) -> bool:
        metrics = self._folder.metrics
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
        return any(json.loads(line).get("stream/task") == task for line in lines)


def read_rows(folder: RunFolder) -> list[Measured]:
    """The rows of stream.json that are there."""
    return json.loads(folder.stream.read_text())["rows"] if folder.stream.is_file() else []


def task_figures(measured: Measured) -> dict[str, dict[str, float]]:
    """Of each task its loss, token accuracy and exact match of generated actions, as far as they were measured."""
    found: dict[str, dict[str, float]] = {}
    if measured["tokens"]:
        for task, figures in measured["tokens"]["by_task"].items():
            found[task] = {"loss": figures["loss"], "accuracy": figures["accuracy"]}
    if measured["actions"]:
        for task, rates in measured["actions"]["by_task"].items():
            found.setdefault(task, {})["exact_match"] = rates["exact_match"]["value"]
    return found


def score_matrix(rows: Sequence[Measured], tasks: Sequence[str], figure: str) -> list[list[float]] | None:
    """R of `sagetune.evaluation.continual` for a figure, from row 0 (untouched) on; None if it is not there for all.

    rows: figures by task, as `task_figures` gives them.
    """
    if not all(figure in row.get(task, {}) for row in rows for task in tasks):
        return None
    return [[row[task][figure] for task in tasks] for row in rows]


def _flat(tasks: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"stream/{task}/{name}": value for task, figures in tasks.items() for name, value in figures.items()}
