"""The command line: quick answers without torch, mistakes told by name with what is allowed, honest exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forked import Forked
from sagetune.commands import overrides_last
from sagetune.config import CONF_DIR
from wandb_offline import read_offline_run


def sagetune(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command; every module that it imports is listed in stderr."""
    command = [sys.executable, "-X", "importtime", "-m", "sagetune", *arguments]
    environment = os.environ | {"WANDB_MODE": "offline"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, env=environment)


def carried_out(*arguments: str) -> tuple[int | None, str]:
    """Exit code and output of a command that computes; W&B writes offline."""
    process = Forked(*arguments, environment={"WANDB_MODE": "offline"})
    output = process.finish()
    return process.returncode, output


def answer_without_torch(*arguments: str) -> tuple[int, str]:
    """Exit code and all output but the import list; fails if torch was imported."""
    done = sagetune(*arguments)
    imports = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert imports
    assert not [line for line in imports if line.split("|")[-1].strip() == "torch"]
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    return done.returncode, done.stdout + "\n".join(said)


def test_help_lists_groups_options_and_fields() -> None:
    code, text = answer_without_torch("train", "--help")
    assert code == 0
    for shown in (
        "method: agenttuning, baseline, combined, continual, coreset_diversity, coreset_hybrid, coreset_loss, dora",
        "model: hf, smollm2_135m, tiny",
        "lora_plus_lr_ratio: 16.0",
    ):
        assert shown in text


def test_cfg_job_shows_the_resolved_configuration() -> None:
    code, text = answer_without_torch("train", "--cfg", "job", "method=lora_plus", "sft.lora_r=4")
    assert code == 0
    assert "use_lora_plus: true" in text
    assert "lora_r: 4" in text
    assert "id: H_lora_plus" in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method=dorra", ["dorra", "baseline", "lora_plus"]),
        ("sft.lora_rr=4", ["lora_rr", "Did you mean 'lora_r'", "learning_rate"]),
        ("methd=dora", ["methd", "Did you mean 'method'", "budget"]),
        ("+sft.bogus=1", ["bogus", "Allowed fields", "base_model"]),
        ("sft.lora_r=abc", ["sft.lora_r", "abc", "Integer"]),
        ("sft.lora_r=0", ["sft.lora_r must be at least 1, got 0"]),
        ("model.dtype=int4", ["model.dtype must be one of auto, float32, bfloat16, got 'int4'"]),
        ("continual.strategy=coreset", ["continual.strategy must be another while data.stream is shuffled"]),
        ("continual.tasks=[general,chess]", ["continual.tasks", "family must be one of tool_selection, planning"]),
        ("mixture=fuor_tasks", ["fuor_tasks", "four_tasks", "agenttuning_eta"]),
        ("mixture=own", ["mixture.weights must be a weight for each task"]),
        ("mixture.strategy=best", ["mixture.strategy must be one of weighted, proportional", "got 'best'"]),
        ("mixture=own +mixture.weights.crm=1", ["mixture.sources must be a reference for each task", "crm has none"]),
        ("mixture=four_tasks mixture.weights.timing=-1", ["mixture.weights.timing must be a number, at least 0"]),
        ("mixture=four_tasks mixture.sources.timing=no.jsonl", ["mixture.sources.timing", "no such file"]),
        ("mixture=four_tasks mixture.strategy=temperature", ["has no end", "+mixture.limits.tool_selection"]),
        ("mixture=agenttuning_eta mixture.eta=2", ["mixture.eta must be null or in [0, 1], got 2.0"]),
        ("method=fireact mixture=four_tasks", ["trajectories.use must be false while mixture.use is true"]),
        ("model=hf", ["sft.base_model has no value", "hub id"]),
        ("sft.train_data=agent_sft:trian", ["agent_sft:trian", "train", "dev", "test"]),
        ("sft.train_data=nowhere.jsonl", ["nowhere.jsonl", "sft.train_data"]),
        ("trainer.accelerator=abacus", ["trainer.accelerator must be one of auto, cpu, gpu"]),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(override: str, expected: list[str]) -> None:
    code, text = answer_without_torch("train", *override.split())
    assert code == 2, text
    for part in expected:
        assert part in text
    assert "Traceback" not in text


