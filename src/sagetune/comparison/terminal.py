"""A comparison on a terminal: a row a variant, then what may be said of each."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sagetune.comparison.choosing import unequal_search
from sagetune.comparison.comparison import Comparison
from sagetune.comparison.page import headlines_of
from sagetune.comparison.verdicts import Verdict
from sagetune.comparison.wording import sentence
from sagetune.report import format_delta, format_field, format_figure


def print_comparison(console: Console, found: Comparison) -> None:
    """Print the table, the sentences on the primary figure, and what is missing or does not agree."""
    if found.primary:
        console.print(_table(found))
        for verdict in found.of(found.primary).values():
            console.print(sentence(verdict.evidence), markup=False, highlight=False, soft_wrap=True)
    if found.remedy:
        _warn(console, found.remedy)
    for row in found.disagreements:
        names = "; ".join(f"{value}: {', '.join(holders)}" for value, holders in row["values"])
        _warn(console, f"{row['field']} differs between runs ({row['what']}): {names}")
    for method, rates in unequal_search(found.candidates).items():
        _warn(console, f"{method} was tried with other learning rates than the rest: {format_field(rates)}")
    for row in found.unequal:
        spent = ", ".join(f"{name} {format_field(value)}" for name, value in row["values"].items())
        _warn(console, f"{row['budget']} are not equal: {spent}; {row['remedy']}")
    for row in found.not_finite:
        seeds = ", ".join(map(str, row["seeds"]))
        _warn(console, f"{row['figure']} is not finite for {row['variant']}, seed {seeds}: left out of the mean")
    if found.search_edges:
        _warn(console, found.search_edges)
    for cell in found.missing:
        where = f" ({cell['run']})" if cell["run"] else ""
        stands = f"{cell['status']}, {cell['reason']}; {cell['command']}"
        _warn(console, f"{cell['variant']}, seed {cell['seed']}{where}: {stands}")


def _table(found: Comparison) -> Table:
    several = any(found.baselines.values()) and found.baseline is None
    compared = "; below, the difference to the baseline with the same settings" if several else ""
    if found.baseline is not None:
        compared = f"; below, the difference to {found.baseline}"
    title = f"means over seeds ± 95 % (Student's t){compared}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("variant")
    for name in ("seeds", *(figure.label for figure in headlines_of(found)), "seconds"):
        table.add_column(name, justify="right")
    for variant in found.compared:
        cells = [_cell(found.of(figure).get(variant.name)) for figure in headlines_of(found)]
        seconds = format_field(round(found.costs[variant.name]["seconds"], 1))
        table.add_row(escape(variant.name), str(len(variant.runs)), *map(escape, cells), seconds)
    return table


def _cell(verdict: Verdict | None) -> str:
    """Such as "46.9 % ± 3.1", with the difference on a line of its own."""
    if verdict is None:
        return "–"
    evidence, form = verdict.evidence, verdict.figure.form
    text = format_figure(evidence.mean, form)
    if evidence.interval:
        half = evidence.interval[1] - evidence.mean
        text += f" ± {half:.3f}" if form == "number" else f" ± {100 * half:.1f}"
    return text + (f"\n{format_delta(evidence.difference.mean, form)}" if evidence.difference else "")


def _warn(console: Console, text: str) -> None:
    console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
