"""One run, from configuration to report. Each stage leaves a file, so an interrupted run goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from sagetune import report, world
from sagetune.between_tasks import read_rows, score_matrix, task_figures
from sagetune.capability.data import check_capabilities
from sagetune.capability.evaluator import AgentCapabilityEvaluator
from sagetune.capability.page import tables
from sagetune.config import RunConfig
from sagetune.evaluation import continual
from sagetune.files import read_jsonl, write_json, write_text
from sagetune.interrupts import Interrupted, Interrupts
from sagetune.modules.stepping import NonFiniteError
from sagetune.rate_search import searched
from sagetune.rl_trainer import AgentRLTrainer, trainer_of
from sagetune.runfolder import RunFolder
from sagetune.tracking import Tracker
from sagetune.trainer import AgentSFTTrainer
from sagetune.untouched import measured_once

Measured = dict[str, Any]
SHARED = ("id", "task", "prompt", "gold")
"""Fields of an item that do not depend on the model."""


def execute(run: RunConfig, folder: RunFolder, console: Console, interrupts: Interrupts) -> Measured:
    """Do what is left of a run, its log open meanwhile; returns what result.json holds."""
    quiet_libraries()
    check_capabilities(run.evaluation)
    tracker, code = Tracker(folder.path, run, resume_step=checkpoint_step(folder)), 1
    try:
        result = stages(run, folder, tracker, console, interrupts)
        code = 0
    except Interrupted as stop:
        code = stop.exit_code
        raise
    finally:
        tracker.finish(code)
    return result


def stages(run: RunConfig, folder: RunFolder, tracker: Tracker, console: Console, interrupts: Interrupts) -> Measured:
    """Measure, train, reload from disk, measure again."""
    run = searched(run, folder, lambda trial, place: tried(trial, place, console, interrupts), console)
    trainer = trainer_of(run, console)
    before = _once(
        folder.before, lambda: measured_once(run, folder, lambda answers: measured(trainer, "before training", answers))
    )
    training = _once(folder.training, lambda: trainer.fit(folder, tracker, interrupts).to_dict())
    after = _once(folder.after, lambda: measured(reloaded(trainer, folder), "after training", folder.answers / "after"))
    write_samples(folder, before, after)
    result = summarise(run, folder, before, training, after)
    write_json(folder.result, result)
    mirror(tracker, folder, result)
    report.write_html(folder.path)
    return result


def tried(run: RunConfig, folder: RunFolder, console: Console, interrupts: Interrupts) -> Measured:
    """A trial of the search: train, and tell the loss on dev data; None if training diverged."""
    trainer = trainer_of(run, console)
    tracker = Tracker(folder.path, run, resume_step=checkpoint_step(folder), mirrored=False)
    try:
        training = trainer.fit(folder, tracker, interrupts)
    except NonFiniteError as error:
        return {"loss": None, "reason": str(error), "tokens": None, "selection": None}
    finally:
        tracker.finish(0)
    loss = trainer.measure("on dev data")["tokens" if run.rl is None else "preferences"]["loss"]
    return {"loss": loss, "reason": None, "tokens": training.tokens, "selection": training.selection}


def quiet_libraries() -> None:
    """Leave the terminal to the run: no bars for loading a small file, no advice to the libraries' own authors."""
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # meant so: no dropout in DPO, PPO
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")


def measured(trainer: AgentSFTTrainer | AgentRLTrainer, when: str, answers: Path) -> Measured:
    """Figures of the trainer's model, and what became of the data; answers: folder of what it says meanwhile."""
    found = trainer.measure(when) | {"data": trainer.data.counts}
    evaluation, started = trainer.run.evaluation, time.perf_counter()
    if evaluation.capabilities:
        evaluator = AgentCapabilityEvaluator(evaluation, folder=answers, who={"when": when}, console=trainer.console)
        found["capabilities"] = evaluator.evaluate(trainer, evaluation.capabilities).to_dict()
        found["seconds"]["capabilities"] = time.perf_counter() - started
    return found


