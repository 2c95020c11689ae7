"""Launchers and sweepers of the extras: the same runs in the same folders, whoever starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

QUICK = ("model=tiny", "budget=smoke", "budget.train_samples=4", "evaluation.data=null", "budget.max_steps=1")
LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", ("hydra.launcher.n_jobs=1",)),
    "submitit_local": ("hydra_submitit_launcher", ()),
    "ray": ("hydra_ray_launcher", ("+hydra.launcher.ray.init.num_cpus=1",)),
}


def sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sagetune", "train", "-m", *QUICK, "sft.output_dir=out", *overrides]
    environment = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_of_the_extras_does_the_jobs_and_its_exit_code_tells(name: str, tmp_path: Path) -> None:
    package, options = LAUNCHERS[name]
    pytest.importorskip(f"hydra_plugins.{package}")
    done = sweep(tmp_path, f"hydra/launcher={name}", "sft.lora_r=0,2", *options)
    assert done.returncode == 2, done.stdout + done.stderr
    statuses = [json.loads(path.read_text())["status"] for path in tmp_path.glob("out/sweep-*/*/status.json")]
    assert sorted(statuses) == ["done", "failed"]
    again = sweep(tmp_path, "sft.lora_r=choice(2)")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 of 1 jobs are done already" in again.stdout


def test_optuna_searches_by_the_score_of_the_runs(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2")
    done = sweep(tmp_path, *search, "sft.learning_rate=interval(0.01,0.1)")
    assert done.returncode == 0, done.stdout + done.stderr
    found = OmegaConf.load(next(tmp_path.glob("out/sweep-*/optimization_results.yaml")))
    results = [json.loads(path.read_text()) for path in tmp_path.glob("out/sweep-*/*/result.json")]
    assert len(results) == 2
    assert found.best_value == min(result["after"]["tokens"]["loss"] for result in results)


def test_a_search_that_tolerates_failures_goes_on_after_one(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", "hydra.sweeper.n_trials=3")
    drawn = ("hydra.sweeper.sampler.seed=0", "sft.lora_r=choice(0,2)")  # 2, 0, 2
    done = sweep(tmp_path, *search, *drawn, "hydra.sweeper.max_failure_rate=1")
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = [json.loads(path.read_text())["status"] for path in tmp_path.glob("out/sweep-*/*/status.json")]
    assert sorted(statuses) == ["done", "failed"]
