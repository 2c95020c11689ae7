"""Capability reports: gold scores 1 and junk 0 on every kind of item, and a figure says what it rests on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from sage.libs.finetune.agent import AgentCapabilityEvaluator, CapabilityReport, CapabilityScore
from sagetune import world
from sagetune.capability.data import items_of
from sagetune.capability.items import gsm8k_item
from sagetune.capability.page import fragment, write_page
from sagetune.config import EvaluationConfig, ModelConfig
from sagetune.config.trajectories import CollectorConfig
from sagetune.models import load_model, load_tokenizer
from sagetune.trajectories.collector import TrajectoryCollector
from sagetune.trajectories.episode import BadReply, CutOff
from sagetune.trajectories.expert import ExpertAgent
from sagetune.trajectories.record import load_trajectories
from wandb_offline import read_offline_run

SUITES = Path(__file__).parents[1] / "conf/evaluation"
SHARED = Path(__file__).parents[1].parent / "shared/data"
WORLD = {
    "tool_use": "agent_benchmark:tool_selection:test",
    "planning": "agent_benchmark:planning:test",
    "reasoning": "agent_benchmark:general:test",
    "instruction_following": "agent_benchmark:general:test",
    "timing": "agent_benchmark:timing:test",
    "tool_selection": "agent_benchmark:tool_selection:test",
}
REAL = {
    "bfcl_v4/BFCL_v4_simple_python.json": "tool_use",
    "bfcl_v4/BFCL_v4_parallel_multiple.json": "tool_use",
    "bfcl_v4/BFCL_v4_live_multiple.json": "tool_use",
    "bfcl_v4/BFCL_v4_irrelevance.json": "timing",
    "seal_tools/test_in_domain.jsonl": "planning",
    "metatool/all_clean_data.csv": "tool_selection",
    "gsm8k:gsm8k/test.jsonl": "reasoning",
    "strategyqa:fireact/strategyqa/strategyqa_dev.json": "reasoning",
    "hotpotqa:fireact/hotpotqa/dev.json": "reasoning",
}
FEW = EvaluationConfig(samples=12)
PLAIN = CollectorConfig(methods=["plain"], require_success=False, bad_replies=0)


def evaluator(folder: Path | None = None, **given: Any) -> AgentCapabilityEvaluator:
    return AgentCapabilityEvaluator(EvaluationConfig(**({"samples": 12} | given)), folder=folder)


def test_the_experts_answers_are_right_in_every_capability_of_the_world() -> None:
    report = evaluator().evaluate(ExpertAgent(), WORLD)
    assert {name: score.score for name, score in report.scores.items()} == dict.fromkeys(WORLD, 1.0)
    assert {score.num_samples for score in report.scores.values()} == {12}
    assert report.overall == 1.0
    assert report.scores["planning"].details["figures"]["plan_f1"] == 1.0
    assert report.scores["timing"].details["timing"]["balanced_accuracy"]["value"] == 1.0
    assert report.scores["tool_selection"].details["selection"]["mrr"]["value"] == 1.0


@pytest.mark.parametrize("junk", ["tool:", "assistant", "{" * 400, "\ud83d", "?"])
def test_junk_scores_nothing_anywhere(junk: str) -> None:
    report = evaluator().evaluate(lambda messages, tools: junk, WORLD)
    assert {name: score.score for name, score in report.scores.items()} == dict.fromkeys(WORLD, 0.0)


def test_a_reply_that_cannot_be_read_is_told_apart_from_a_wrong_one() -> None:
    holding = evaluator().evaluate_capability(
        lambda messages, tools: "I would rather not.", "tool_use", WORLD["tool_use"]
    )
    assert (holding.score, holding.details["parse_failure_rate"]) == (0.0, 0.0)
    broken = evaluator().evaluate_capability(lambda messages, tools: 3, "tool_use", WORLD["tool_use"])
    assert (broken.score, broken.details["parse_failure_rate"]) == (0.0, 1.0)


def test_a_text_that_was_cut_off_is_judged_as_far_as_it_goes() -> None:
    class Lengthy:
        def __init__(self, fault: type[BadReply]) -> None:
            self.fault = fault

        def act(self, messages: Any, tools: Any) -> Any:
            raise self.fault("the reply was cut off after 9 tokens", "#### 18 is what I")

    item = gsm8k_item({"question": "How many?", "answer": "#### 18"}, "q")
    (cut,) = TrajectoryCollector(Lengthy(CutOff), PLAIN).attempts([item.task])
    (broken,) = TrajectoryCollector(Lengthy(BadReply), PLAIN).attempts([item.task])
    assert (cut.status, item.score(cut).score) == ("bad_reply", 1.0)
    assert (item.score(broken).score, item.score(broken).parse_failure) == (0.0, True)


@pytest.mark.parametrize("name", REAL)
def test_the_gold_answers_of_real_benchmarks_score_and_junk_does_not(name: str) -> None:
    kind, _, place = name.rpartition(":")
    if not (SHARED / place).is_file():
        pytest.skip(f"the shared data file {place} is not here")
    reference = f"{kind}:{SHARED / place}" if kind else str(SHARED / place)
    capability = REAL[name]
    gold = evaluator(samples=25).evaluate_capability(ExpertAgent(), capability, reference)
    junk = evaluator(samples=25).evaluate_capability(lambda messages, tools: "tool:", capability, reference)
    assert gold.score >= (0.95 if "bfcl" in name else 1.0)
    assert junk.score == 0.0
    assert (gold.num_samples, junk.num_samples) == (25, 25)


@pytest.mark.parametrize("suite", sorted(path.stem for path in SUITES.glob("*.yaml")))
def test_every_suite_names_data_that_is_there(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"the shared data {SHARED} are not here")
    monkeypatch.setattr("sagetune.capability.data.load_checkers", lambda benchmark: None)
    config = OmegaConf.merge(OmegaConf.load(SUITES / f"{suite}.yaml"), {"evaluation": {"folder": str(SHARED)}})
    for capability, reference in config.evaluation.capabilities.items():
        assert len(items_of(capability, reference, 26)) == 26


def test_the_summary_has_the_references_shape() -> None:
    scores = {"tool_use": (0.92, 500), "planning": (0.78, 300), "reasoning": (0.85, 400)}
    report = CapabilityReport({name: CapabilityScore(name, value, n) for name, (value, n) in scores.items()})
    assert report.summary() == (
        "Agent Capability Report\n-----------------------\nTool Use: 0.92 (n=500)\nPlanning: 0.78 (n=300)\n"
        "Reasoning: 0.85 (n=400)\nOverall: 0.85"
    )
    assert report.get_score("tool_use") == 0.92
    with pytest.raises(ValueError, match="capability must be one of tool_use, planning, reasoning, got 'timing'"):
        report.get_score("timing")
    assert json.loads(json.dumps(report.to_dict()))["scores"]["planning"]["num_samples"] == 300


def test_a_stopped_evaluation_asks_only_what_is_missing(tmp_path: Path) -> None:
    asked: list[str] = []

    def agent(messages: list[Any], tools: list[Any]) -> str:
        asked.append(messages[-1]["content"])
        return "No."

    whole = evaluator(tmp_path).evaluate_capability(agent, "reasoning", WORLD["reasoning"])
    path = tmp_path / "reasoning.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:40])
    asked.clear()
    again = evaluator(tmp_path).evaluate_capability(agent, "reasoning", WORLD["reasoning"])
    assert len(asked) == 7
    assert again.details["items"] == whole.details["items"]
    with pytest.raises(ValueError, match="was collected otherwise"):
        evaluator(tmp_path, max_new_tokens=9).evaluate_capability(agent, "reasoning", WORLD["reasoning"])


def test_the_answers_of_another_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    def measure(model: str) -> float:
        config, agent = EvaluationConfig(samples=3), ExpertAgent(0.0 if model == "good" else 1.0)
        asking = AgentCapabilityEvaluator(config, folder=tmp_path, who={"model": model})
        return asking.evaluate_capability(agent, "tool_use", WORLD["tool_use"]).score

    assert measure("good") == 1.0
    with pytest.raises(ValueError, match=r"who was \{'model': 'good'\}, is \{'model': 'bad'\}"):
        measure("bad")


@pytest.mark.parametrize("capability", ["instruction_following", "reasoning", "planning"])
def test_a_capability_that_few_tasks_ask_for_gets_as_many_items_all_the_same(capability: str) -> None:
    few, many = (items_of(capability, "agent_sft:test", num) for num in (5, 30))
    assert (len(few), len(many)) == (5, 30)
    assert [item.id for item in few] == [item.id for item in many[:5]]


def test_what_the_infrastructure_broke_does_not_count() -> None:
    def agent(messages: list[Any], tools: list[Any]) -> str:
        if "euros" in messages[-1]["content"]:
            raise ConnectionError("no route to host")
        return "No."

    score = evaluator().evaluate_capability(agent, "reasoning", WORLD["reasoning"])
    assert score.details["broken"] > 0
    assert score.num_samples == 12 - score.details["broken"]


def test_several_attempts_give_pass_k() -> None:
    """Right in every second attempt at each item: pass^1 is 1/2, and no pair is right twice."""
    number = [0]

    def agent(messages: list[Any], tools: list[Any]) -> str:
        number[0] += 1
        return "yes" if number[0] % 2 else "no"

    def question(n: int) -> dict[str, Any]:
        turns = [{"role": "user", "content": f"Is {n} even?"}, {"role": "assistant", "content": "yes"}]
        return {"id": f"q{n}", "source": "t", "task": "", "meta": {}, "tools": [], "messages": turns}

    config = EvaluationConfig(attempts=2, temperature=1.0, batch_size=1)
    score = AgentCapabilityEvaluator(config).evaluate_capability(agent, "reasoning", [question(n) for n in range(6)])
    assert 0 < score.score < 1
    assert score.details["pass_k"]["1"] == pytest.approx(score.score)
    assert score.details["pass_k"]["2"] <= score.details["pass_k"]["1"]


def test_a_figure_changes_its_hashes_with_what_it_rests_on() -> None:
    def hashes(**given: Any) -> dict[str, str]:
        return evaluator(**given).evaluate_capability(ExpertAgent(), "tool_use", WORLD["tool_use"]).details["hashes"]

    one = hashes()
    assert hashes() == one
    assert hashes(samples=11)["data"] != one["data"]
    decoded = hashes(max_new_tokens=99)
    assert decoded["decoding"] != one["decoding"]
    assert decoded["prompts"] == one["prompts"]


def test_data_that_does_not_ask_for_a_capability_is_refused() -> None:
    with pytest.raises(ValueError, match="capability must be one of tool_use, planning"):
        evaluator().evaluate_capability(ExpertAgent(), "cooking", WORLD["tool_use"])
    with pytest.raises(ValueError, match="has no item that asks for it"):
        items_of("planning", "agent_benchmark:general:test", 3)
    with pytest.raises(ValueError, match=re.escape("measures reasoning, not planning")):
        items_of("planning", "gsm8k:test.jsonl", 3)
    with pytest.raises(ValueError, match=r"has no end: set evaluation\.samples to a number"):
        items_of("planning", WORLD["planning"], None)
    said = {"role": "assistant", "content": "Hello."}
    greeting = {"id": "simple_talk", "source": "t", "task": "", "meta": {}, "tools": []}
    for capability in ("planning", "tool_use", "tool_selection"):
        with pytest.raises(ValueError, match=r"simple_talk.*its answer calls no tool"):
            items_of(capability, [greeting | {"messages": [{"role": "user", "content": "Hi"}, said]}])
    with pytest.raises(ValueError, match="does not ask for it"):
        items_of("planning", world.generate("general", "test", 3))


def test_a_model_that_cannot_write_a_call_yet_can_prefer_one() -> None:
    model = load_model("embedded:tiny", ModelConfig(dtype="float32"))
    tokenizer = load_tokenizer("embedded:tiny", ModelConfig())
    chooser = evaluator(how="likelihood", samples=6)
    score = chooser.evaluate_capability((model, tokenizer), "tool_selection", WORLD["tool_selection"])
    assert score.details["how"] == "likelihood"
    assert 0 < score.details["chance"] < 1
    assert 0 <= score.details["figures"]["mrr"] <= 1
    with pytest.raises(ValueError, match="give no replies to choose from"):
        chooser.evaluate_capability((model, tokenizer), "planning", WORLD["planning"])
    with pytest.raises(ValueError, match="no local model"):
        chooser.evaluate_capability(ExpertAgent(), "tool_selection", WORLD["tool_selection"])


def test_the_page_shows_radar_bars_families_and_answers(tmp_path: Path) -> None:
    report = evaluator().evaluate(ExpertAgent(0.4), WORLD).to_dict()
    part = fragment({"before": report, "after": report})
    assert part.count("<svg") == 2
    for text in ("tool use", "overall", "by family", ">right<", ">wrong<", "before", "after"):
        assert text in part
    assert part.count('class="card sample"') == 20
    write_page(tmp_path / "report.html", {"expert": report})
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_what_only_one_report_measured_is_in_the_table_and_not_drawn_as_nothing() -> None:
    both = evaluator().evaluate(ExpertAgent(), {name: WORLD[name] for name in ("tool_use", "timing")}).to_dict()
    one = evaluator(samples=3).evaluate(ExpertAgent(), {"tool_use": WORLD["tool_use"]}).to_dict()
    part = fragment({"before": both, "after": one})
    chart = part[part.index("<svg") : part.index("</svg>")]
    assert "tool use" in chart
    assert "timing" not in chart
    table = part[: part.index("<svg")]
    assert "<td>timing</td>" in table
    assert ("<td>12</td>" in table, "<td>3</td>" in table) == (True, True)


def test_the_answers_are_written_as_they_are_given(tmp_path: Path) -> None:
    evaluator(tmp_path).evaluate(ExpertAgent(), {"planning": WORLD["planning"]})
    answers = load_trajectories(tmp_path / "planning.jsonl")
    assert len(answers) == 12
    assert all(len(answer.messages) > 2 for answer in answers)


@pytest.mark.thorough
def test_a_run_measures_capabilities_before_and_after(tmp_path: Path) -> None:
    overrides = (
        "model=tiny",
        "budget=smoke",
        "evaluation=quick",
        "evaluation.samples=2",
        "evaluation.max_new_tokens=4",
    )
    place = (f"sft.output_dir={tmp_path}", "run_name=r")
    command = [sys.executable, "-m", "sagetune", "train", *overrides, *place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    for when in ("before", "after"):
        scores = result[when]["capabilities"]["scores"]
        assert list(scores) == ["tool_use", "planning", "reasoning", "instruction_following"]
        assert all("items" not in score["details"] for score in scores.values())
        assert {path.name for path in (tmp_path / "r" / "answers" / when).glob("*.jsonl")} == {
            f"{name}.jsonl" for name in scores
        }
    assert "capability: tool use" in done.stdout
    assert "<h2>Capabilities</h2>" in (tmp_path / "r" / "report.html").read_text()
    mirrored = read_offline_run(tmp_path / "r")
    score = result["after"]["capabilities"]["scores"]["tool_use"]
    assert mirrored.summary["capability/tool_use"] == score["score"]
    table = mirrored.tables["capabilities"]
    assert table["columns"][:6] == ["capability", "when", "score", "low", "high", "n"]
    assert ["tool_use", "after", score["score"], *score["details"]["interval"], 2] in [row[:6] for row in table["data"]]
    assert {"capability_families", "capability_answers"} <= set(mirrored.tables)
    assert len(mirrored.tables["capability_answers"]["data"]) == 8
    assert any("capability_scores" in name for row in mirrored.history for name in row)