def reloaded(trainer: AgentSFTTrainer | AgentRLTrainer, folder: RunFolder) -> AgentSFTTrainer | AgentRLTrainer:
    """The trainer with the model from disk in place of the one in memory: what is reported is what was saved."""
    trainer.load_model(folder.model)
    return trainer


def checkpoint_step(folder: RunFolder) -> int | None:
    """The optimiser step that the run goes on from; 0 for a started run without a checkpoint, None for a new run."""
    if folder.training.is_file():
        return int(json.loads(folder.training.read_text())["steps"])
    if not folder.checkpoint.is_file():
        return 0 if folder.metrics.is_file() else None
    checkpoint = torch.load(folder.checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(checkpoint["global_step"])


def summarise(run: RunConfig, folder: RunFolder, before: Measured, training: Measured, after: Measured) -> Measured:
    """The content of result.json; generated texts are in samples.jsonl."""
    figures = {when: _without_items(measured) for when, measured in (("before", before), ("after", after))}
    spent = {f"{when}_{what}": s for when in figures for what, s in figures[when].pop("seconds").items()}
    gathering = without(json.loads(folder.gathering.read_text()), "keys") if folder.gathering.is_file() else None
    mixture = json.loads(folder.mixture.read_text()) if folder.mixture.is_file() else None
    search = json.loads(folder.search.read_text()) if folder.search.is_file() else None
    searching = {"search": sum(trial["seconds"] for trial in search["tried"])} if search else {}
    mixing = {"mix": mixture["seconds"]} if mixture else {}
    collecting = {"collect": gathering["wall_seconds"]} if gathering else {}
    selecting = {"select": training["selection"]["seconds"]} if training["selection"] else {}
    return {
        "status": "done",
        "method": dataclasses.asdict(run.method),
        "objective": run.rl.algorithm if run.rl is not None else "sft",
        "seed": run.seed,
        **{name: training[name] for name in ("steps", "tokens", "supervised_tokens", "seconds", "final_loss")},
        "trainable_parameters": training["trainable_parameters"],
        "peak_memory_mb": peak_memory_mb(),
        **figures,
        "baselines": baselines(run),
        "costs": {"train": training["seconds"], **searching, **mixing, **collecting, **selecting, **spent},
        "learning_rate": run.sft.learning_rate,
        "search": search,
        "mixture": mixture,
        "trajectories": gathering,
        "selection": training["selection"],
        "stream": stream(run, folder, before, after),
        "replay": replay(folder),
        "data": training["data"] | after["data"],
        "paths": {"run": str(folder.path), "model": str(folder.model), "report": str(folder.report)},
    }


def stream(run: RunConfig, folder: RunFolder, before: Measured, after: Measured) -> Measured | None:
    """For a run on several tasks, shuffled or one after the other: the score matrices and what they say.

    matrices: R of `sagetune.evaluation.continual` by figure. The first row is the untouched model, the last the trained
    one reloaded from disk; without a stream there are only these two. figures: see there; a loss with its sign turned.
    """
    first, last = task_figures(before), task_figures(after)
    rows = [first, *(row["tasks"] for row in read_rows(folder)), last]
    tasks = list(last)
    if folder.stream.is_file():
        tasks = json.loads(folder.stream.read_text())["tasks"]
    if len(tasks) < 2:
        return None
    names = ("loss", "accuracy", "exact_match")
    matrices = {name: matrix for name in names if (matrix := score_matrix(rows, tasks, name)) is not None}
    if not matrices:
        return None
    found: Measured = {"kind": run.data.stream, "tasks": tasks, "matrices": matrices, "figures": {}}
    for name, matrix in matrices.items():
        scores = [[-value for value in row] for row in matrix] if name == "loss" else matrix
        whole = len(scores) == len(tasks) + 1
        found["figures"][name] = continual.figures(scores) if whole else {"average": continual.average(scores)}
    return found


def replay(folder: RunFolder) -> Measured | None:
    """What was replayed and what it cost, without the list of samples."""
    if not folder.replay.is_file():
        return None
    return without(json.loads(folder.replay.read_text()), "replayed", "kept")


def without(record: Measured, *names: str) -> Measured:
    """The record without its long lists."""
    return {name: value for name, value in record.items() if name not in names}


def peak_memory_mb() -> float:
    """The most that this process has held, in MiB: resident, and on the GPU where there is one."""
    unit = 1024**2 if sys.platform == "darwin" else 1024  # the kernels report bytes and KiB
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return resident + (torch.cuda.max_memory_allocated() / 1024**2 if torch.cuda.is_available() else 0.0)


def baselines(run: RunConfig) -> dict[str, float] | None:
    """Chance level and trivial baseline of the generated task, where the world can tell them."""
    parts, num = (run.evaluation.data or "").split(":"), run.budget.benchmark_samples
    if parts[0] != "agent_benchmark" or num is None or run.continual.tasks is not None:
        return None
    return world.baselines(parts[1], parts[2], num, run.data.seed)


def write_samples(folder: RunFolder, before: Measured, after: Measured) -> None:
    """samples.jsonl: each decision point with the gold action and what was generated before and after.

    Raises ValueError if they are not the same decision points, as when evaluation.data was edited in between.
    """
    if not after["actions"]:
        return
    shared = [[{name: item[name] for name in SHARED} for item in one["actions"]["items"]] for one in (before, after)]
    if shared[0] != shared[1]:
        raise ValueError(
            f"evaluation.data: the file holds other items than when the untouched model was measured; "
            f"remove {folder.before}, so that it is measured anew, and give the command again"
        )
    pairs = zip(shared[1], before["actions"]["items"], after["actions"]["items"], strict=True)
    rows = [{**same, **_half(old, "before"), **_half(new, "after")} for same, old, new in pairs]
    write_text(folder.samples, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def mirror(tracker: Tracker, folder: RunFolder, result: Measured) -> None:
    """The before/after table, the sample actions and the final figures, for W&B."""
    columns, rows = report.before_after_table(result)
    tracker.table("before_after", columns, rows)
    if folder.samples.is_file():
        samples = read_jsonl(folder.samples)
        tracker.table("actions", list(samples[0]), [list(sample.values()) for sample in samples])
    for name, matrix in (result["stream"] or {"matrices": {}})["matrices"].items():
        numbered = [[number, *row] for number, row in enumerate(matrix)]
        tracker.table(f"stream/{name}", ["tasks learnt", *result["stream"]["tasks"]], numbered)
    sections = ("tokens", "actions", "preferences", "rollouts")
    after = {name: result["after"][name] for name in sections if result["after"].get(name)}
    reports = report.capability_reports(folder)
    for name, (columns, rows) in (tables(reports) if reports else {}).items():
        tracker.table(name, columns, rows)
    measured_after = reports.get("after", {"scores": {}})["scores"]
    scores = {f"capability/{name}": score["score"] for name, score in measured_after.items()}
    tracker.bars("capability_scores", "capabilities after training", scores)
    stages = {name: result[name] for name in ("mixture", "trajectories", "stream", "replay") if result[name]}
    figures = scores | stages
    tracker.summary({"final_loss": result["final_loss"], "seconds": result["seconds"], **after, **figures})


def _half(row: Measured, when: str) -> Measured:
    return {f"{when}_{name}": row[name] for name in ("generated", "exact_match", "parse_failure")}


def _once(path: Path, make: Callable[[], Measured]) -> Measured:
    """What `make` returned, now or in an earlier attempt at this run."""
    if not path.is_file():
        write_json(path, make())
    return json.loads(path.read_text())


def _without_items(measured: Measured) -> Measured:
    actions = measured["actions"]
    short = {name: value for name, value in actions.items() if name != "items"} if actions else None
    figures = {"tokens": measured["tokens"], "actions": short, "seconds": measured["seconds"]}
    for name in ("preferences", "rollouts"):
        if measured.get(name):
            figures[name] = measured[name]
    capabilities = measured.get("capabilities")
    if capabilities:
        scores = {
            name: {**score, "details": without(score["details"], "items")}
            for name, score in capabilities["scores"].items()
        }
        figures["capabilities"] = {**capabilities, "scores": scores}
    return figures
