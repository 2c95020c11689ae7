"""A sweep survives its jobs: each finds its folder again, says how it stands, and costs nobody but itself."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sagetune import run as running
from sagetune import status
from sagetune.attempt import attempt
from sagetune.config import BudgetConfig, RunConfig, WandbConfig
from sagetune.interrupts import Interrupted
from sagetune.runfolder import RunFolder
from sagetune.sample import Sample
from sagetune.sweep import score
from sagetune.trainer import AgentSFTTrainer
from sagetune.untouched import measured_once, rests_on

MakeRun = Callable[..., RunConfig]
QUICK = ("model=tiny", "data=file", "budget=smoke", "evaluation.data=null", "trainer.checkpoint_every_n_steps=4")
STEPS = (
    *("budget.max_steps=null", "budget.train_samples=null"),
    *("sft.num_epochs=20", "sft.batch_size=2", "sft.gradient_accumulation_steps=2"),
)
"""Five steps a sample."""


def in_sweep(run: RunConfig) -> RunConfig:
    return dataclasses.replace(run, sweep="s")


# names


def test_a_job_finds_its_folder_again_and_another_value_has_another(make_run: MakeRun, tmp_path: Path) -> None:
    run = in_sweep(make_run())
    folder = RunFolder.create(run)
    assert folder.path.parent == tmp_path / "s"
    assert folder.path.name.startswith("custom-s0-")
    mirrored = dataclasses.replace(run, wandb=WandbConfig(mode="offline"), score="after.tokens.accuracy")
    assert RunFolder.create(mirrored).path == folder.path
    names = [folder.path.name, *(RunFolder.in_sweep(in_sweep(make_run(lora_r=rank))).path.name for rank in (2, 3))]
    names.append(RunFolder.in_sweep(dataclasses.replace(run, seed=1)).path.name)
    assert len({name.rpartition("-")[2] for name in names}) == 4


def test_a_name_of_ones_own_has_no_place_in_a_sweep(make_run: MakeRun) -> None:
    with pytest.raises(ValueError, match="run_name must be null in a sweep"):
        dataclasses.replace(in_sweep(make_run()), run_name="mine")
    with pytest.raises(ValueError, match="sweep must be the name of one folder"):
        dataclasses.replace(make_run(), sweep="../elsewhere")


# status


def test_a_run_whose_process_is_gone_was_killed(make_run: MakeRun) -> None:
    folder = RunFolder.create(in_sweep(make_run()))
    assert status.read(folder) is None
    with folder.claimed():
        status.begin(folder)
        found = status.read(folder)
        assert found is not None
        assert (found.status, found.pid) == ("running", os.getpid())
    found = status.read(folder)
    assert found is not None
    assert found.status == "killed"


def test_two_processes_are_never_at_work_in_one_folder(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = in_sweep(make_run())
    folder = RunFolder.create(run)
    with folder.claimed():
        assert attempt(folder, run) == 2
    assert "another process is at work" in capsys.readouterr().err
    assert not folder.status.exists()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("the loss is not finite"), ("failed", 1, "RuntimeError: the loss is not finite")),
        (MemoryError(), ("failed", 1, "MemoryError: ")),
        (ValueError("sft.train_data: line 3"), ("failed", 2, "sft.train_data: line 3")),
        (SystemExit(0), ("failed", 1, "SystemExit: 0")),
        (Interrupted(signal.SIGTERM), ("interrupted", 143, "stopped by SIGTERM")),
        (Interrupted(signal.SIGINT), ("interrupted", 130, "stopped by SIGINT")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_however_a_run_ends_its_folder_tells(
    error: BaseException, expected: tuple[str, int, str], make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise error

    run = in_sweep(make_run())
    folder = RunFolder.create(run)
    monkeypatch.setattr(running, "execute", fail)
    assert attempt(folder, run) == expected[1]
    found = status.read(folder)
    assert found is not None
    assert (found.status, found.exit_code, found.reason) == expected
    assert found.seconds is not None
    assert (found.traceback is None) == (found.status == "interrupted")


def test_a_sweeper_is_told_the_figure_that_its_field_score_names(make_run: MakeRun) -> None:
    run = in_sweep(make_run())
    folder = RunFolder.create(run)
    folder.result.write_text(json.dumps({"after": {"tokens": {"loss": 0.5}, "actions": None}}))
    assert score(run) == 0.5
    assert score(dataclasses.replace(run, score="after.actions.exact_match.value")) is None


# what the runs of a sweep share


@pytest.mark.parametrize("jobs_at_once", [1, 3])
def test_the_untouched_model_is_measured_once_a_sweep(jobs_at_once: int, make_run: MakeRun, tmp_path: Path) -> None:
    measured: list[Path] = []

    def measure(answers: Path) -> dict[str, Any]:
        time.sleep(0.05)
        measured.append(answers)
        answers.mkdir(parents=True)
        (answers / "planning.jsonl").write_text("{}\n")
        return {"tokens": len(measured)}

    def before(run: RunConfig) -> dict[str, Any]:
        folder = RunFolder.create(run)
        found = measured_once(run, folder, measure)
        assert (folder.answers / "before" / "planning.jsonl").is_file()
        return found

    alike = [make_run(), make_run(use_dora=True, learning_rate=1.0), make_run(lora_r=2, num_epochs=7)]
    alike = [in_sweep(dataclasses.replace(run, seed=seed)) for seed, run in enumerate(alike)]
    with ThreadPoolExecutor(jobs_at_once) as pool:
        assert list(pool.map(before, alike)) == [{"tokens": 1}] * 3
    others = [make_run(eval_data="agent_sft:dev"), make_run(use_lora=False), make_run(base_model="elsewhere")]
    assert [before(in_sweep(run)) for run in others] == [{"tokens": number} for number in (2, 3, 4)]
    assert before(dataclasses.replace(alike[0], sweep="another")) == {"tokens": 5}
    assert before(dataclasses.replace(alike[0], sweep=None)) == {"tokens": 6}
    assert measured[-1].is_relative_to(tmp_path)
    assert measured[-1].parent.name == "answers"


def test_what_is_shared_is_what_each_run_would_measure(make_run: MakeRun) -> None:
    runs = [
        make_run(eval_data="agent_sft:dev", budget=BudgetConfig(eval_samples=3)),
        make_run(eval_data="agent_sft:dev", budget=BudgetConfig(eval_samples=3, max_steps=1), use_dora=True, lora_r=2),
    ]
    runs[1] = dataclasses.replace(runs[1], seed=5)
    assert rests_on(runs[0]) == rests_on(runs[1])
    figures = [AgentSFTTrainer(run).measure("before training")["tokens"] for run in runs]
    assert figures[0] == figures[1]


def test_a_test_file_that_grows_during_a_sweep_is_measured_anew(make_run: MakeRun, tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    write_samples(held_out)
    run = in_sweep(make_run(eval_data=f"{held_out}:dev"))
    folder = RunFolder.create(run)
    assert measured_once(run, folder, lambda _: {"items": 8}) == {"items": 8}
    write_samples(held_out, 9)
    assert measured_once(run, folder, lambda _: {"items": 9}) == {"items": 9}


def test_figures_of_other_test_items_are_not_put_side_by_side(make_run: MakeRun, tmp_path: Path) -> None:
    def measured(*names: str) -> dict[str, Any]:
        verdict = {"generated": "", "exact_match": True, "parse_failure": False}
        return {"actions": {"items": [{"id": name, "task": "", "prompt": "", "gold": "", **verdict} for name in names]}}

    folder = RunFolder.create(make_run())
    with pytest.raises(ValueError, match=r"evaluation\.data: .* remove .*before\.json"):
        running.write_samples(folder, measured("a"), measured("b"))
    running.write_samples(folder, measured("a"), measured("a"))
    assert len(folder.samples.read_text().splitlines()) == 1


# sweeps


def sweep(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sagetune", "train", "-m", *QUICK, f"sft.output_dir={folder / 'out'}", *arguments]
    environment = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=folder,
        start_new_session=True,
    )


def write_samples(path: Path, num: int = 8) -> None:
    def sample(index: int) -> Sample:
        messages = [{"role": "user", "content": f"say {index}"}, {"role": "assistant", "content": f"{index}!"}]
        return {"id": str(index), "messages": messages, "tools": [], "task": "", "source": "", "meta": {}}  # type: ignore[typeddict-item]

    path.write_text("".join(json.dumps(sample(index)) + "\n" for index in range(num)))


def jobs(folder: Path) -> dict[str, RunFolder]:
    """The run folders of the one sweep in `folder`, by the data that they train on."""
    found = [RunFolder(path.parent) for path in folder.glob("out/sweep-*/*/config.yaml")]
    return {Path(OmegaConf.load(one.config).sft.train_data).stem: one for one in found}


def statuses(folder: Path) -> dict[str, str]:
    return {name: json.loads(job.status.read_text())["status"] for name, job in sorted(jobs(folder).items())}


def training(folder: Path, names: list[str], process: subprocess.Popen[str]) -> dict[str, int]:
    """The process of each of the jobs `names`, once all of them train."""

    def trains(name: str) -> bool:
        job = jobs(folder).get(name)
        return job is not None and job.metrics.is_file() and job.metrics.stat().st_size > 0

    while not all(trains(name) for name in names):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    found = {name: json.loads(jobs(folder)[name].status.read_text()) for name in names}
    assert {one["status"] for one in found.values()} == {"running"}
    return {name: one["pid"] for name, one in found.items()}


def test_fault_drill_one_raises_one_is_killed_one_is_stopped(tmp_path: Path) -> None:
    samples = {"a": 8, "b": 8, "c": 40, "d": 8, "e": 40, "f": 8}  # two train for long enough to be caught at it
    names = list(samples)
    for name, num in samples.items():
        write_samples(tmp_path / f"{name}.jsonl", num)
    (tmp_path / "b.jsonl").write_text('{"messages": [{"role": "asistant", "content": "x"}]}\n')
    swept = f"sft.train_data={','.join(f'{name}.jsonl' for name in names)}"

    process = sweep(swept, *STEPS, "hydra.launcher.n_jobs=2", folder=tmp_path)
    for name, number in (("c", signal.SIGKILL), ("e", signal.SIGTERM)):
        os.kill(training(tmp_path, [name], process)[name], number)
    output = process.communicate()[0]
    assert process.returncode == 2, output  # the first failure's
    expected = {"a": "done", "b": "failed", "c": "killed", "d": "done", "e": "interrupted", "f": "done"}
    assert statuses(tmp_path) == expected
    told = {name: json.loads(job.status.read_text()) for name, job in jobs(tmp_path).items()}
    assert [told[name]["exit_code"] for name in names] == [0, 2, -9, 0, 143, 0]
    assert "asistant" in told["b"]["traceback"]
    for name, job in jobs(tmp_path).items():
        assert job.result.exists() == (expected[name] == "done")
        assert shlex.split(told[name]["command"]) == ["sagetune", "train", f"resume={job.path}"]
        assert job.path.name in output
        assert "run folder" in job.log.read_text()
    assert "6/6" in output
    assert_compared(tmp_path, done=3)

    write_samples(tmp_path / "b.jsonl")
    before = {name: job.result.stat().st_mtime_ns for name, job in jobs(tmp_path).items() if job.result.exists()}
    process = sweep(swept, *STEPS, "hydra.launcher.n_jobs=2", folder=tmp_path)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "3 of 6 jobs are done already" in output
    assert_compared(tmp_path, done=6)
    assert set(statuses(tmp_path).values()) == {"done"}
    assert len(jobs(tmp_path)) == 6
    assert {name: jobs(tmp_path)[name].result.stat().st_mtime_ns for name in before} == before
    for name, job in jobs(tmp_path).items():
        steps = [json.loads(line)["step"] for line in job.metrics.read_text().splitlines()]
        assert steps == list(range(1, 5 * samples[name] + 1))


def assert_compared(folder: Path, *, done: int) -> None:
    """The comparison of the one sweep was made: a row a run, and a page."""
    (page,) = folder.glob("out/sweep-*/report.html")
    rows = list(csv.DictReader((page.parent / "results.csv").open()))
    assert [row["status"] for row in rows].count("done") == done
    assert len(rows) == 6
    assert "A_baseline" in page.read_text()


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1))
def test_the_command_names_any_folder_so_that_hydra_reads_it(name: str) -> None:
    override = OverridesParser.create().parse_override(f"resume={status.quoted('/' + name)}")
    value = override.value()
    assert (value.text if isinstance(value, QuotedString) else value) == "/" + name


@pytest.mark.parametrize(
    ("what", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.thorough)]
)
def test_a_stop_is_passed_on_and_all_jobs_save(what: signal.Signals, code: int, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_samples(tmp_path / f"{name}.jsonl")
    endless = ("budget.max_steps=100000", "sft.num_epochs=100000")
    process = sweep("sft.train_data=a.jsonl,b.jsonl", *endless, "hydra.launcher.n_jobs=2", folder=tmp_path)
    training(tmp_path, ["a", "b"], process)
    os.killpg(process.pid, what)  # as a terminal and `timeout` send it
    output = process.communicate()[0]
    assert process.returncode == code, output
    assert statuses(tmp_path) == {"a": "interrupted", "b": "interrupted"}
    assert all(job.checkpoint.is_file() for job in jobs(tmp_path).values())


def test_in_one_process_a_failed_job_is_told_and_the_others_are_done(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.jsonl")
    process = sweep("sft.train_data=no.jsonl,a.jsonl", "sft.lora_r=0,2", "hydra/launcher=basic", folder=tmp_path)
    output = process.communicate()[0]
    assert process.returncode == 2, output
    found = [json.loads(path.read_text()) for path in tmp_path.glob("out/sweep-*/*/status.json")]
    reasons = sorted((one["status"], one["exit_code"], (one["reason"] or "")[:35]) for one in found)
    refused = ("failed", 2, "sft.lora_r must be at least 1, got 0")
    assert [(one[0], one[1]) for one in reasons] == [("done", 0), *[("failed", 2)] * 3]
    assert [one[2] for one in reasons].count(refused[2][:35]) == 2
    assert any("sft.lora_r=0 sweep=sweep-" in one["command"] for one in found)
