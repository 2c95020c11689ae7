"""A run that is killed or stopped at any moment, and resumed, ends with the weights of a run that was left alone."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from forked import Forked
from sagetune.selection.summary import SelectionFile

COMMAND = [
    *("train", "model=tiny", "data=tool_selection", "evaluation.data=null"),
    *("sft.eval_data=null", "adapter.dropout=0.1", "sft.use_dora=true", "sft.batch_size=2"),
    *("sft.gradient_accumulation_steps=3", "sft.learning_rate=0.01", "budget=smoke", "budget.train_samples=41"),
    *("budget.max_steps=30", "sft.num_epochs=6", "trainer.checkpoint_every_n_steps=4", "sft.lora_r=4"),
]
STREAM = (
    "continual.tasks=[tool_selection/shop,general,timing]",
    "sft.num_epochs=5",
    "sft.gradient_accumulation_steps=1",
)
ENVIRONMENT = {"WANDB_MODE": "disabled"}


def start(folder: Path, *overrides: str) -> Forked:
    place = [f"sft.output_dir={folder.parent}", f"run_name={folder.name}"]
    return Forked(*COMMAND, *place, *overrides, environment=ENVIRONMENT)


def resume(folder: Path) -> Forked:
    return Forked("train", f"resume={folder}", environment=ENVIRONMENT)


def rows(folder: Path) -> list[str]:
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().splitlines() if metrics.exists() else []


def send_when(process: Forked, folder: Path, num_rows: int, what: signal.Signals) -> str:
    """Send a signal once the run has logged `num_rows` steps; return what the run printed."""
    while len(rows(folder)) < num_rows and process.returncode is None:
        time.sleep(0.005)
    assert process.returncode is None, process.finish()
    process.send_signal(what)
    return process.finish(timeout=120)


def finish(process: Forked) -> str:
    output = process.finish()
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(folder))
    assert len(rows(folder)) == 30
    return folder


def assert_same_weights(folder: Path, undisturbed: Path) -> None:
    name = "adapter/adapter_model.safetensors"
    assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()


def assert_same_training(folder: Path, undisturbed: Path) -> None:
    assert_same_weights(folder, undisturbed)
    figures = [
        [(row["step"], row["epoch"], row["train/loss"], row["train/tokens"]) for row in map(json.loads, rows(one))]
        for one in (folder, undisturbed)
    ]
    assert figures[0] == figures[1]


def test_three_kills_at_random_moments_change_no_bit(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    moments = sorted(random.Random(time.time_ns()).sample(range(1, 29), 3))
    print("killed after these steps:", moments)  # shown if the test fails
    process = start(folder)
    for moment in moments:
        send_when(process, folder, moment, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        process = resume(folder)
    finish(process)
    assert_same_training(folder, undisturbed)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "selection",
    [
        ("method=coreset_hybrid", "coreset.refresh_epochs=2", "sft.coreset_target_size=20", "coreset.cache=false"),
        pytest.param(
            ("method=coreset_loss", "coreset.scope=batch", "coreset.candidates=2"), marks=pytest.mark.thorough
        ),
        (*STREAM, "method=combined", "coreset.cache=false", "coreset.refresh_epochs=1", "sft.coreset_target_size=20"),
    ],
    ids=["pool", "batch", "stream"],
)
def test_a_killed_run_that_selects_goes_on_with_the_same_samples(selection: tuple[str, ...], tmp_path: Path) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    finish(start(alone, *selection))
    process = start(killed, *selection)
    for moment in (3, 11):
        send_when(process, killed, moment, signal.SIGKILL)
        process = resume(killed)
    finish(process)
    assert_same_weights(killed, alone)
    chosen = [
        [(entry["epoch"], entry["ids"], entry["scores"]) for entry in SelectionFile(one / "selection.json").entries()]
        for one in (killed, alone)
    ]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) > 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    "replay",
    [
        pytest.param(("continual=coreset", "sft.continual_buffer_size=6"), marks=pytest.mark.thorough),
        ("continual=mir", "continual.distill=0.3"),
    ],
    ids=lambda options: options[0],
)
def test_a_killed_stream_replays_the_same_samples(replay: tuple[str, ...], tmp_path: Path) -> None:
    given = ("method=continual", *STREAM, "sft.continual_replay_ratio=0.4", *replay)
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    finish(start(alone, *given))
    process = start(killed, *given)
    for moment in (9, 17):
        send_when(process, killed, moment, signal.SIGKILL)
        process = resume(killed)
    finish(process)
    assert_same_weights(killed, alone)
    records = [json.loads((one / "replay.json").read_text()) for one in (killed, alone)]
    times = [record.pop("seconds") for record in records]
    assert min(times) > 0
    assert records[0] == records[1]
    assert records[0]["rows"] > 10
    states = [
        torch.load(one / "checkpoints/last.ckpt", weights_only=True)["sagetune"]["replay"] for one in (killed, alone)
    ]
    buffers = [state["learner"]["buffer"] for state in states]
    assert all(torch.equal(buffers[0][name], buffers[1][name]) for name in ("ids", "keys", "groups"))


@pytest.mark.thorough
@pytest.mark.parametrize(("what", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_saves_inside_the_step_says_so_and_resumes(
    what: signal.Signals, code: int, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    output = send_when(process, folder, 5, what)
    assert process.returncode == code, output
    assert re.search(rf"stopped by {what.name}.*sagetune train resume={folder}", output, re.DOTALL)
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("interrupted", code)
    assert not (folder / "result.json").exists()
    finish(resume(folder))
    assert_same_training(folder, undisturbed)
    assert "done already" in finish(resume(folder))


def test_a_run_that_is_killed_after_training_keeps_its_metrics(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    for name in ("after.json", "result.json", "report.html"):
        (folder / name).unlink()
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"status": "running"}))
    finish(resume(folder))
    assert (folder / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    assert json.loads((folder / "result.json").read_text())["data"]["train"]["used"] == 41
    assert (folder / "report.html").is_file()


def test_a_checkpoint_is_small_and_holds_only_plain_data(undisturbed: Path) -> None:
    checkpoint = torch.load(undisturbed / "checkpoints" / "last.ckpt", weights_only=True)
    assert all("lora_" in name for name in checkpoint["state_dict"])
    assert checkpoint["global_step"] == 28
    assert checkpoint["sagetune"]["random"].keys() >= {"python", "numpy", "torch"}


def test_resume_takes_no_other_setting(undisturbed: Path) -> None:
    process = Forked("train", f"resume={undisturbed}", "sft.lora_r=2")
    output = process.finish()
    assert process.returncode == 2
    assert "leave out sft.lora_r=2" in output


def test_resuming_a_folder_without_a_run_says_what_is_missing(tmp_path: Path) -> None:
    process = resume(tmp_path)
    output = process.finish()
    assert process.returncode == 2
    assert "holds no run" in output
