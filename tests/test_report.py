"""What a run leaves for people: the table, the page, and the facts about the machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sagetune import report
from sagetune.config import AgentSFTConfig, MethodInfo, RunConfig
from sagetune.files import write_json
from sagetune.runfolder import RunFolder


def rate(value: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": value - 0.02, "high": value + 0.03, "n": n}


def measured(loss: float, exact_match: float) -> dict[str, Any]:
    """What result.json holds under "before" and "after"."""
    tokens = {"loss": loss, "accuracy": 0.5, "perplexity": 9.0, "exact_match": 0.25}
    rates = ("exact_match", "name_accuracy", "argument_accuracy", "decision_accuracy", "parse_failure_rate")
    tasks = {task: {"exact_match": rate(exact_match, 20)} for task in ("planning", "timing")}
    shares = {name: rate(exact_match, 8) for name in ("success", "unreadable")}
    return {
        "rollouts": {"reward": -loss, **shares, "num_attempts": 8},
        "tokens": {**tokens, "num_samples": 10, "num_turns": 20, "num_tokens": 300},
        "actions": {"n": 40, **{name: rate(exact_match, 40) for name in rates}, "by_task": tasks},
        "preferences": {"loss": loss, "margin": -loss, "likelier": exact_match, "num_pairs": 12},
    }


RESULT = {
    "status": "done",
    "method": {"id": "dora", "name": "DoRA", "description": "", "source": "arXiv:2402.09353"},
    "seed": 0,
    "steps": 3,
    "tokens": 12345,
    "before": measured(2.5, 0.05),
    "after": measured(0.5, 0.45),
    "baselines": {"chance": 0.125},
    "costs": {"train": 12.5},
    "data": {"train": {"read": 10, "used": 9}},
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A finished run's files."""
    run = RunConfig(
        sft=AgentSFTConfig("tiny", "data", output_dir=tmp_path), method=MethodInfo(name="DoRA"), run_name="r"
    )
    folder = RunFolder.create(run)
    write_json(folder.result, RESULT)
    write_json(
        folder.environment, {"time": "2026-11-23", "python": "3.11.7", "versions": {"torch": "2.13.0"}, "git": None}
    )
    metrics = [{"step": step, "train/loss": 1 / step, "train/lr": 1e-3} for step in (1, 2, 3)]
    metrics.append({"step": 3, "eval/loss": 0.6, "eval/perplexity": None})
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in metrics))
    folder.samples.write_text("".join(json.dumps(sample(n, n % 2 > 0)) + "\n" for n in range(30)))
    return folder


def sample(index: int, right: bool) -> dict[str, Any]:
    before = {"before_generated": "", "before_exact_match": False, "before_parse_failure": True}
    after = {"after_generated": "<script>alert(1)</script>", "after_exact_match": right, "after_parse_failure": False}
    return {"id": f"s{index}", "task": "timing", "prompt": "p", "gold": "<tool_call>", **before, **after}


def test_rows_hold_each_figure_with_its_change_and_count() -> None:
    rows = {row["figure"]: row for row in report.before_after_rows(RESULT)}
    assert len(rows) == len(report.FIGURES)
    assert (rows["loss, nats a token"]["delta"], rows["loss, nats a token"]["n"]) == (-2.0, 300)
    exact = rows["action: exact match"]
    assert (exact["before"], exact["after"], exact["n"]) == (0.05, 0.45, 40)
    assert exact["after_interval"] == [0.45 - 0.02, 0.45 + 0.03]
    reward = rows["attempts: reward"]
    assert (reward["before"], reward["after"], reward["n"]) == (-2.5, -0.5, 8)
    margin = rows["pairs: reward margin"]
    assert (margin["before"], margin["after"], margin["n"]) == (-2.5, -0.5, 12)


def test_what_was_not_measured_has_no_row() -> None:
    others = dict.fromkeys(("actions", "preferences", "rollouts"))
    only_tokens = {when: measured(1.0, 0.0) | others for when in ("before", "after")}
    assert [row["figure"] for row in report.before_after_rows(only_tokens)] == [
        "loss, nats a token",
        "token accuracy",
        "turns predicted whole",
    ]
    assert report.before_after_rows({"before": None, "after": None}) == []


def test_the_printed_table_fits_into_80_columns_uncut() -> None:
    text = StringIO()
    report.print_before_after(Console(file=text, width=80), RESULT)
    assert re.search(r"action: exact match +5\.0 % \[3–8\] +45\.0 % \[43–48\] +\+40\.0 pt +40", text.getvalue())
    assert "…" not in text.getvalue()
    assert "chance 12.5 %" in text.getvalue()


def test_the_tracker_table_has_a_value_for_every_column() -> None:
    columns, rows = report.before_after_table(RESULT)
    assert {len(row) for row in rows} == {len(columns)}


def test_the_page_holds_table_curves_samples_and_configuration(folder: RunFolder) -> None:
    page = report.write_html(folder.path).read_text(encoding="utf-8")
    for expected in ("45.0 % [43–48]", "+40.0 pt", "chance 12.5 %", "base_model: tiny", "12,345", "torch 2.13.0"):
        assert expected in page
    assert page.count("<svg") == 2  # loss and learning rate: what was logged
    assert page.count('class="card sample"') == report.SHOWN_SAMPLES


