"""`sagetune doctor` finds the six defects of FireAct's published data, each by name and count, and removes them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sagetune import fireact_doctor, inspection, world
from sagetune.commands.doctor import DoctorConfig, doctor
from sagetune.config import AgentSFTConfig, BudgetConfig
from sagetune.config.trajectories import CollectorConfig
from sagetune.fireact_doctor import FAULTS, NOTES, REMEDIES, find, questions, summary
from sagetune.formats.fireact import from_fireact
from sagetune.sources import load
from sagetune.trajectories.collector import TrajectoryCollector
from sagetune.trajectories.convert import TrajectoryToSFTConverter
from sagetune.trajectories.expert import ExpertAgent

RELEASE = Path(__file__).parents[1].parent / "shared/data/fireact"
needs_release = pytest.mark.skipif(not RELEASE.is_dir(), reason=f"FireAct's release is not at {RELEASE}")
MULTITASK = {
    "raw_observation": 2063,
    "long_run": 114,  # 5.5 %
    "contaminated": 59,
    "failed_run": 49,
    "mixed_rewards": 1,
}


def record(question: str, reward: str, output: str = "") -> dict[str, Any]:
    text = f"{output}Thought: a\nAction: finish[b]\nObservation: Episode finished, reward = {reward}\n"
    return {"instruction": question, "input": "", "output": text}


def read(name: str) -> list[Any]:
    return load(str(RELEASE / name), num_samples=None).samples


def counts(name: str, against: str | None = None) -> dict[str, int]:
    evaluated = questions(RELEASE / against) if against else None
    return dict(Counter(finding.kind for finding in find(read(name), evaluated)))


def test_every_defect_has_a_meaning_and_a_remedy() -> None:
    assert set(FAULTS | NOTES) <= set(REMEDIES)
    assert not set(FAULTS | NOTES) & set(inspection.MEANINGS)


def test_small_records_show_each_defect() -> None:
    records = [
        record("One  more?", "True"),
        record("Which?", "1", "A. x\nB. y\n"),
        record("Which?", "0"),
        record("Long?", "1", f"Thought: {'x' * 3000}\nAction: search[x]\nObservation: y\n"),
    ]
    samples = [from_fireact(given) | {"id": str(number)} for number, given in enumerate(records)]
    found = [(finding.kind, finding.sample_id) for finding in find(samples, {"one more?"})]  # type: ignore[arg-type]
    assert sorted(found) == [
        ("contaminated", "0"),
        ("failed_run", "2"),
        ("long_run", "3"),
        ("mixed_rewards", ""),
        ("prompt_in_output", "1"),
        *(("raw_observation", str(number)) for number in range(4)),
        ("shared_instruction", "2"),
    ]


def test_questions_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Question,Answer\nWho?,x\n")
    (tmp_path / "a.jsonl").write_text('{"question": "Who ?"}\n')
    (tmp_path / "a.json").write_text(json.dumps([record("WHO?", "1")]))
    (tmp_path / "b.json").write_text("[{}]")
    assert [questions(tmp_path / f"a.{kind}") for kind in ("csv", "jsonl", "json")] == [{"who?"}, {"who ?"}, {"who?"}]
    with pytest.raises(ValueError, match="no record has one of question"):
        questions(tmp_path / "b.json")


@needs_release
def test_the_defects_of_the_release() -> None:
    evaluation = "strategyqa/strategyqa_dev.json"
    alpaca = counts("finetune/alpaca_format/multitask_multimethod.json", evaluation)
    # 713 = the choices of 712 questions of MMLU, and one question of StrategyQA that is asked once more.
    assert alpaca == MULTITASK | {"prompt_in_output": 713, "shared_instruction": 293}
    # A question of MMLU has the same words but other choices, which this form keeps with it.
    assert counts("finetune/gpt_format/multitask_multimethod.jsonl", evaluation) == MULTITASK | {
        "shared_instruction": 292
    }
    assert counts("finetune/alpaca_format/hotpotqa_multimethod.json", "hotpotqa/dev.json") == {
        "raw_observation": 734,
        "long_run": 46,
        "failed_run": 40,
        "shared_instruction": 11,
        "mixed_rewards": 1,
    }


@needs_release
def test_the_details_of_the_release() -> None:
    samples = read("finetune/alpaca_format/multitask_multimethod.json")
    findings = find(samples, questions(RELEASE / "strategyqa/strategyqa_dev.json"))
    details = {kind: [f.detail for f in findings if f.kind == kind] for kind in FAULTS | NOTES}
    assert details["mixed_rewards"] == ["0: 9, 1: 1507, False: 40, True: 507"]
    assert len(set(details["contaminated"])) == 55
    assert sum(detail[1:].startswith("A. ") for detail in details["prompt_in_output"]) == 712
    led = [sample for sample in samples if "lead" in sample["meta"]["fireact"]]
    assert sum(sample["meta"]["method"] == "react" for sample in led) == 456
    assert Counter(f.kind for f in inspection.find(samples))["duplicate"] == 1
    hotpotqa = read("finetune/alpaca_format/hotpotqa_multimethod.json")
    told = "cot: 187 runs, 0 failed; react: 500 runs, 0 failed; reflexion: 47 runs, 40 failed"
    assert summary(hotpotqa, find(hotpotqa)) == told
    turns = find(read("finetune/gpt_format/multitask_multimethod.jsonl"))
    assert sum("as a reply" in f.detail for f in turns if f.kind == "raw_observation") == 5


def test_the_command_drops_what_it_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = tmp_path / "a.json", tmp_path / "clean.jsonl"
    path.write_text(json.dumps([record("Who?", "True"), record("What?", "0"), record("Which?", "1")]))
    (tmp_path / "dev.csv").write_text("Question\nWhich?\n")
    given = {
        "sft": AgentSFTConfig(base_model="embedded:tiny", train_data=str(path)),
        "budget": BudgetConfig(train_samples=None),
        "against": str(tmp_path / "dev.csv"),
        "output": str(output),
    }
    assert doctor(DoctorConfig(**given, drop=["failed_run", "contaminated"])) == 1
    out = capsys.readouterr().out
    assert f"failed_run: 1  {FAULTS['failed_run']}\n  a:2 react, reward = 0\n  remedy: drop=[failed_run]" in out
    assert f"contaminated: 1  {FAULTS['contaminated']}\n  a:3 which?" in out
    assert "react: 3 runs, 1 failed" in out
    kept = load(str(output), num_samples=None).samples
    assert [sample["id"] for sample in kept] == ["a:1"]
    assert doctor(DoctorConfig(sft=given["sft"], budget=given["budget"], output=str(output), drop=["fail"])) == 2
    assert "drop must name kinds of findings" in capsys.readouterr().err
    with pytest.raises(ValueError, match="drop must be empty unless output is set"):
        DoctorConfig(sft=given["sft"], drop=["failed_run"])
    again = AgentSFTConfig(base_model="embedded:tiny", train_data=str(output))
    assert doctor(DoctorConfig(sft=again, budget=given["budget"], against=given["against"])) == 0


def test_samples_of_other_formats_are_compared_with_the_evaluation_file_only() -> None:
    sample = {"id": "s", "messages": [{"role": "user", "content": "Who?"}], "meta": {}}
    assert [finding.kind for finding in find([sample], {"who?"})] == ["contaminated"]  # type: ignore[list-item]
    assert fireact_doctor.summary([sample], []) == ""  # type: ignore[list-item]


def test_rewards_of_collected_trajectories_are_numbers_and_nothing_to_find() -> None:
    tasks = world.generate("tool_selection", "train", 6)
    trajectories = TrajectoryCollector(ExpertAgent(error_rate=0.5), CollectorConfig(require_success=False)).collect(
        tasks
    )
    samples: list[Any] = TrajectoryToSFTConverter().convert(trajectories)
    assert {type(one["meta"]["reward"]) for one in samples} == {float}
    assert find(samples) == []
