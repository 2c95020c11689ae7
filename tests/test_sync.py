"""Runs that were logged offline are uploaded later, whole, with their curves, tables, groups and figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from sagetune.commands.sync import offline_runs
from sagetune.config import AgentSFTConfig, MethodInfo, RunConfig, WandbConfig
from sagetune.tracking import Tracker, run_id
from wandb_server import KEY, wandb_server


@pytest.fixture
def logged(no_wandb_environment: None, tmp_path: Path) -> Path:
    """Two runs of one study, logged offline."""
    for seed in (0, 1):
        run = RunConfig(
            sft=AgentSFTConfig("embedded:tiny", "agent_sft:train"),
            method=MethodInfo(id="A_baseline"),
            wandb=WandbConfig(group="study"),
            seed=seed,
        )
        tracker = Tracker(tmp_path / f"s{seed}", run, None)
        for step in (1, 2):
            tracker.log({"step": step, "train/loss": 1 / step})
        tracker.table("before_after", ["figure", "before"], [["loss", 2.5]])
        tracker.summary({"capability/tool_use": 0.25})
        tracker.finish(0)
    wandb.teardown()
    return tmp_path


def sync(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    account = {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}
    run = [sys.executable, "-m", "sagetune", "sync", str(folder)]
    return subprocess.run(
        run, env=os.environ | account, capture_output=True, text=True, check=False, timeout=120, cwd=folder
    )


def test_everything_that_was_logged_offline_is_uploaded_once(logged: Path) -> None:
    with wandb_server() as server:
        first = sync(logged, server.url)
        assert first.returncode == 0, first.stdout + first.stderr
        for seed in (0, 1):
            name = run_id(logged / f"s{seed}")
            rows = server.history(name)
            assert [(row["step"], row["train/loss"]) for row in rows[:2]] == [(1, 1.0), (2, 0.5)]
            assert server.summary(name)["capability/tool_use"] == 0.25
            assert server.runs[name]["groupName"] == "study"
            assert server.runs[name]["jobType"] == "A_baseline"
            assert server.runs[name]["tags"] == ["A_baseline", "embedded:tiny", "agent_sft:train"]
            assert server.runs[name]["exit_code"] == 0
            config = json.loads(server.runs[name]["config"])
            assert config["sft"]["value"]["learning_rate"] == 2e-5
        tables = [body for place, body in server.files.items() if "before_after" in place and place.endswith(".json")]
        assert {json.dumps(json.loads(body)["data"]) for body in tables} == {'[["loss", 2.5]]'}
        runs = len(server.runs)
        server.runs.clear()
        assert sync(logged, server.url).returncode == 0
        assert not server.runs, f"sent again: {runs}"


def test_a_folder_without_offline_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run that was logged offline"):
        offline_runs(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        offline_runs(tmp_path / "nothing")