STREAM = {
    "kind": "sequential",
    "tasks": ["mail", "bank"],
    "matrices": {"loss": [[2.0, 3.0], [1.0, 2.5], [1.5, 0.5]], "exact_match": [[0.0, 0.0], [0.5, 0.0], [0.25, 1.0]]},
    "figures": {
        "loss": {"average": -1.0, "backward_transfer": -0.5, "forgetting": 0.5, "forward_transfer": 0.5},
        "exact_match": {"average": 0.625, "backward_transfer": -0.25, "forgetting": None, "forward_transfer": 0.0},
    },
}


def test_a_stream_is_shown_as_shaded_table_and_curves(folder: RunFolder) -> None:
    replay = {"rows": 7, "seconds": 0.5, "own_answers": 0, "buffer": {"samples": 3, "bytes": 99, "tasks": {"mail": 3}}}
    write_json(folder.result, {**RESULT, "stream": STREAM, "replay": replay})
    page = report.write_html(folder.path).read_text()
    assert "Tasks one after the other" in page
    rows = re.findall(r"<tr><td>((?:untouched|after \w+))</td>(.*?)</tr>", page)
    assert [name for name, _ in rows] == ["untouched", "after mail", "after bank"] * 2
    shades = [[int(shade) for shade in re.findall(r"series-1\) (\d+)%", cells)] for _, cells in rows]
    assert shades[:3] == [[22, 0], [44, 11], [33, 55]], "the lowest loss is the darkest"
    assert shades[3:] == [[0, 0], [28, 0], [14, 55]]
    assert "forgetting +0.500" in page
    assert "forgetting None" not in page
    assert page.count("tasks learnt") == 2
    assert "Replayed 7 rows" in page


def test_the_figures_of_a_stream_are_printed() -> None:
    console = Console(file=StringIO(), width=100)
    report.print_stream(console, {**RESULT, "stream": STREAM})
    text = console.file.getvalue()
    assert re.search(r"minus loss +-1.000 +-0.500 +\+0.500 +\+0.500", text)
    assert re.search(r"exact match +\+0.625 +-0.250 +– +\+0.000", text)
    report.print_stream(console, RESULT)
    report.print_stream(console, {**RESULT, "stream": None})
    assert console.file.getvalue() == text


def test_the_page_loads_nothing_and_runs_nothing(folder: RunFolder) -> None:
    page = report.write_html(folder.path).read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!#)|url\((?!#)|@import|<script""", page)
    assert "&lt;script&gt;" in page


def test_the_same_files_give_the_same_bytes(folder: RunFolder) -> None:
    first = report.write_html(folder.path).read_bytes()
    assert report.write_html(folder.path).read_bytes() == first


def test_what_a_model_wrote_may_hold_the_separators_that_are_no_end_of_a_line(folder: RunFolder) -> None:
    odd = sample(0, True) | {"after_generated": "one\u2028two\u0085three"}
    folder.samples.write_text(json.dumps(odd, ensure_ascii=False) + "\n", encoding="utf-8")
    assert "one\u2028two\u0085three" in report.write_html(folder.path).read_text(encoding="utf-8")


def test_what_the_model_did_on_held_out_tasks_is_part_of_the_mirrored_summary(folder: RunFolder) -> None:
    from sagetune.run import mirror

    told: dict[str, Any] = {}
    tracker: Any = SimpleNamespace(table=lambda *_: None, bars=lambda *_: None, summary=told.update)
    stages = dict.fromkeys(("stream", "mixture", "trajectories", "replay"))
    mirror(tracker, folder, RESULT | stages | {"final_loss": 0.5, "seconds": 1.0})
    assert {name: told[name] for name in RESULT["after"]} == RESULT["after"]


def test_samples_shown_are_of_every_kind() -> None:
    rows = [{"before_exact_match": n == 7, "after_exact_match": n == 9} for n in range(10)]
    assert [row["kind"] for row in report.pick_samples(rows, 4)] == ["learnt", "lost", "still wrong", "still wrong"]


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"loss": float("nan"), "tokens": [1, float("inf")]})
    assert json.loads(path.read_text()) == {"loss": None, "tokens": [1, None]}
    with pytest.raises(TypeError):
        write_json(path, {"model": object()})
    assert json.loads(path.read_text())["tokens"] == [1, None]
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_goes_on_elsewhere_tells_of_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    for commit in ("a", "a", "b", "b"):
        monkeypatch.setattr(report, "_git", lambda _, commit=commit: {"commit": commit})
        report.record_environment(folder)
    found = json.loads(folder.environment.read_text())
    assert found["git"]["commit"] == "b"
    assert [one["git"]["commit"] for one in found["earlier"]] == ["a"]


def test_environment_names_versions_and_machine() -> None:
    facts = report.environment()
    assert facts["versions"]["torch"].startswith("2.")
    assert facts["cores"] >= 1
    assert facts["git"] is None or re.fullmatch("[0-9a-f]{40}", facts["git"]["commit"])
    json.dumps(facts)


def test_reading_a_report_does_not_import_torch() -> None:
    code = "import sys, sagetune.report; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(report.__file__).parents[1])})


def test_a_change_too_small_for_three_digits_does_not_read_as_none() -> None:
    written = [report.format_delta(value, "number") for value in (0.0, 0.0004, -0.00004, 0.0005, -1.25)]
    assert written == ["+0.000", "+4e-04", "-4e-05", "+0.001", "-1.250"]
    assert report.format_delta(-0.031, "share") == "-3.1 pt"
    assert report.format_delta(0.1 + 0.2 - 0.3 - 1e-16, "share") == report.format_delta(-1e-17, "share") == "+0.0 pt"
