"""A comparison -> report.html, results.csv and results.json in the folder that it is of."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

from sagetune.comparison.baselines import groups_of
from sagetune.comparison.choosing import unequal_search
from sagetune.comparison.comparison import Comparison, compare, rows_of, tests, to_dict
from sagetune.comparison.drawings import curve_of, draw_costs, draw_differences, draw_losses
from sagetune.comparison.figures import HEADLINES, Figure
from sagetune.comparison.statistics import ALPHA, all_alike, ranked_seeds
from sagetune.comparison.variants import Variant
from sagetune.comparison.verdicts import Verdict
from sagetune.comparison.wording import format_p, sentence, verdict
from sagetune.files import write_json, write_text
from sagetune.report import render_page

GOOD, BAD = ("better",), ("worse",)


def write_comparison(folder: Path, baseline: str | None = None, select: str | None = None) -> Path:
    """Compare the runs whose folders lie in `folder`, and return the path of the report.

    Works on what is there: failed, unfinished and absent runs are listed. The same runs give the same bytes. Other
    arguments and errors as in `compare`.
    """
    return write(folder, compare(folder, baseline, select))


def write(folder: Path, found: Comparison) -> Path:
    """Write results.json, results.csv and report.html into `folder`; returns the path of the last."""
    write_json(folder / "results.json", to_dict(found))
    write_text(folder / "results.csv", to_csv(rows_of(found)))
    write_text(folder / "report.html", to_html(found))
    return folder / "report.html"


def to_csv(rows: list[dict[str, Any]]) -> str:
    """The rows under the names that any of them has; an empty field where a row has none."""
    written = StringIO()
    writer = csv.DictWriter(written, dict.fromkeys(name for row in rows for name in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def to_html(found: Comparison) -> str:
    """One self-contained page."""
    primary = list(found.of(found.primary).values()) if found.primary else []
    headlines = headlines_of(found)
    level = level_figures(found)
    told = [figure for figure in found.figures if figure not in level]
    return render_page(
        "comparison",
        found=found,
        sentences=[(verdict(v.evidence), sentence(v.evidence)) for v in primary],
        headlines=headlines,
        overview=[
            {"variant": variant, "cells": [found.of(f).get(variant.name) for f in headlines]}
            for variant in found.compared
        ],
        figures=[figure_view(found, figure) for figure in told],
        level=list(level.items()),
        heat=heat_of(found),
        forest=[plot for f in told for one in by_baseline(found, f) if (plot := draw_differences(one))],
        cost_plots=[draw_costs(list(found.of(figure).values()), found.costs) for figure in headlines],
        rates={variant.name: rates_of(variant) for variant in found.compared},
        cost_names=list(dict.fromkeys(name for cost in found.costs.values() for name in cost)),
        losses=losses_of(found),
        differences=changes_of(found),
        unequal_search=unequal_search(found.candidates),
        verdict_of=lambda judged: verdict(judged.evidence),
        color_of=color_of,
        p=format_p,
        alpha=ALPHA,
    )


def headlines_of(found: Comparison) -> list[Figure]:
    """The figures of HEADLINES that were measured, or the primary one alone."""
    by_key = {figure.key: figure for figure in found.figures}
    named = [by_key[key] for key in HEADLINES if key in by_key]
    return named or ([found.primary] if found.primary else [])


def level_figures(found: Comparison) -> dict[Figure, float]:
    """Figures that are equal in every run, but for the one that verdicts go by, with their value: a line for all."""
    values = {f: [v for one in found.of(f).values() for v in one.values.values()] for f in found.figures}
    return {f: given[0] for f, given in values.items() if f != found.primary and len(given) > 1 and all_alike(given)}


def figure_view(found: Comparison, figure: Figure) -> dict[str, Any]:
    """What the page shows of one figure: a row a variant, every seed, and what the tests can show at best."""
    judged = found.of(figure)
    same = {name: one for name, one in judged.items() if not one.evidence.other_items}
    seeds = sorted({seed for one in judged.values() for seed in one.values})
    untouched = [one.untouched for one in judged.values() if one.untouched is not None]
    return {
        "figure": figure,
        "seeds": seeds,
        "rows": list(judged.values()),
        "sentences": [sentence(one.evidence) for one in judged.values()],
        "tests": tests(found, figure),
        "untouched": untouched[0] if untouched else None,
        "level": next((one.evidence.level for one in judged.values() if one.evidence.level), None),
        "ranked_seeds": ranked_seeds({name: one.values for name, one in same.items()}),
        "unranked": [name for name, one in same.items() if one.rank is None],
        "other_items": [name for name in judged if name not in same],
        "by_seed": any(one.evidence.items for one in judged.values()),
    }


def heat_of(found: Comparison) -> dict[str, Any] | None:
    """Variants x capabilities, each capability shaded from its worst to its best; None without capabilities."""
    figures = [figure for figure in found.figures if figure.section == "capability"]
    if not figures:
        return None
    columns = [{name: one.evidence.mean for name, one in found.of(figure).items()} for figure in figures]
    rows = [
        {"variant": name, "cells": [_shaded(column, name) for column in columns]}
        for name in found.costs  # the variants with a result
    ]
    return {"figures": figures, "rows": rows}


def rates_of(variant: Variant) -> str:
    """The learning rate of each seed's run, or the one of all."""
    rates = [f"{run.result['learning_rate']:g}" for _, run in sorted(variant.runs.items())]
    return rates[0] if len(set(rates)) == 1 else ", ".join(rates)


def changes_of(found: Comparison) -> dict[str, dict[str, list[Any]]]:
    """Variant -> field -> [its baseline's value, its own]; without the baselines themselves."""
    told = {variant.name: found.changes_of(variant) for variant in found.variants}
    return {n: changes for n, changes in told.items() if changes is not None and found.baselines.get(n) != n}


def by_baseline(found: Comparison, figure: Figure) -> list[list[Verdict]]:
    """The verdicts on `figure`, apart by what they compare with: a drawing of differences names one baseline."""
    groups = groups_of(found.compared, found.baselines).values()
    judged = found.of(figure)
    return [[judged[variant.name] for variant in group if variant.name in judged] for group in groups]


def losses_of(found: Comparison) -> list[str]:
    """The drawing of each variant's training loss beside that of its baseline."""
    drawn = []
    by_name = {variant.name: variant for variant in found.compared}
    for baseline, members in groups_of(found.compared, found.baselines).items():
        # A baseline that is itself compared with another is drawn there; here it only stands behind the others.
        elsewhere = baseline is not None and baseline not in [variant.name for variant in members]
        behind = [by_name[baseline]] if baseline is not None and elsewhere else []
        behind = [variant for variant in behind if curve_of(list(variant.runs.values()))]
        plots = draw_losses([*members, *behind], baseline)
        drawn += plots[: len(plots) - len(behind)]
    return drawn


def color_of(word: str) -> str:
    """The class of a verdict's colour: only what is established has one."""
    return "good" if word in GOOD else "bad" if word in BAD else "soft"


def _shaded(column: dict[str, float], name: str) -> dict[str, Any]:
    if name not in column:
        return {"value": None, "shade": 0}
    span = max(column.values()) - min(column.values())
    shade = round(55 * (column[name] - min(column.values())) / span) if span else 0
    return {"value": column[name], "shade": shade}