def test_an_unknown_command_lists_the_known_ones() -> None:
    code, text = answer_without_torch("trian")
    assert code == 2
    assert "train" in text
    assert "doctor" in text


def test_flags_may_stand_between_the_overrides() -> None:
    given = ["method=dora", "--config-dir", "a=b", "-m", "seed=0,1", "--cfg", "job", "~wandb.group", "-cd=x=y"]
    told = ["--config-dir", "a=b", "-m", "--cfg", "job", "-cd=x=y", "method=dora", "seed=0,1", "~wandb.group"]
    assert overrides_last(given) == told
    assert overrides_last([]) == []


def test_the_command_line_beats_the_method_and_the_experiment() -> None:
    _, text = answer_without_torch("train", "--cfg", "job", "experiment=demo", "method=dora", "sft.use_dora=false")
    assert "id: G_dora" in text
    assert "use_dora: false" in text


@pytest.mark.parametrize("path", sorted(CONF_DIR.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_configuration_file_composes(path: Path) -> None:
    extra = {"hf": ["sft.base_model=x"], "file": ["sft.train_data=x.jsonl"]}.get(path.stem, [])
    code, text = answer_without_torch("train", "--cfg", "job", f"{path.parent.name}={path.stem}", *extra)
    assert code == 0, text


def test_a_run_writes_its_folder_and_ends_with_the_table(tmp_path: Path) -> None:
    overrides = ["model=tiny", "budget=smoke", "data=tool_selection", f"sft.output_dir={tmp_path}", "run_name=r"]
    code, output = carried_out("train", *overrides, "sft.lora_r=2", "evaluation.max_new_tokens=8")
    assert code == 0, output[-3000:]
    names = {path.name for path in (tmp_path / "r").iterdir()}
    assert names == {
        *("config.yaml", "status.json", "environment.json", "metrics.jsonl", "adapter", "checkpoints", "training.json"),
        *("before.json", "after.json", "samples.jsonl", "result.json", "report.html", "wandb"),
    }
    assert "exact match" in output
    mirrored = read_offline_run(tmp_path / "r")
    assert [row["train/loss"] for row in mirrored.history if "train/loss" in row] == [
        row["train/loss"] for row in map(json.loads, (tmp_path / "r" / "metrics.jsonl").read_text().splitlines())
    ]
    assert mirrored.config["sft"]["lora_r"] == 2
    assert {"before_after", "actions"} <= set(mirrored.tables)
    code, output = carried_out("train", *overrides)
    assert code == 2
    assert "holds a run already" in output


@pytest.mark.thorough
def test_a_stream_of_tasks_is_measured_before_and_after_each(tmp_path: Path) -> None:
    place = [f"sft.output_dir={tmp_path}", "run_name=r", "continual.tasks=[tool_selection/mail,general,timing]"]
    budget = ["budget.train_samples=12", "budget.eval_samples=6", "budget.benchmark_samples=6", "sft.batch_size=2"]
    code, output = carried_out(
        "train", "method=continual", "model=tiny", *place, *budget, "sft.gradient_accumulation_steps=1"
    )
    assert code == 0, output[-3000:]
    assert "3 tasks, sequential" in output
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    stream, before, after = result["stream"], result["before"], result["after"]
    assert stream["tasks"] == ["tool_selection/mail", "general", "timing"]
    for name, matrix in stream["matrices"].items():
        assert [len(row) for row in matrix] == [3] * 4, name
    for row, measured in ((0, before), (3, after)):
        figures = measured["tokens"]["by_task"].values()
        assert stream["matrices"]["loss"][row] == [task["loss"] for task in figures]
    assert result["replay"]["rows"] > 0
    mirrored = read_offline_run(tmp_path / "r")
    assert {"stream/loss", "stream/accuracy", "stream/exact_match"} <= set(mirrored.tables)
    assert len(mirrored.tables["stream/loss"]["data"]) == 4
    assert len([row for row in mirrored.history if "stream/general/loss" in row]) == 2


def test_a_failed_run_says_why_in_its_folder(tmp_path: Path) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "hi"}, {"role": "asistant", "content": "x"}]}\n')
    code, output = carried_out(
        *("train", "model=tiny", "data=file", f"sft.train_data={data}", f"sft.output_dir={tmp_path}", "run_name=r")
    )
    assert code == 2
    assert f"{data}:1" in output
    assert "asistant" in output
    status = json.loads((tmp_path / "r" / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("failed", 2)
    assert "asistant" in status["reason"]
    assert status["traceback"].startswith("Traceback")
    assert status["command"] == f"sagetune train resume={tmp_path / 'r'}"
    assert not (tmp_path / "r" / "result.json").exists()


@pytest.mark.thorough
def test_select_writes_the_chosen_samples_without_training(tmp_path: Path) -> None:
    target = tmp_path / "chosen.jsonl"
    overrides = ("model=tiny", "budget.train_samples=30", "coreset=hybrid", "coreset.cache=false")
    code, output = carried_out("select", *overrides, "sft.coreset_target_size=7", f"output={target}")
    assert code == 0, output[-3000:]
    chosen = [json.loads(line) for line in target.read_text().splitlines()]
    entry = json.loads((tmp_path / "chosen.jsonl.json").read_text())
    assert [sample["id"] for sample in chosen] == entry["ids"]
    assert len(chosen) == 7
    assert "coverage" in output
    code, output = carried_out(
        *("train", "model=tiny", "budget=smoke", "data=file", f"sft.train_data={target}", "budget.train_samples=null"),
        f"sft.output_dir={tmp_path}",
    )
    assert code == 0, output[-3000:]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("coreset=best", ["best", "facility_location"]),
        ("coreset.scope=batch", ["coreset.scope must be pool"]),
        ("output=chosen.csv", ["output must be a path that ends in .jsonl"]),
        ("sft.coreset_target_size=0", ["sft.coreset_target_size must be null or at least 1"]),
        ("coreset.prune_top=1", ["coreset.prune_top must be in [0, 1)"]),
    ],
)
def test_a_mistake_of_select_is_named(override: str, expected: list[str]) -> None:
    code, text = answer_without_torch("select", override)
    assert code == 2, text
    for part in expected:
        assert part in text


@pytest.mark.parametrize(
    ("command", "override", "expected"),
    [
        ("collect", "trajectories.collector.methods=[guess]", ["trajectories.collector.methods must be some of react"]),
        ("collect", "trajectories.tasks=search:nowhere.json", ["there is no 'nowhere.json'"]),
        ("collect", "samples=trajectories.jsonl", ["output must be another file than samples, pairs and data"]),
        ("collect", "trajectories=endpoint", ["trajectories.agent.model"]),
        ("evaluate", "+evaluation.capabilities.cooking=x", ["evaluation.capabilities must be some of tool_use"]),
        ("evaluate", "evaluation.capabilities.planning=gsm8k:x", ["capabilities.planning", "measures reasoning"]),
        ("evaluate", "evaluation.samples=null", ["has no end: set evaluation.samples to a number"]),
        ("train", "+evaluation.capabilities.planning=nowhere.jsonl", ["capabilities.planning", "no such file"]),
    ],
)
def test_a_mistake_of_acting_and_measuring_is_named(command: str, override: str, expected: list[str]) -> None:
    code, text = answer_without_torch(command, override)
    assert code == 2, text
    for part in expected:
        assert part in text
