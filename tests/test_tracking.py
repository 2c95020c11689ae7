"""The log of a run: metrics.jsonl always, W&B beside it, and nothing that W&B does can hurt."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import wandb

from sagetune.config import AgentSFTConfig, RunConfig, WandbConfig
from sagetune.tracking import Tracker, drop_rows_after, reachable, run_id
from wandb_offline import read_offline_run


def config(mode: str) -> RunConfig:
    return RunConfig(sft=AgentSFTConfig("embedded:tiny", "agent_sft:train"), wandb=WandbConfig(mode=mode), seed=7)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _own_environment(no_wandb_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_disabled_writes_rows_to_the_file_alone(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, config("disabled"), None)
    tracker.log({"step": 1, "train/loss": 0.5})
    assert rows(tmp_path) == [{"step": 1, "train/loss": 0.5}]  # there before the end
    tracker.finish(0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_infinity_is_written_as_null(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, config("disabled"), None)
    tracker.log({"step": 1, "eval/perplexity": float("inf")})
    tracker.finish(0)
    assert rows(tmp_path) == [{"step": 1, "eval/perplexity": None}]


def test_going_on_drops_what_the_lost_stretch_wrote(tmp_path: Path) -> None:
    written = [{"step": 1}, {"step": 2}, {"step": 2, "eval/loss": 1.0}, {"step": 3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written) + '{"step": 4, "tr')
    tracker = Tracker(tmp_path, config("disabled"), 2)
    tracker.log({"step": 3, "again": True})
    tracker.finish(0)
    assert rows(tmp_path) == [*written[:3], {"step": 3, "again": True}]


def test_a_start_without_checkpoint_drops_every_row(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    Tracker(tmp_path, config("disabled"), None).finish(1)
    assert rows(tmp_path) == []


def test_dropping_rows_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    drop_rows_after(path, 1)
    assert path.read_text() == '{"step": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_the_offline_run_holds_curves_table_config_and_summary(tmp_path: Path) -> None:
    run_dir = tmp_path / "dora-s7"
    tracker = Tracker(run_dir, config("offline"), None)
    for step in (1, 2, 3):
        tracker.log({"step": step, "train/loss": 1 / step})
    tracker.table("before_after", ["figure", "before"], [["loss", 2.5], ["exact match", None]])
    tracker.summary({"after": {"exact_match": {"value": 0.5, "n": 40}}})
    tracker.finish(3)
    run = read_offline_run(run_dir)
    assert run.id.startswith("dora-s7-")
    assert [(row["step"], row["train/loss"]) for row in run.history[:3]] == [(1, 1), (2, 1 / 2), (3, 1 / 3)]
    assert run.step_metrics["*"] == "step"
    assert run.tables["before_after"]["columns"] == ["figure", "before"]
    assert run.tables["before_after"]["data"] == [["loss", 2.5], ["exact match", None]]
    assert (run.config["seed"], run.config["sft"]["base_model"]) == (7, "embedded:tiny")
    assert run.summary["after"] == {"exact_match": {"value": 0.5, "n": 40}}
    assert run.exit_code == 3
    assert [row["step"] for row in rows(run_dir)] == [1, 2, 3]


def test_two_runs_in_one_process_stay_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tracker = Tracker(tmp_path / name, config("offline"), None)
        tracker.log({"step": 1, "train/loss": len(name)})
        tracker.table("t", ["a"], [[name]])
        tracker.finish(0)
        assert "WANDB_DATA_DIR" not in os.environ
    for name in ("one", "two"):
        run = read_offline_run(tmp_path / name)
        assert (run.id.rpartition("-")[0], run.tables["t"]["data"]) == (name, [[name]])
        assert (tmp_path / name / "wandb" / "data").is_dir()


def test_the_environment_beats_the_configured_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Tracker(tmp_path, config("offline"), None).finish(0)
    assert not (tmp_path / "wandb").exists()


def test_an_unknown_mode_in_the_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "on")
    with pytest.raises(ValueError, match="WANDB_MODE must be one of offline, online, disabled, got 'on'"):
        Tracker(tmp_path, config("offline"), None)


def test_online_without_network_is_logged_offline_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    started = time.monotonic()
    tracker = Tracker(tmp_path, config("online"), None)
    tracker.log({"step": 1, "train/loss": 0.5})
    tracker.finish(0)
    assert time.monotonic() - started < 10
    assert f"logged offline; send it later with: wandb sync {tmp_path}" in capsys.readouterr().err
    assert read_offline_run(tmp_path).history[0]["train/loss"] == 0.5


def test_online_without_a_key_is_logged_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        tracker = Tracker(tmp_path, config("online"), None)
    tracker.finish(0)
    assert "no API key" in capsys.readouterr().err
    assert read_offline_run(tmp_path).exit_code == 0


def test_a_failing_mirror_is_told_once_and_the_file_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise wandb.errors.CommError("the server is gone")

    tracker = Tracker(tmp_path, config("offline"), None)
    monkeypatch.setattr(wandb.Run, "log", fail)
    for step in (1, 2):
        tracker.log({"step": step})
    tracker.finish(0)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]
    assert capsys.readouterr().err.count("the server is gone") == 1


def test_reachable_asks_the_proxy_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert reachable("https://wandb.invalid")
    assert not reachable("https://wandb.invalid")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_run_keeps_its_id_and_a_namesake_elsewhere_has_another(tmp_path: Path) -> None:
    assert run_id(tmp_path / "a" / "demo") == run_id(tmp_path / "a" / "demo")
    assert run_id(tmp_path / "a" / "demo") != run_id(tmp_path / "b" / "demo")


def test_the_runs_of_a_sweep_are_logged_side_by_side(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run = dataclasses.replace(config("offline"), sweep="s")
        Tracker(tmp_path / "s" / name, run, None).finish(0)
    assert len(list(tmp_path.glob("s/wandb/offline-run-*"))) == 2
    assert not list(tmp_path.glob("s/*/wandb"))


def test_a_job_of_an_agent_has_the_id_that_the_agent_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    Tracker(tmp_path, config("offline"), None).finish(0)
    assert read_offline_run(tmp_path).id == "given"
