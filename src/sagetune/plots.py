"""SVG plots of a run for report.html. The same data give the same bytes; colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#0a0b0c"
SERIES_COLORS = ("#0a0b1c", "#0a0b2c")
THEMED = {INK: "currentColor", SERIES_COLORS[0]: "var(--series-1)", SERIES_COLORS[1]: "var(--series-2)"}
"""Colours that only mark a place in the SVG: the page puts its own there, light or dark."""
LINES = ("-", "--", ":", "-.")
MARKED_POINTS = 30
HEIGHT = 2.6
CURVES = (
    # title, metrics
    ("loss", ("train/loss", "eval/loss")),
    ("token accuracy", ("train/accuracy", "eval/accuracy")),
    ("reward margin, chosen over rejected", ("train/rewards/margins", "eval/rewards/margins")),
    ("pairs whose chosen has the larger reward", ("train/rewards/accuracies", "eval/rewards/accuracies")),
    ("reward (coefficient times log-ratio)", ("train/rewards/chosen", "train/rewards/rejected")),
    ("log-probability (nats)", ("train/logps/chosen", "train/logps/rejected")),
    ("reward of a rollout", ("objective/scores", "reward")),
    ("rollouts that solve their task", ("rollout/success", "eval/success")),
    ("KL to the reference (nats; ppo: a rollout, grpo: a token)", ("objective/kl", "kl")),
    ("KL coefficient", ("objective/kl_coef",)),
    ("entropy of a token (nats)", ("policy/entropy_avg", "entropy")),
    ("drawn tokens of a rollout", ("completions/mean_length", "completions/max_length")),
    ("clipped share of tokens", ("policy/clipfrac_avg", "clip_ratio/region_mean")),
    ("value loss", ("loss/value_avg",)),
    ("learning rate", ("train/lr",)),
    ("gradient norm", ("train/grad_norm",)),
    ("tokens a second", ("train/tokens_per_second",)),
)


def draw_curve(metrics: list[dict[str, Any]], title: str, names: tuple[str, ...]) -> str:
    """An SVG of the metrics `names` over the optimiser step; "" if no row has any of them.

    It takes its colours from the page (currentColor and the CSS variables --series-1, --series-2).
    """
    series = {name: [(row["step"], row[name]) for row in metrics if row.get(name) is not None] for name in names}
    if not any(series.values()):
        return ""

    def draw(axes: Axes) -> None:
        for (name, points), color in zip(series.items(), SERIES_COLORS, strict=False):
            marker = "o" if len(points) < MARKED_POINTS else None
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=3, linewidth=1.3, label=name)
        axes.set_xlabel("optimiser step", color=INK)
        if len(names) > 1:
            axes.legend(frameon=False, labelcolor=INK)

    return svg(title, draw)


def draw_stream(stream: dict[str, Any]) -> list[str]:
    """Each task's figures over the tasks that were learnt, from the `stream` of result.json; one SVG a figure."""
    plots = []
    for name, matrix in stream["matrices"].items():
        if len(matrix) > 2:
            title = f"{name.replace('_', ' ')} of each task"
            plots.append(svg(title, partial(_draw_tasks_learnt, tasks=stream["tasks"], matrix=matrix)))
    return plots


def draw_selection(entry: dict[str, Any]) -> list[str]:
    """What an entry of selection.json chose, against the pool: map, lengths, losses, tasks; one SVG each."""
    plots = [svg("samples on the pool's two main axes (TF-IDF)", lambda axes: _draw_map(axes, entry["map"]))]
    for name, unit in (("length", "supervised tokens"), ("loss", "nats a supervised token")):
        if entry[name] and entry[name]["edges"]:
            plots.append(svg(f"{name} ({unit})", partial(_draw_histogram, histogram=entry[name])))
    if len(entry["tasks"]) > 1:
        plots.append(svg("share of tasks", lambda axes: _draw_tasks(axes, entry["tasks"])))
    return plots


def draw_radar(names: list[str], series: dict[str, list[float]]) -> str:
    """Scores (0 to 1) of each series on axes that start in the middle; an SVG."""
    return svg("capabilities", partial(_draw_radar, names=names, series=series), height=3.4)


def draw_bars(title: str, names: list[str], series: dict[str, list[tuple[float, float, float]]]) -> str:
    """(score, low, high) of each name and series, 0 to 1, as bars with intervals; an SVG."""
    return svg(title, partial(_draw_bars, names=names, series=series))


def _draw_radar(axes: Axes, names: list[str], series: dict[str, list[float]]) -> None:
    angles = [2 * math.pi * place / len(names) for place in range(len(names))]
    for radius in (0.25, 0.5, 0.75, 1.0):
        ring = [(radius * math.sin(angle), radius * math.cos(angle)) for angle in [*angles, angles[0]]]
        axes.plot(*zip(*ring, strict=True), color=INK, linewidth=0.4, alpha=0.35)
    for name, angle in zip(names, angles, strict=True):
        axes.plot([0, math.sin(angle)], [0, math.cos(angle)], color=INK, linewidth=0.4, alpha=0.35)
        x, y = 1.12 * math.sin(angle), 1.12 * math.cos(angle)
        side = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
        axes.text(x, y, name.replace("_", " "), ha=side, va="center", fontsize=7, color=INK)
    for number, (title, values) in enumerate(series.items()):
        points = [(v * math.sin(a), v * math.cos(a)) for v, a in zip(values, angles, strict=True)]
        color, line = SERIES_COLORS[number % 2], LINES[number // 2 % len(LINES)]
        axes.plot(*zip(*points, points[0], strict=True), color=color, linestyle=line, linewidth=1.5, label=title)
    axes.set_xlim(-1.9, 1.9)
    axes.set_ylim(-1.3, 1.45)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.legend(frameon=False, labelcolor=INK, fontsize=7, loc="upper left")


def _draw_bars(axes: Axes, names: list[str], series: dict[str, list[tuple[float, float, float]]]) -> None:
    height = 0.8 / len(series)
    for number, (title, rates) in enumerate(series.items()):
        places = [place + (number - (len(series) - 1) / 2) * height for place in range(len(names))]
        values = [value for value, _, _ in rates]
        color = SERIES_COLORS[number % 2]
        axes.barh(places, values, height, color=color, alpha=0.75, label=title)
        for place, (_, low, high) in zip(places, rates, strict=True):
            axes.plot([low, high], [place, place], color=INK, linewidth=1)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3)  # room for the legend beside the bars
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=7)


