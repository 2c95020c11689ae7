"""From a folder of runs to the verdict: what is grouped, paired, tested, warned of, listed as missing, and written."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comparison_runs import BASELINE, DORA, evidence_of, start_run, tell, write_run
from sagetune.comparison import write_comparison
from sagetune.comparison.choosing import unequal_search
from sagetune.comparison.comparison import compare
from sagetune.comparison.costs import equal_budget
from sagetune.comparison.mirror import COLUMNS, mirror
from sagetune.comparison.page import headlines_of
from sagetune.comparison.verdicts import compare_items
from sagetune.comparison.wording import verdict
from sagetune.config import MethodInfo
from sagetune.evaluation.scoring.intervals import wilson
from sagetune.files import write_json
from wandb_offline import read_offline_run

LORA_PLUS = MethodInfo(id="H_lora_plus", name="LoRA+")


def sweep(folder: Path, seeds: int = 3) -> Path:
    """Two methods of which DoRA has one action in ten more right, with every seed."""
    for seed in range(seeds):
        noise = 0.01 * seed
        write_run(folder, BASELINE, seed, loss=1.0 + noise, right=[1] * 4 + [0] * 6, use_dora=False)
        write_run(folder, DORA, seed, loss=0.9 + 2 * noise, right=[1] * 5 + [0] * 5, use_dora=True, seconds=20)
    return folder


def test_means_and_paired_differences_are_those_of_the_seeds(tmp_path: Path) -> None:
    loss = evidence_of(compare(sweep(tmp_path)), "G_dora", "tokens.loss")
    assert loss.values == pytest.approx([0.9, 0.92, 0.94])
    assert loss.difference is not None
    assert loss.difference.values == pytest.approx([-0.1, -0.09, -0.08])
    assert loss.difference.interval == pytest.approx(
        (-0.09 - 4.302653 * 0.01 / 3**0.5, -0.09 + 4.302653 * 0.01 / 3**0.5)
    )
    assert (loss.difference.p, loss.difference.least_p) == (0.25, 0.25)
    assert verdict(loss) == "leans better"


def test_six_seeds_can_establish_what_three_cannot(tmp_path: Path) -> None:
    assert verdict(evidence_of(compare(sweep(tmp_path, seeds=6)), "G_dora", "tokens.loss")) == "better"


def test_tasks_that_are_solved_are_a_headline_where_a_run_learnt_from_rewards(tmp_path: Path) -> None:
    """Only such runs have the figure; what the verdicts go by is what all have."""
    for seed in range(2):
        write_run(tmp_path, BASELINE, seed, right=[1, 0])
        folder = write_run(tmp_path, MethodInfo(id="A_baseline", objective="grpo"), seed, right=[1, 1], name=f"g{seed}")
        told = json.loads(folder.result.read_text())
        rates = {name: dataclasses.asdict(wilson(3 + seed, 4)) for name in ("success", "unreadable")}
        told["after"]["rollouts"] = {"reward": 0.5, **rates, "num_attempts": 4}
        write_json(folder.result, told)
    found = compare(tmp_path)
    assert found.primary is not None
    assert found.primary.key == "actions.exact_match"
    shown = headlines_of(found)
    assert [figure.key for figure in shown] == ["actions.exact_match", "rollouts.success", "tokens.loss"]
    assert {name: one.evidence.mean for name, one in found.of(shown[1]).items()} == {"A_baseline+grpo": 0.875}
    assert "attempts task solved" in write_comparison(tmp_path).read_text()


def test_seeds_are_paired_by_their_number(tmp_path: Path) -> None:
    for seed, ours, theirs in ((0, 3.0, 2.0), (1, 7.0, 5.0), (2, 1.0, 9.0)):
        if seed != 2:
            write_run(tmp_path, BASELINE, seed, loss=theirs)
        if seed != 0:
            write_run(tmp_path, DORA, seed, loss=ours)
    loss = evidence_of(compare(tmp_path), "G_dora", "tokens.loss")
    assert loss.difference is not None
    assert (loss.difference.seeds, loss.difference.values) == ([1], [2.0])
    assert verdict(loss) == "one seed"


def test_each_item_counts_once_with_its_mean_over_seeds() -> None:
    def runs(*columns: list[float]) -> Any:
        return {
            seed: {"g": {(f"i{n}", "p", "g"): score for n, score in enumerate(column)}}
            for seed, column in enumerate(columns)
        }

    ours, theirs = runs([1, 1, 0, 1], [1, 0, 0, 1]), runs([0, 1, 0, 0], [0, 1, 0, 0])
    found = compare_items(ours, theirs)
    assert found is not None
    assert (found.num_items, found.mean) == (4, (1 - 0.5 + 0 + 1) / 4)
    assert found.p == 0.5  # of the 8 patterns of signs of (1, -0.5, 1) four give a sum at least as far from 0
    assert [(s["won"], s["lost"]) for s in found.by_seed] == [(2, 0), (2, 1)]


def test_items_that_are_not_the_same_are_not_paired() -> None:
    ours = {0: {"g": {("i0", "p", "g"): 1.0, ("i1", "p", "g"): 0.0}}}
    theirs = {0: {"g": {("i0", "another prompt", "g"): 0.0, ("i1", "p", "g"): 1.0}}}
    found = compare_items(ours, theirs)
    assert found is not None
    assert (found.num_items, found.mean) == (1, -1.0)
    assert compare_items(ours, {0: {"other": {}}}) is None


def test_the_overall_figure_weighs_each_capability_alike(tmp_path: Path) -> None:
    for method, scores in ((BASELINE, [0.0]), (DORA, [1.0])):
        write_run(tmp_path, method, 0, capabilities={"planning": scores * 10, "tool_use": [1.0, 0.0]})
    items = evidence_of(compare(tmp_path), "G_dora", "capability.overall").items
    assert items is not None
    assert (items.num_items, items.mean) == (12, 0.5)


def test_many_items_tell_apart_what_three_seeds_cannot(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for seed in range(3):
        easy = draw.random(200)
        write_run(tmp_path, BASELINE, seed, right=[int(x < 0.4) for x in easy])
        write_run(tmp_path, DORA, seed, right=[int(x < 0.6) for x in easy])
    exact = evidence_of(compare(tmp_path), "G_dora", "actions.exact_match")
    assert exact.items is not None
    assert exact.items.p_holm < 0.001
    assert exact.difference is not None
    assert exact.difference.p == 0.25


def test_holm_counts_the_capabilities_together_and_other_figures_alone(tmp_path: Path) -> None:
    for seed in range(3):
        for place, method in enumerate((BASELINE, DORA, LORA_PLUS)):
            score = [0.1 * place + 0.01 * seed * place]
            write_run(tmp_path, method, seed, loss=1 + score[0], capabilities={"planning": score, "tool_use": score})
    found = compare(tmp_path)
    for key, comparisons in (("capability.planning", 4), ("capability.overall", 2), ("tokens.loss", 2)):
        difference = evidence_of(found, "G_dora", key).difference
        assert difference is not None
        assert difference.p_holm == min(1.0, comparisons * 0.25)


@pytest.mark.parametrize(("scores", "above"), [([0.5] * 40, False), ([1.0] * 40, True), ([1.0, 0.0, 1.0], False)])
def test_a_score_is_above_chance_only_if_its_intervals_are(tmp_path: Path, scores: list[float], above: bool) -> None:
    write_run(tmp_path, BASELINE, 0, capabilities={"timing": scores}, chance=0.5)
    assert evidence_of(compare(tmp_path), "A_baseline", "capability.timing").above_level is above


def test_runs_of_one_method_and_seed_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    for rate in (1e-3, 1e-2):
        for seed in (0, 1):
            write_run(tmp_path, DORA, seed, name=f"{rate}-{seed}", learning_rate=rate, loss=rate + seed)
    write_run(tmp_path, BASELINE, 0)
    found = compare(tmp_path)
    names = ["A_baseline", "G_dora sft.learning_rate=0.001", "G_dora sft.learning_rate=0.01"]
    assert [variant.name for variant in found.variants] == names
    assert found.baseline == "A_baseline"
    assert compare(tmp_path, names[1]).baseline == names[1]
    assert [cell["variant"] for cell in found.missing] == ["A_baseline"]  # seed 1


def test_one_learning_rate_a_method_is_chosen_on_the_development_data(tmp_path: Path) -> None:
    for method, losses in ((BASELINE, {1e-3: 0.9, 1e-2: 0.5}), (DORA, {1e-3: 0.4, 1e-2: 0.8, 1e-1: 0.6})):
        for rate, loss in losses.items():
            write_run(tmp_path, method, 0, name=f"{method.id}{rate}", learning_rate=rate, loss=loss, right=[1, 0])
    found = compare(tmp_path, select="tokens.loss")
    names = ["A_baseline sft.learning_rate=0.01", "G_dora sft.learning_rate=0.001"]
    assert [variant.name for variant in found.compared] == names
    assert found.baseline == names[0]
    assert [candidate.chosen for candidate in found.candidates] == [False, True, True, False, False]
    assert unequal_search(found.candidates) == {"A_baseline": [1e-3, 1e-2], "G_dora": [1e-3, 1e-2, 1e-1]}
    page = write_comparison(tmp_path, select="tokens.loss").read_text()
    assert "The search was not equal" in page
    assert "left out" in page


def test_the_learning_rate_that_each_run_searched_for_itself_is_told(tmp_path: Path) -> None:
    for seed, rate in ((0, 3e-4), (1, 1e-3)):
        write_run(tmp_path, BASELINE, seed, found_rate=rate)
        write_run(tmp_path, DORA, seed, found_rate=3e-3)
    page = write_comparison(tmp_path).read_text()
    assert "<td>learning rate</td><td>0.0003, 0.001</td><td>0.003</td>" in page
    rows = csv.DictReader((tmp_path / "results.csv").open())
    assert [row["learning_rate"] for row in rows] == ["0.0003", "0.001", "0.003", "0.003"]


def test_what_is_reported_is_not_chosen_by(tmp_path: Path) -> None:
    write_run(tmp_path, BASELINE, 0, right=[1, 0])
    with pytest.raises(ValueError, match=r"select must be a figure of the development data \(tokens.loss, .*got 'act"):
        compare(tmp_path, select="actions.exact_match")


def test_without_one_plain_baseline_nothing_is_compared_unless_it_is_named(tmp_path: Path) -> None:
    for rate in (1e-3, 1e-2):
        write_run(tmp_path, BASELINE, 0, name=str(rate), learning_rate=rate)
    found = compare(tmp_path)
    assert found.baseline is None
    assert {verdict(one.evidence) for one in found.verdicts} == {"no baseline"}
    with pytest.raises(ValueError, match=r"baseline must be a variant .*A_baseline sft.learning_rate=0.01.*got 'dora'"):
        compare(tmp_path, "dora")


def test_of_the_same_run_twice_the_newer_counts(tmp_path: Path) -> None:
    write_run(tmp_path, BASELINE, 0, name="a", loss=1.0, time="2026-11-26T12:00:00+00:00")
    write_run(tmp_path, BASELINE, 0, name="b", loss=2.0, time="2026-11-25T12:00:00+00:00")
    variant = compare(tmp_path).variants[0]
    assert (variant.runs[0].name, variant.repeats) == ("a", ["b"])


def test_what_is_missing_is_listed_with_cause_and_command(tmp_path: Path) -> None:
    write_run(tmp_path, BASELINE, 0)
    write_run(tmp_path, BASELINE, 1)
    failed = start_run(tmp_path, DORA, 0)
    tell(failed, "failed", "RuntimeError: boom", command="sagetune go")
    found = compare(tmp_path)
    names = ("variant", "seed", "status", "reason", "command")
    assert [tuple(cell[name] for name in names) for cell in found.missing] == [
        ("G_dora", "0", "failed", "RuntimeError: boom", "sagetune go"),
        ("G_dora", "1", "absent", "there is no run folder", "the sweep's command again"),
    ]
    page = write_comparison(tmp_path).read_text()
    assert "RuntimeError: boom" in page
    assert "sagetune go" in page


@pytest.mark.parametrize(
    ("told", "stands", "reason"),
    [
        (None, "unfinished", "it never began"),
        (("failed", "ValueError: no\nand more: no"), "failed", "and more: no"),
        (("interrupted", "stopped by SIGTERM"), "interrupted", "stopped by SIGTERM"),
        (("running", None), "killed", "its process 7 is gone"),
    ],
)
def test_a_run_without_figures_tells_how_it_stands(tmp_path: Path, told: Any, stands: str, reason: str) -> None:
    folder = start_run(tmp_path, DORA, 0)
    if told:
        tell(folder, *told)
    (cell,) = compare(tmp_path).missing
    assert (cell["status"], cell["reason"]) == (stands, reason)
    assert cell["command"] == f"sagetune train resume={folder.path}"


def test_a_sweep_of_which_nothing_has_finished_has_a_report(tmp_path: Path) -> None:
    start_run(tmp_path, DORA, 0)
    page = write_comparison(tmp_path).read_text()
    assert "0 of 1 runs finished" in page
    assert "What is missing" in page


def test_runs_that_were_measured_or_made_otherwise_are_warned_of(tmp_path: Path) -> None:
    write_run(tmp_path, BASELINE, 0, capabilities={"planning": [1, 0]}, eval_data="agent_sft:dev")
    write_run(tmp_path, DORA, 0, capabilities={"planning": [1, 0, 1]}, eval_data="other.jsonl", commit="def")
    found = {row["field"]: row for row in compare(tmp_path).disagreements}
    assert set(found) == {"sft.eval_data", "items of planning", "git"}
    assert found["sft.eval_data"]["values"] == [["agent_sft:dev", ["A_baseline"]], ["other.jsonl", ["G_dora"]]]
    assert [row["what"] for row in found.values()] == ["measuring", "environment", "measuring"]


def test_what_defines_a_method_is_no_disagreement(tmp_path: Path) -> None:
    write_run(tmp_path, LORA_PLUS, 0, use_lora_plus=True, learning_rate=1e-2)
    found = compare(sweep(tmp_path))
    assert found.disagreements == []
    assert found.unequal == []


def test_the_costs_of_the_method_are_apart_from_those_of_measuring(tmp_path: Path) -> None:
    cost = compare(sweep(tmp_path)).costs["G_dora"]
    assert (cost["seconds"], cost["seconds after_tokens"]) == (22.0, 1.0)
    assert (cost["forward tokens"], cost["reused tokens"]) == (70, 30)


def test_figures_that_no_run_moves_take_one_line(tmp_path: Path) -> None:
    """The one that verdicts go by keeps its tables, whatever it says."""
    page = write_comparison(sweep(tmp_path)).read_text()
    assert "Equal in every run: token accuracy 50.0 %, turns predicted whole 25.0 %." in page
    assert "<summary>turns predicted whole" not in page
    for place, right in enumerate(([1, 0], [0, 1])):
        write_run(tmp_path / "level", (BASELINE, DORA)[place], 0, right=right)
    assert "<summary>action exact match" in write_comparison(tmp_path / "level").read_text()


def test_a_budget_that_differs_is_told_with_what_makes_it_equal() -> None:
    spent = {"A_baseline": {"steps": 10, "tokens": 900.0}, "G_dora": {"steps": 12, "tokens": 905.0}}
    (row,) = equal_budget(spent)
    assert (row["budget"], row["values"]) == ("steps", {"A_baseline": 10, "G_dora": 12})
    assert row["remedy"].startswith("budget.max_steps")


def test_the_page_is_whole_and_the_same_again(tmp_path: Path) -> None:
    path = write_comparison(sweep(tmp_path))
    page, table = path.read_text(), (tmp_path / "results.csv").read_bytes()
    assert path == tmp_path / "report.html"
    assert write_comparison(tmp_path).read_text() == page
    assert (tmp_path / "results.csv").read_bytes() == table
    for text in ("Verdict, by action exact match", "three seeds cannot give p below 0.25", "<svg", "Training loss"):
        assert text in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "<script" not in page


def test_the_files_beside_the_page_hold_every_run_and_every_figure(tmp_path: Path) -> None:
    write_comparison(sweep(tmp_path))
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["run"], row["variant"], row["seed"]) for row in rows][:2] == [
        ("A_baseline-s0", "A_baseline", "0"),
        ("A_baseline-s1", "A_baseline", "1"),
    ]
    assert float(rows[3]["tokens.loss"]) == 0.9
    found = json.loads((tmp_path / "results.json").read_text())
    dora = next(variant for variant in found["variants"] if variant["variant"] == "G_dora")
    assert dora["changes"] == {"sft.use_dora": [False, True]}
    assert dora["figures"]["tokens.loss"]["seeds"] == pytest.approx({"0": 0.9, "1": 0.92, "2": 0.94})
    assert found["tests"]["tokens.loss"] == {"comparisons": 1, "seeds": 3, "least_p": 0.25, "seeds_needed": 6}


def test_the_comparison_is_a_run_of_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = sweep(tmp_path / "sweep-1")
    mirror(folder, compare(folder))
    logged = read_offline_run(folder)
    verdicts = [dict(zip(COLUMNS, row, strict=True)) for row in logged.tables["verdicts"]["data"]]
    (loss,) = (row for row in verdicts if (row["variant"], row["figure"]) == ("G_dora", "tokens.loss"))
    assert loss["difference"] == pytest.approx(-0.09)
    assert loss["sentence"].startswith("G_dora: ")
    assert len(logged.tables["runs"]["data"]) == 6
    assert logged.summary["tokens.loss/A_baseline"] == pytest.approx(1.01)
    assert logged.exit_code == 0
    assert len(compare(folder).runs) == 6, "the mirror is no run to compare"


def test_text_of_runs_is_escaped(tmp_path: Path) -> None:
    tell(start_run(tmp_path, DORA, 0), "failed", "<script>alert(1)</script>")
    assert "<script>" not in write_comparison(tmp_path).read_text()


def sagetune_compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sagetune", "compare", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "100"})


def test_the_command_takes_the_folder_as_it_is_and_prints_table_and_sentences(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "a folder (1)")
    done = sagetune_compare(str(folder), "baseline=G_dora")
    assert done.returncode == 0, done.stderr
    assert "A_baseline: -10.0 pt on action exact match over G_dora in three seeds" in done.stdout
    assert "40.0 %" in done.stdout
    assert f"report: {folder / 'report.html'}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "folder: there is no nowhere"),
        (["."], "holds no run folder (a folder with config.yaml)"),
        ([], "folder has no value: set folder="),
        ([".", "bseline=x"], "Did you mean 'baseline'?"),
    ],
)
def test_a_mistake_is_told_with_its_fix(arguments: list[str], expected: str) -> None:
    done = sagetune_compare(*arguments)
    assert done.returncode == 2, done.stdout
    assert expected in done.stderr


def test_the_folders_that_do_hold_runs_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sweep-1", DORA, 0)
    with pytest.raises(ValueError, match=rf"{tmp_path} holds no run folder .* give one of {tmp_path}/sweep-1"):
        compare(tmp_path)
    with pytest.raises(ValueError, match="is one run; give the folder that holds the run folders"):
        compare(run.path)


def test_a_comparison_loads_no_torch() -> None:
    code = "import sys, sagetune.comparison.terminal; print([m for m in ('torch', 'lightning') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
