"""Held-out attempts of every job -> results.csv, a plot, and Markdown tables: table.py <work folder of study.py>"""

# ruff: noqa: E402
from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from jobs import finished
from tables import markdown, write_csv
from tables import share as percent

REFERENCE = "mix"
FAMILIES = ("tool_selection", "planning", "timing")
Row = dict[str, Any]


def read_job(folder: Path) -> Row:
    row = json.loads((folder / "study.json").read_text())
    result = json.loads((folder / "run" / "result.json").read_text())
    held_out = [json.loads(line) for line in (folder / "held_out.jsonl").read_text().splitlines()]
    row |= {"tokens": result["tokens"], "supervised_tokens": result["supervised_tokens"]}
    row |= {"train_seconds": round(result["seconds"], 1), "mean_tokens": round(row["mean_tokens"], 1)}
    row["success"] = share(held_out)
    for family in FAMILIES:
        row[family] = share([attempt for attempt in held_out if attempt["family"] == family])
    row["bad_reply"] = sum(attempt["status"] == "bad_reply" for attempt in held_out) / len(held_out)
    row["mean_steps"] = round(statistics.mean(len(attempt["steps"]) for attempt in held_out), 2)
    collected = [json.loads(line) for line in (folder / "collected.jsonl").read_text().splitlines()]
    row["collected"], row["collected_success"] = len(collected), share(collected)
    return row


def share(attempts: list[Row]) -> float:
    return round(sum(attempt["success"] for attempt in attempts) / len(attempts), 4)


def main(work: Path) -> None:
    rows = [read_job(work / name) for name in finished(work)]
    order = list(dict.fromkeys(("plain", "react", "cot", REFERENCE, *(row["variant"] for row in rows))))
    rows.sort(key=lambda row: (order.index(row["variant"]), row["seed"]))
    write_csv(HERE / "results.csv", rows)
    by_variant: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_variant[row["variant"]].append(row)
    print_success(by_variant)
    print_costs(by_variant)
    draw(by_variant)


def print_success(by_variant: dict[str, list[Row]]) -> None:
    reference = {row["seed"]: row["success"] for row in by_variant[REFERENCE]}
    table = []
    for variant, rows in by_variant.items():
        pairs = [row["success"] - reference[row["seed"]] for row in rows]
        means = {name: statistics.mean(row[name] for row in rows) for name in ("success", *FAMILIES, "bad_reply")}
        difference = "–" if variant == REFERENCE else percent(pairs, signed=True)
        steps = statistics.mean(row["mean_steps"] for row in rows)
        shares = [f"{100 * means[name]:.1f}" for name in (*FAMILIES, "bad_reply")]
        table.append((variant, len(rows), f"{100 * means['success']:.1f}", difference, *shares, f"{steps:.2f}"))
    markdown(("trained on", "seeds", "success, %", f"− {REFERENCE}", *FAMILIES, "unreadable", "steps"), table)


def print_costs(by_variant: dict[str, list[Row]]) -> None:
    print()
    names = ("collected", "samples", "mean_tokens", "steps", "tokens", "supervised_tokens", "train_seconds")
    columns = ("trained on", "solved, %", "attempts", "samples", "tokens each", "steps", "tokens", "supervised")
    table = []
    for variant, rows in by_variant.items():
        solved = 100 * statistics.mean(row["collected_success"] for row in rows)
        means = (f"{statistics.mean(row[name] for row in rows):.0f}" for name in names)
        table.append((variant, f"{solved:.1f}", *means))
    markdown((*columns, "training, s"), table)


def draw(by_variant: dict[str, list[Row]]) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for place, rows in enumerate(by_variant.values()):
        values = [100 * row["success"] for row in rows]
        axes.plot(values, [place] * len(values), "o", color="#9aa0a6", markersize=4)
        axes.plot([statistics.mean(values)], [place], "|", color="#1f77b4", markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(by_variant)), list(by_variant))
    axes.invert_yaxis()
    axes.set_xlabel("success on held-out tasks, % (dots: seeds)")
    axes.grid(alpha=0.2)
    figure.savefig(HERE / "success.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
