"""Held-out attempts of every job -> results.csv, a plot, and Markdown tables: table.py <work folder of study.py>"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, 97.5 %, by number of pairs
REFERENCE = "mix"
FAMILIES = ("tool_selection", "planning", "timing", "general")
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


def mean_and_interval(values: list[float]) -> tuple[float, float | None]:
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, None
    return mean, T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def main(work: Path) -> None:
    rows = [read_job(done.parent) for done in sorted(work.glob("*/held_out.jsonl.done"))]
    order = list(dict.fromkeys(("plain", "react", "cot", REFERENCE, *(row["variant"] for row in rows))))
    rows.sort(key=lambda row: (order.index(row["variant"]), row["seed"]))
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    by_variant: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_variant[row["variant"]].append(row)
    print_success(by_variant)
    print_costs(by_variant)
    draw(by_variant)


def print_success(by_variant: dict[str, list[Row]]) -> None:
    reference = {row["seed"]: row["success"] for row in by_variant[REFERENCE]}
    print(f"| trained on | seeds | success, % | − {REFERENCE} | {' | '.join(FAMILIES)} | unreadable | steps |")
    print("| --- " * (6 + len(FAMILIES)) + "|")
    for variant, rows in by_variant.items():
        pairs = [row["success"] - reference[row["seed"]] for row in rows if row["seed"] in reference]
        difference = "–"
        if variant != REFERENCE and len(pairs) > 1:
            mean, half = mean_and_interval(pairs)
            difference = f"{100 * mean:+.1f} ± {100 * (half or 0):.1f}"
        families = " | ".join(f"{100 * statistics.mean(row[family] for row in rows):.1f}" for family in FAMILIES)
        mean = statistics.mean(row["success"] for row in rows)
        unreadable = statistics.mean(row["bad_reply"] for row in rows)
        steps = statistics.mean(row["mean_steps"] for row in rows)
        print(f"| {variant} | {len(rows)} | {100 * mean:.1f} | {difference} | {families} ", end="")
        print(f"| {100 * unreadable:.1f} | {steps:.2f} |")


def print_costs(by_variant: dict[str, list[Row]]) -> None:
    print("\n| trained on | attempts | solved, % | samples | tokens each | steps | tokens | supervised | training, s |")
    print("| --- " * 9 + "|")
    for variant, rows in by_variant.items():
        names = ("collected", "collected_success", "samples", "mean_tokens", "steps", "tokens", "supervised_tokens")
        mean = {name: statistics.mean(row[name] for row in rows) for name in (*names, "train_seconds")}
        print(
            f"| {variant} | {mean['collected']:.0f} | {100 * mean['collected_success']:.1f} | {mean['samples']:.0f} "
            f"| {mean['mean_tokens']:.0f} | {mean['steps']:.0f} | {mean['tokens']:.0f} "
            f"| {mean['supervised_tokens']:.0f} | {mean['train_seconds']:.0f} |"
        )


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
