"""What the studies share: their jobs are commands of `sagetune`, claimed by files, so that processes share them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Folder of published data; each study says which files it reads."""


def sagetune(log: Path, command: str, *overrides: str) -> None:
    """Run a command on one thread, its output appended to `log`; its failure ends the study."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    with log.open("a") as file:
        call = [sys.executable, "-m", "sagetune", command, *overrides]
        done = subprocess.run(call, stdout=file, stderr=file, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}: see {log}")


def claim(work: Path, name: str, job: Callable[[Path], None]) -> None:
    """Do `job` in the folder work/name, unless this or another process has claimed it.

    A killed study leaves its claim: remove it from work/claims, and the job goes on where it was.
    """
    mark = work / "claims" / name
    mark.parent.mkdir(parents=True, exist_ok=True)
    try:
        mark.open("x").close()
    except FileExistsError:
        return
    folder = work / name
    folder.mkdir(exist_ok=True)
    job(folder)
    mark.write_text("done")
    print(name, flush=True)


def finished(work: Path) -> list[str]:
    """The names of the jobs that are done."""
    return sorted(mark.name for mark in (work / "claims").iterdir() if mark.read_text() == "done")


def is_done(work: Path, name: str) -> bool:
    return name in finished(work)


def train(folder: Path, *overrides: str) -> None:
    """Train in folder/run, or go on with it."""
    run = folder / "run"
    if not run.is_dir():
        sagetune(folder / "log.txt", "train", f"sft.output_dir={folder}", "run_name=run", *overrides)
    elif not (run / "report.html").is_file():
        sagetune(folder / "log.txt", "train", f"resume={run}")


def mean_tokens(samples: Any, length: int) -> float:
    """Tokens of a sample as SmolLM2's tokenizer and our template make them, of those that fit into `length`."""
    from sagetune.chat import encode_all
    from sagetune.config import ModelConfig
    from sagetune.models import load_tokenizer

    encoded, _ = encode_all(samples, load_tokenizer("embedded:smollm2_135m", ModelConfig()), length)
    return sum(len(sample.input_ids) for sample in encoded) / len(encoded)


def write_lines(path: Path, records: list[Any]) -> None:
    """JSON Lines, there whole or not at all, whoever else writes the same."""
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text("".join(json.dumps(record) + "\n" for record in records))
    draft.rename(path)
