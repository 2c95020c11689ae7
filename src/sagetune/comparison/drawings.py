"""The plots of a comparison: differences to the baseline, score against cost, loss curves over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sagetune.comparison.costs import Cost
from sagetune.comparison.runs import Run
from sagetune.comparison.variants import Variant
from sagetune.comparison.verdicts import Verdict
from sagetune.plots import HEIGHT, INK, SERIES_COLORS, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.3  # inches of height that a further variant takes
CURVE = "train/loss"
Curve = list[tuple[int, float, float, float]]
"""(optimiser step, mean, lowest, highest) over the seeds."""


def draw_differences(verdicts: Sequence[Verdict]) -> str:
    """A forest plot of one figure: each variant's difference to the baseline; "" if there is none."""
    compared = [verdict for verdict in verdicts if verdict.evidence.difference or verdict.evidence.items]
    if not compared:
        return ""
    first = compared[0]
    return svg(
        first.figure.label,
        partial(_draw_differences, verdicts=compared),
        height=HEIGHT + ROW * max(0, len(compared) - 5),
    )


def draw_costs(verdicts: Sequence[Verdict], costs: Mapping[str, Cost]) -> str:
    """The figure of each variant, with its interval over seeds, against the seconds of its own stages."""
    return svg(f"{verdicts[0].figure.label} against cost", partial(_draw_costs, verdicts=verdicts, costs=costs))


def draw_losses(variants: Sequence[Variant], baseline: str | None) -> list[str]:
    """The training loss of each variant, with the range over its seeds, beside the baseline's; one SVG each."""
    curves = {variant.name: curve_of(list(variant.runs.values())) for variant in variants}
    behind = curves.get(baseline or "", [])
    return [
        svg(name, partial(_draw_losses, curve=curve, behind=[] if name == baseline else behind, baseline=baseline))
        for name, curve in curves.items()
        if curve
    ]


def curve_of(runs: Sequence[Run]) -> Curve:
    """The loss at the steps that all `runs` have."""
    losses = [{row["step"]: row[CURVE] for row in run.metrics if row.get(CURVE) is not None} for run in runs]
    steps = [step for step in losses[0] if all(step in found for found in losses)]
    values = [[found[step] for found in losses] for step in steps]
    return [(step, sum(v) / len(v), min(v), max(v)) for step, v in zip(steps, values, strict=True)]


def _draw_differences(axes: Axes, verdicts: Sequence[Verdict]) -> None:
    scale = 100 if verdicts[0].figure.form == "share" else 1
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, verdict in enumerate(verdicts):
        difference, items = verdict.evidence.difference, verdict.evidence.items
        if difference:
            ends = difference.interval or (difference.mean, difference.mean)
            _draw_interval(axes, row - 0.15, difference.mean, ends, scale, 0)
            axes.plot([scale * v for v in difference.values], [row - 0.15] * len(difference.values), "|", color=INK)
        if items:
            _draw_interval(axes, row + 0.15, items.mean, items.interval, scale, 1)
    for color, name in zip(SERIES_COLORS, ("over seeds", "over test items"), strict=True):
        axes.plot([], [], "o-", color=color, markersize=4, label=name)
    axes.set_yticks(range(len(verdicts)), [verdict.evidence.variant for verdict in verdicts])
    unit = "points" if scale == 100 else "nats"
    axes.set_xlabel(f"{unit} over {verdicts[0].evidence.baseline}; {verdicts[0].figure.better} is better", color=INK)
    axes.set_ylim(len(verdicts) - 0.4, -1.1)  # the first on top, under the legend
    axes.legend(frameon=False, labelcolor=INK, fontsize=7, ncols=2, loc="upper right")


def _draw_interval(axes: Axes, row: float, mean: float, ends: tuple[float, float], scale: float, series: int) -> None:
    color = SERIES_COLORS[series]
    axes.plot([scale * end for end in ends], [row, row], color=color, linewidth=1.5)
    axes.plot([scale * mean], [row], "o", color=color, markersize=4)


def _draw_costs(axes: Axes, verdicts: Sequence[Verdict], costs: Mapping[str, Cost]) -> None:
    scale = 100 if verdicts[0].figure.form == "share" else 1
    for verdict in verdicts:
        evidence, seconds = verdict.evidence, costs[verdict.evidence.variant]["seconds"]
        color = SERIES_COLORS[evidence.variant == evidence.baseline]
        if evidence.interval:
            axes.plot([seconds] * 2, [scale * end for end in evidence.interval], color=color, linewidth=1, alpha=0.6)
        axes.plot([seconds], [scale * evidence.mean], "o", color=color, markersize=5)
        at, shift = (seconds, scale * evidence.mean), (5, 4)
        axes.annotate(evidence.variant, at, shift, textcoords="offset points", fontsize=7, color=INK)
    axes.margins(x=0.3, y=0.15)
    axes.set_xlabel("seconds a run: search, training, selection, collection, mixing", color=INK)
    axes.set_ylabel("%" if scale == 100 else verdicts[0].figure.label, color=INK)


def _draw_losses(axes: Axes, curve: Curve, behind: Curve, baseline: str | None) -> None:
    for points, color, name in ((behind, SERIES_COLORS[1], baseline), (curve, SERIES_COLORS[0], None)):
        if points:
            steps, means, lows, highs = zip(*points, strict=True)
            axes.fill_between(steps, lows, highs, color=color, alpha=0.18, linewidth=0)
            axes.plot(steps, means, color=color, linewidth=1.3, label=name)
    if behind:
        axes.legend(frameon=False, labelcolor=INK, fontsize=7)
    axes.set_xlabel("optimiser step", color=INK)
    axes.set_ylabel("nats a supervised token", color=INK)