def draw_attempts(rows: list[dict[str, Any]]) -> str:
    """Of each row's attempts the solved ones and the kept ones, as shares; an SVG."""
    return svg("share of attempts", partial(_draw_attempts, rows=rows))


def draw_mixture(rows: list[dict[str, Any]]) -> str:
    """The share of the mixture that each task should have and the one it has; an SVG."""
    return svg("share of the mixture", partial(_draw_mixture, rows=rows))


def _draw_mixture(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for offset, name, color in ((0.2, "wanted", SERIES_COLORS[0]), (-0.2, "share", SERIES_COLORS[1])):
        label = "wanted" if name == "wanted" else "trained on"
        places = [place - offset for place in range(len(rows))]
        axes.barh(places, [row[name] for row in rows], 0.38, color=color, label=label)
    axes.set_yticks(range(len(rows)), [row["task"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(right=1.4 * axes.get_xlim()[1])  # room for the legend beside the bars
    axes.legend(frameon=False, labelcolor=INK)


def _draw_attempts(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for offset, name, color in ((0.2, "solved", SERIES_COLORS[0]), (-0.2, "kept", SERIES_COLORS[1])):
        places = [place + offset for place in range(len(rows))]
        axes.barh(places, [row[name] / max(row["total"], 1) for row in rows], 0.38, color=color, label=name)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3)  # room for the legend beside the bars
    axes.legend(frameon=False, labelcolor=INK)


def _draw_tasks_learnt(axes: Axes, tasks: list[str], matrix: list[list[float]]) -> None:
    for number, (task, values) in enumerate(zip(tasks, zip(*matrix, strict=True), strict=True)):
        color, line = SERIES_COLORS[number % 2], LINES[number // 2 % len(LINES)]
        axes.plot(range(len(values)), values, color=color, linestyle=line, linewidth=1.3, label=task)
        axes.plot([number + 1], [values[number + 1]], "o", color=color, markersize=4)  # learnt here
    axes.set_xticks(range(len(matrix)))
    axes.set_xlabel("tasks learnt", color=INK)
    axes.legend(frameon=False, labelcolor=INK, fontsize=7)


def _draw_map(axes: Axes, places: dict[str, list[list[float]]]) -> None:
    for (name, points), color, size in zip(places.items(), SERIES_COLORS, (7, 12), strict=True):
        across, up = zip(*points, strict=True)
        axes.scatter(across, up, color=color, s=size, alpha=0.6, linewidths=0, label=name)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(frameon=False, labelcolor=INK)


def _draw_histogram(axes: Axes, histogram: dict[str, Any]) -> None:
    edges = histogram["edges"]
    for name, color in zip(("pool", "selected"), SERIES_COLORS, strict=True):
        total = max(sum(histogram[name]), 1)
        axes.stairs([count / total for count in histogram[name]], edges, color=color, linewidth=1.3, label=name)
    axes.set_ylabel("share of samples", color=INK)
    axes.legend(frameon=False, labelcolor=INK)


def _draw_tasks(axes: Axes, tasks: dict[str, dict[str, int]]) -> None:
    for offset, name, color in ((0.2, "pool", SERIES_COLORS[0]), (-0.2, "selected", SERIES_COLORS[1])):
        total = max(sum(count[name] for count in tasks.values()), 1)
        places = [place + offset for place in range(len(tasks))]
        axes.barh(places, [count[name] / total for count in tasks.values()], 0.38, color=color, label=name)
    axes.set_yticks(range(len(tasks)), list(tasks))
    axes.set_xlim(right=1.4 * axes.get_xlim()[1])  # room for the legend beside the bars
    axes.legend(frameon=False, labelcolor=INK)


def svg(title: str, draw: Callable[[Axes], None], *, height: float = HEIGHT) -> str:
    """What `draw` puts on the axes, as an SVG in the page's colours; height in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # svg.hashsalt makes the ids, and Date None the header, a function of the data alone.
    style = {"svg.hashsalt": "sagetune", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    with rc_context(style):
        figure = Figure(figsize=(4.6, height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.tick_params(colors=INK)
        axes.grid(alpha=0.2, color=INK, linewidth=0.6)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(side in ("left", "bottom"))
            axes.spines[side].set_color(INK)
        drawn = StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return _themed(drawn.getvalue())


def _themed(drawn: str) -> str:
    for color, variable in THEMED.items():
        drawn = drawn.replace(color, variable)
    return drawn[drawn.index("<svg") :]
