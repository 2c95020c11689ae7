"""How long it takes until something happens: commands, pools of samples, and jobs of a sweep before their first step.

    python startup.py [commands] [pools] [jobs] [--samples 320]       default: all three; prints Markdown tables

commands  medians of 7 runs.
pools     reading and tokenising agent_sft:train and the same records as JSON lines with SmolLM2's tokenizer: without
          the store of tokens, the first time with it, and again.
jobs      sweeps of three methods on SmolLM2 in a temporary folder, with one and with two jobs at a time, after one job
          that fills the caches and measures the untouched model. Seconds of a job from its start to its first step, out
          of status.json, before.json and training.json of its run folder. --samples: training samples of each job.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

SAGETUNE = (sys.executable, "-m", "sagetune")
COMMANDS = ("--help", "methods", "train --help", "train --cfg job", "train method=lora_plus experiment=demo --cfg job")
ROUNDS = 7
POOLS = (240, 5_000, 50_000)
LENGTH = 1024
METHODS = ("baseline", "lora_plus", "dora")
JOB = (
    *("model=smollm2_135m", "sft.batch_size=2", "sft.gradient_accumulation_steps=1", "budget.max_steps=2"),
    *("budget.eval_samples=4", "budget.benchmark_samples=2"),
    *("evaluation=quick", "evaluation.samples=1", "evaluation.max_new_tokens=8"),
)
"""What is done after the first step is not measured, so it is little."""


def table(columns: tuple[str, ...], rows: list[list[Any]]) -> None:
    lines = [columns, ["---"] * len(columns), *rows]
    for line in lines:
        cells = (f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in line)
        print("|", " | ".join(cells), "|", flush=True)
    print()


def timed(work: Callable[..., Any], *given: Any, who: int = resource.RUSAGE_SELF) -> tuple[float, float, Any]:
    """Wall-clock and processor seconds of `work`, and what it returned."""
    before, started = resource.getrusage(who), time.perf_counter()
    found = work(*given)
    wall, after = time.perf_counter() - started, resource.getrusage(who)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, found


def commands() -> None:
    run = partial(subprocess.run, check=True, capture_output=True)
    rows = []
    for command in COMMANDS:
        words = [*SAGETUNE, *command.split()]
        figures = [timed(run, words, who=resource.RUSAGE_CHILDREN) for _ in range(ROUNDS)]
        rows.append([f"`sagetune {command}`", *(median(figure[place] for figure in figures) for place in (0, 1))])
    table(("command", "seconds", "processor seconds"), rows)


def pools() -> None:
    from sagetune.config import ModelConfig
    from sagetune.models import load_tokenizer

    tokenizer = load_tokenizer("embedded:smollm2_135m", ModelConfig())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAGETUNE_CACHE"] = folder
        for size in POOLS:
            rows += [["agent_sft:train", f"{size:,}", *pool("agent_sft:train", size, tokenizer)]]
            rows += [["JSON lines", f"{size:,}", *pool(write_records(Path(folder), size), size, tokenizer)]]
    table(("data", "samples", "reading", "tokenising", "first, with the store", "again"), rows)


def pool(reference: str, size: int, tokenizer: Any) -> list[float]:
    """Processor seconds of reading, of tokenising, and of tokenising with the store of tokens, twice."""
    from sagetune import sources
    from sagetune.chat import encode_all
    from sagetune.encoding_store import encode_once

    _, reading, loaded = timed(lambda: sources.load(reference, num_samples=size))
    _, direct, expected = timed(encode_all, loaded.samples, tokenizer, LENGTH)
    _, first, made = timed(encode_once, loaded.samples, tokenizer, LENGTH)
    _, again, found = timed(encode_once, loaded.samples, tokenizer, LENGTH)
    assert made == found == expected
    return [reading, direct, first, again]


def write_records(folder: Path, size: int) -> str:
    """A file with the samples of agent_sft:train; its path."""
    from sagetune import sources

    samples = sources.load("agent_sft:train", num_samples=size).samples
    rows = ({"messages": sample["messages"], "tools": sample["tools"]} for sample in samples)
    path = folder / f"{size}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def jobs(samples: int) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sweep(Path(folder), METHODS[:1], 0, 1, samples)
        for at_a_time in (1, 2):
            started = sweep(Path(folder), METHODS, at_a_time, at_a_time, samples)
            runs = sorted(Path(folder).glob(f"outputs/speed/*-s{at_a_time}-*"), key=begun)
            print(f"{at_a_time} at a time: {begun(runs[0]) - started:.1f} s until the first job starts\n")
            rows += [[at_a_time, run.name.split("-")[0], *parts(run)] for run in runs]
    names = ("untouched model's figures", "data", "model", "other", "all before the first step")
    table(("jobs at a time", "method", *names), rows)


def sweep(folder: Path, methods: tuple[str, ...], seed: int, at_a_time: int, samples: int) -> float:
    """Run it; returns when it was started."""
    words = (f"method={','.join(methods)}", f"seed={seed}", "sweep=speed", f"hydra.launcher.n_jobs={at_a_time}")
    started = time.time()
    command = [*SAGETUNE, "train", "-m", *JOB, *words, f"budget.train_samples={samples}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return started


def begun(run: Path) -> float:
    return datetime.fromisoformat(json.loads((run / "status.json").read_text())["started"]).timestamp()


def parts(run: Path) -> list[float]:
    """Seconds until the figures of the untouched model were there, then of each part until the first step, and all."""
    startup = json.loads((run / "training.json").read_text())["startup"]
    seconds = [
        (run / "before.json").stat().st_mtime - begun(run),
        *(startup[part] for part in ("data", "model", "other")),
    ]
    return [*seconds, sum(seconds)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="commands|pools|jobs", help="what to measure; all")
    parser.add_argument("--samples", type=int, default=320)
    asked = parser.parse_args()
    measures = {"commands": commands, "pools": pools, "jobs": partial(jobs, asked.samples)}
    if unknown := set(asked.what) - set(measures):
        parser.error(f"there is no {', '.join(sorted(unknown))}: name {', '.join(measures)}")
    for name in asked.what or measures:
        measures[name]()
