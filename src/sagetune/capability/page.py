"""Capability reports -> HTML and tables: a radar, bars with intervals, families, answers with verdicts. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from sagetune.files import write_text
from sagetune.plots import draw_bars, draw_radar

SHOWN_ANSWERS = 20
ANSWER_COLUMNS = ("capability", "family", "id", "prompt", "gold", "said", "score", "correct", "parse_failure", "reason")
Reports = Mapping[str, Mapping[str, Any]]
"""Title, such as before and after -> CapabilityReport.to_dict()."""


def write_page(path: Path, reports: Reports) -> None:
    """One self-contained page."""
    template = files("sagetune").joinpath("templates/capabilities_page.html.jinja").read_text(encoding="utf-8")
    write_text(path, _environment().from_string(template).render(body=fragment(reports), titles=list(reports)))


def fragment(reports: Reports) -> str:
    """The part of a page that shows `reports` side by side, the last one's answers below.

    What only some of them measured is in the table, but not drawn: there it would look like a score of 0.
    """
    template = files("sagetune").joinpath("templates/capabilities.html.jinja").read_text(encoding="utf-8")
    names = list(dict.fromkeys(name for report in reports.values() for name in report["scores"]))
    drawn = [name for name in names if all(name in report["scores"] for report in reports.values())]
    series = {title: [_rate(report["scores"][name]) for name in drawn] for title, report in reports.items()}
    *_, last = reports.values()
    return (
        _environment()
        .from_string(template)
        .render(
            names=names,
            reports=reports,
            radar=draw_radar(drawn, {title: [rate[0] for rate in rates] for title, rates in series.items()})
            if len(drawn) > 2
            else "",
            bars=draw_bars("score with its 95 % interval", drawn, series) if drawn else "",
            answers=answers(last),
        )
    )


def tables(reports: Reports) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """What the page shows, for a tracker: name -> columns and rows. Of the answers those of the last report."""
    *_, last = reports.values()
    shown = answers(last)
    found = [(name, title, score) for title, report in reports.items() for name, score in report["scores"].items()]
    rates = ["score", "low", "high", "n"]
    parts = ("parse_failure_rate", "chance")
    scores = [
        [name, title, *_rate(score), score["num_samples"], *(score["details"][part] for part in parts)]
        for name, title, score in found
    ]
    families = [
        [name, title, family, *(rate[part] for part in ("value", "low", "high", "n"))]
        for name, title, score in found
        for family, rate in score["details"]["by_family"].items()
    ]
    said = [[answer[column] for column in ANSWER_COLUMNS] for answer in shown]
    return {
        "capabilities": (["capability", "when", *rates, "unreadable", "chance"], scores),
        "capability_families": (["capability", "when", "family", *rates], families),
        "capability_answers": (list(ANSWER_COLUMNS), said),
    }


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


def _rate(score: Mapping[str, Any]) -> tuple[float, float, float]:
    return (score["score"], *score["details"]["interval"])


def _environment() -> Any:
    import jinja2

    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
