"""The sweep file that W&B's agents take: every job that they make of it is a command of ours."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from sagetune.config import CONF_DIR

SWEEP: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "experiments/wandb_sweep.yaml").read_text())
GRID = {name: parameter["values"] for name, parameter in SWEEP["parameters"].items()}
JOBS = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]


def command(job: dict[str, Any]) -> list[str]:
    """What an agent runs, without the program's place."""
    written = create_sweep_command_args({"args": {name: {"value": value} for name, value in job.items()}})
    start = SWEEP["command"].index("sagetune")
    return [
        word
        for part in SWEEP["command"][start + 1 :]
        for word in (written["args_no_hyphens"] if part == "${args_no_hyphens}" else [part])
    ]


def test_every_method_is_swept() -> None:
    assert set(GRID["method"]) == {path.stem for path in (CONF_DIR / "method").glob("*.yaml")}


@pytest.mark.parametrize("job", [JOBS[0], JOBS[-1]], ids=str)
def test_a_job_composes(job: dict[str, Any]) -> None:
    run = [sys.executable, "-m", "sagetune", *command(job), "--cfg", "job"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    composed = done.stdout.splitlines()
    assert f"seed: {job['seed']}" in composed
    assert f"  learning_rate: {job['sft.learning_rate']}" in composed
    assert "  mode: online" in composed
