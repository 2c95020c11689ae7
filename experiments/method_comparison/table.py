"""A sweep -> its comparison's page, figures, plots, and Markdown tables: table.py <folder of the sweep> <name>"""

# ruff: noqa: E402
from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
STAGES = {"s training": ("train",), "s search": ("search",), "s before": ("select", "collect", "mix")}
sys.path.insert(0, str(HERE.parent))

from tables import markdown, number, share

from sagetune.comparison.comparison import Comparison, compare
from sagetune.comparison.drawings import draw_costs, draw_differences
from sagetune.comparison.figures import Figure
from sagetune.comparison.page import rates_of, write
from sagetune.comparison.wording import format_p, sentence, verdict


def main(folder: Path, name: str) -> None:
    found = compare(folder)
    write(folder, found)
    shutil.copyfile(folder / "report.html", HERE / f"{name}.html")
    shutil.copyfile(folder / "results.csv", HERE / f"{name}.csv")
    assert found.primary is not None
    judged = list(found.of(found.primary).values())
    (HERE / f"{name}-differences.svg").write_text(draw_differences(judged))
    (HERE / f"{name}-cost.svg").write_text(draw_costs(judged, found.costs))
    print_primary(found, found.primary)
    print_figures(found)
    print_costs(found)


def print_primary(found: Comparison, figure: Figure) -> None:
    """Over seeds and over items, against the baseline."""
    rows = []
    for name, judged in found.of(figure).items():
        evidence = judged.evidence
        row = [name, share(evidence.values)]
        difference, items = evidence.difference, evidence.items
        row.append(share(difference.values, signed=True) if difference else "–")
        row.append(format_p(difference.p) if difference else "–")
        row.append(f"{share([items.mean], signed=True)} ({format_p(items.p_holm)})" if items else "–")
        rank = judged.rank
        span = str(rank.rank) if rank.low == rank.high else f"{rank.rank} ({rank.low}–{rank.high})"
        rows.append([*row, span, verdict(evidence)])
    markdown(("variant", figure.label, "− baseline", "p over seeds", "− baseline over items (p)", "rank", ""), rows)
    print()
    for judged in found.of(figure).values():
        print(f"- {sentence(judged.evidence)}")
    print()


def print_figures(found: Comparison) -> None:
    """Every capability, and the loss."""
    figures = [one for one in found.figures if one.is_capability or one.key == "tokens.loss"]
    untouched = {figure.key: next(iter(found.of(figure).values())).untouched for figure in figures}
    rows = [["untouched", *(cell(figure, [untouched[figure.key]]) for figure in figures)]]
    for variant in found.compared:
        rows.append([variant.name, *(cell(f, found.of(f)[variant.name].evidence.values) for f in figures)])
    markdown(("variant", *(figure.label for figure in figures)), rows)
    print()


def cell(figure: Figure, values: list[float]) -> str:
    return share(values) if figure.form == "share" else number(values)


def print_costs(found: Comparison) -> None:
    """Seconds are the median over the seeds, of which some shared their core; the rest are means."""
    rows = []
    for variant in found.compared:
        cost = found.costs[variant.name]
        seconds = [sum(cost.get(f"seconds {stage}", 0.0) for stage in stages) for stages in STAGES.values()]
        scored = cost.get("forward tokens", 0) + cost.get("reused tokens", 0)
        counted = (cost["steps"], cost["supervised tokens"], cost["tokens"], cost["search tokens"], scored)
        rows.append([variant.name, rates_of(variant), *(f"{s:.0f}" for s in seconds), *(f"{c:,.0f}" for c in counted)])
    names = ("learning rate by seed", *STAGES, "steps", "supervised", "tokens", "tokens search", "tokens scored")
    markdown(("variant", *names), rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
