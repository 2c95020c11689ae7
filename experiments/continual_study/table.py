"""result.json of every run in a folder -> results.csv, matrices.json, plots, and Markdown tables.

python table.py <work folder>      of study.py, or the outputs of `sagetune train experiment=continual_study`
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # Student's t, 97.5 %, by pairs
FIGURES = ("average", "backward_transfer", "forgetting", "forward_transfer", "learning_accuracy")
Row = dict[str, Any]


def read_run(folder: Path) -> Row:
    from omegaconf import OmegaConf

    result = json.loads((folder / "result.json").read_text())
    config = OmegaConf.load(folder / "config.yaml")
    stream, replays = result["stream"], config.sft.use_online_continual
    ratio = config.sft.continual_replay_ratio if replays else 0.0
    kind = "joint" if config.data.stream == "shuffled" else "sequential" if not ratio else "replay"
    row: Row = {"kind": kind, "ratio": ratio, "buffer": config.sft.continual_buffer_size if replays else 0}
    row |= {"seed": result["seed"], "steps": result["steps"], "tokens": result["tokens"]}
    row |= {"replayed": result["replay"]["rows"] if replays else 0, "train_seconds": round(result["seconds"], 1)}
    row["replay_seconds"] = round(result["replay"]["seconds"], 3) if replays else 0
    for name in ("loss", "exact_match"):
        for figure in FIGURES:
            value = stream["figures"][name].get(figure)
            row[f"{name}_{figure}"] = None if value is None else round(value, 5)
        row[f"{name}_first_task"] = round(stream["matrices"][name][-1][0], 5)
    return row | {"matrices": stream["matrices"], "tasks": stream["tasks"]}


def label(row: Row) -> str:
    return row["kind"] if row["kind"] != "replay" else f"replay {row['ratio']:g}, buffer {row['buffer']}"


def groups(rows: list[Row]) -> dict[str, list[Row]]:
    order = {"sequential": 0, "replay": 1, "joint": 2}
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda r: (order[r["kind"]], r["buffer"] != 128, r["ratio"], r["buffer"], r["seed"])):
        found.setdefault(label(row), []).append(row)
    return found


def shown(rows: list[Row], figure: str, scale: float, digits: int) -> str:
    values = [row[figure] for row in rows if row[figure] is not None]
    return f"{scale * statistics.mean(values):.{digits}f}" if values else "–"


def against(rows: list[Row], base: list[Row], figure: str, scale: float, digits: int) -> str:
    """Mean of the paired differences to `base` over the seeds, with its 95 % interval."""
    theirs = {row["seed"]: row[figure] for row in base}
    pairs = [scale * (row[figure] - theirs[row["seed"]]) for row in rows if row["seed"] in theirs]
    if len(pairs) < 2:
        return "–"
    half = T_95[len(pairs)] * statistics.stdev(pairs) / len(pairs) ** 0.5
    return f"{statistics.mean(pairs):+.{digits}f} ± {half:.{digits}f}"


def table(found: dict[str, list[Row]], name: str, scale: float, digits: int) -> None:
    base = found["sequential"]
    print(f"\n**{name.replace('_', ' ')}**\n")
    print(
        "| run | seeds | average | − sequential | backward transfer | − sequential | forgetting | task 1 at the end |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    sign = -1 if name == "loss" else 1  # of an average as people read it
    for title, rows in found.items():
        cells = [shown(rows, f"{name}_average", sign * scale, digits)]
        cells.append("–" if rows is base else against(rows, base, f"{name}_average", sign * scale, digits))
        cells.append(shown(rows, f"{name}_backward_transfer", scale, digits))
        joint = rows[0]["kind"] == "joint"
        cells.append("–" if rows is base or joint else against(rows, base, f"{name}_backward_transfer", scale, digits))
        cells.append(shown(rows, f"{name}_forgetting", scale, digits))
        cells.append(shown(rows, f"{name}_first_task", scale, digits))
        print(f"| {title} | {len(rows)} | {' | '.join(cells)} |")


def costs(found: dict[str, list[Row]]) -> None:
    print("\n| run | steps | tokens | replayed rows | training, s | replay itself, s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for title, rows in found.items():
        cells = (shown(rows, name, 1, digits) for name, digits in COSTS.items())
        print(f"| {title} | {' | '.join(cells)} |")


COSTS = {"steps": 0, "tokens": 0, "replayed": 0, "train_seconds": 0, "replay_seconds": 3}


def matrices(found: dict[str, list[Row]], name: str) -> dict[str, list[list[float]]]:
    """Mean score matrix of each kind of run."""
    result = {}
    for title, rows in found.items():
        parts = [row["matrices"][name] for row in rows]
        result[title] = [
            [round(statistics.mean(part[i][j] for part in parts), 4) for j in range(len(parts[0][0]))]
            for i in range(len(parts[0]))
        ]
    return result


def dose(found: dict[str, list[Row]]) -> None:
    """Average and backward transfer over the replay ratio at one buffer size, with every seed as a point."""
    plt.rcParams["svg.hashsalt"] = "continual_study"
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    curve = [rows for rows in found.values() if rows[0]["kind"] == "sequential" or rows[0]["buffer"] == 128]
    joint = found.get("joint", [])
    for axis, (name, sign, text) in zip(axes, PANELS, strict=True):
        points = [(rows[0]["ratio"], [sign * row[name] for row in rows]) for rows in curve]
        axis.plot([ratio for ratio, _ in points], [statistics.mean(values) for _, values in points], "-")
        for ratio, values in points:
            axis.plot([ratio] * len(values), values, "o", color="C0", alpha=0.5, markersize=4)
        if joint and joint[0][name] is not None:
            axis.axhline(statistics.mean(sign * row[name] for row in joint), ls="--", color="gray", label="joint")
            axis.legend(frameon=False, fontsize=8)
        axis.set(xlabel="replay ratio (buffer 128)", ylabel=text)
        axis.grid(alpha=0.3)
    figure.savefig(HERE / "dose.svg", metadata={"Date": None})


PANELS = (
    ("loss_average", -1, "mean loss of all tasks, nats"),
    ("loss_backward_transfer", 1, "backward transfer of minus loss"),
    ("exact_match_average", 1, "mean exact match, generated"),
)


def curves(found: dict[str, list[Row]], tasks: list[str]) -> None:
    """The loss of each task over the tasks that were learnt: without replay, with it, means over the seeds."""
    titles = [title for title in found if title == "sequential" or title.startswith("replay 0.25, buffer 128")]
    figure, axes = plt.subplots(1, len(titles), figsize=(9, 3.2), layout="constrained", sharey=True, squeeze=False)
    means = matrices(found, "loss")
    for axis, title in zip(axes[0], titles, strict=True):
        for number, (task, values) in enumerate(zip(tasks, zip(*means[title], strict=True), strict=True)):
            axis.plot(range(len(values)), values, "-", color=f"C{number}", label=task)
            axis.plot([number + 1], [values[number + 1]], "o", color=f"C{number}")
        axis.set(title=title, xlabel="tasks learnt", xticks=range(len(tasks) + 1))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("loss, nats")
    axes[0][-1].legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "tasks.svg", metadata={"Date": None})


def main(work: Path) -> None:
    done = [path.parent for path in sorted(work.glob("*/result.json")) if '"status": "done"' in path.read_text()]
    rows = [read_run(folder) for folder in done]
    found = groups(rows)
    tasks = rows[0]["tasks"]
    flat = [{k: v for k, v in row.items() if k not in ("matrices", "tasks")} for part in found.values() for row in part]
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(flat[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
    means = {name: matrices(found, name) for name in ("loss", "exact_match")}
    (HERE / "matrices.json").write_text(json.dumps({"tasks": tasks, **means}, indent=1) + "\n")
    dose(found)
    curves(found, tasks)
    table(found, "loss", 1, 3)
    table(found, "exact_match", 100, 1)
    costs(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
