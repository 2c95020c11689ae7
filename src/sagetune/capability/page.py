"""Capability reports -> HTML: a radar, bars with intervals, families, sample answers with their verdicts. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from sagetune.files import write_text
from sagetune.plots import draw_bars, draw_radar

SHOWN_ANSWERS = 20
Reports = Mapping[str, Mapping[str, Any]]
"""Title, such as before and after -> CapabilityReport.to_dict()."""


def write_page(path: Path, reports: Reports) -> None:
    """One self-contained page."""
    template = files("sagetune").joinpath("templates/capabilities_page.html.jinja").read_text(encoding="utf-8")
    write_text(path, _environment().from_string(template).render(body=fragment(reports), titles=list(reports)))


def fragment(reports: Reports) -> str:
    """The part of a page that shows `reports` side by side, the last one's answers below."""
    template = files("sagetune").joinpath("templates/capabilities.html.jinja").read_text(encoding="utf-8")
    names = list(dict.fromkeys(name for report in reports.values() for name in report["scores"]))
    series = {title: [_rate(report, name) for name in names] for title, report in reports.items()}
    *_, last = reports.values()
    return (
        _environment()
        .from_string(template)
        .render(
            names=names,
            reports=reports,
            radar=draw_radar(names, {title: [rate[0] for rate in rates] for title, rates in series.items()})
            if len(names) > 2
            else "",
            bars=draw_bars("score with its 95 % interval", names, series),
            answers=answers(last),
        )
    )


def answers(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """At most SHOWN_ANSWERS answers: the capabilities take turns, and in each right and wrong ones do."""
    queues: list[list[dict[str, Any]]] = []
    for name, score in report["scores"].items():
        items = [{**item, "capability": name} for item in score["details"].get("items", [])]
        queues += [[item for item in items if item["correct"] is verdict] for verdict in (True, False)]
    shown: list[dict[str, Any]] = []
    while any(queues) and len(shown) < SHOWN_ANSWERS:
        for queue in queues:
            if queue and len(shown) < SHOWN_ANSWERS:
                shown.append(queue.pop(0))
    return shown


def _rate(report: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    score = report["scores"].get(name)
    if score is None:
        return 0.0, 0.0, 0.0
    return (score["score"], *score["details"]["interval"])


def _environment() -> Any:
    import jinja2

    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
