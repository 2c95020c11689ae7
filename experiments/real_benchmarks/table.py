"""Every job of the study -> results.csv, benchmarks.svg, and Markdown tables: table.py <work folder of study.py>"""

# ruff: noqa: E402
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from jobs import finished
from tables import markdown, write_csv

BENCHMARKS = {
    # what it is called: folder, capability, figure (None = the score)
    "BFCL simple": ("written", "tool_use", None),
    "BFCL multiple": ("written_multiple", "tool_use", None),
    "BFCL to call or not": ("written", "timing", None),
    "BFCL multiple: the tool": ("written_multiple", "tool_selection", None),
    "BFCL multiple: the tool, likeliest": ("likely_multiple", "tool_selection", None),
    "MetaTool, held-out tools": ("written", "tool_selection", None),
    "MetaTool, held-out tools, likeliest": ("likely", "tool_selection", None),
    "GSM8K strict": ("written", "reasoning", None),
    "GSM8K flexible": ("written", "reasoning", "flexible"),
    "IFEval prompt strict": ("written", "instruction_following", None),
    "IFEval prompt loose": ("written", "instruction_following", "prompt_loose"),
}
ORDER = ("untouched", "world", "real")
Row = dict[str, Any]


def read_job(folder: Path) -> list[Row]:
    described = folder / "study.json"
    who = json.loads(described.read_text()) if described.is_file() else {"variant": "untouched", "seed": 0}
    rows = []
    for benchmark, (place, capability, figure) in BENCHMARKS.items():
        score = json.loads((folder / place / "report.json").read_text())["scores"][capability]
        details = score["details"]
        low, high = details["interval"] if figure is None else (None, None)
        rows.append(
            {
                "variant": who["variant"],
                "seed": who["seed"],
                "benchmark": benchmark,
                "n": score["num_samples"],
                "score": score["score"] if figure is None else details["figures"][figure],
                "low": low,
                "high": high,
                "unreadable": details["parse_failure_rate"],
                "chance": details["chance"],
            }
        )
    return rows


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}"


def main(work: Path) -> None:
    done = finished(work)
    rows = [row for name in done for row in read_job(work / name)]
    rows.sort(key=lambda row: (ORDER.index(row["variant"]), row["seed"], list(BENCHMARKS).index(row["benchmark"])))
    write_csv(HERE / "results.csv", rows)
    variants = [name for name in ORDER if any(row["variant"] == name for row in rows)]
    found = {(row["variant"], row["benchmark"]): row for row in rows}
    table = []
    for benchmark in BENCHMARKS:
        first = found[variants[0], benchmark]
        cells = []
        for variant in variants:
            row = found[variant, benchmark]
            bracket = "" if row["low"] is None else f" [{percent(row['low'])}–{percent(row['high'])}]"
            cells.append(f"{percent(row['score'])}{bracket}, {percent(row['unreadable'])}")
        table.append((benchmark, first["n"], percent(first["chance"]), *cells))
    markdown(("benchmark", "n", "chance", *variants), table)
    draw(variants, found)
    print("\nTraining:\n")
    names = ("steps", "tokens", "supervised_tokens", "seconds")
    costs = []
    for name in sorted(done):
        result = work / name / "run" / "result.json"
        if result.is_file():
            costs.append((name, *(f"{json.loads(result.read_text())[one]:.0f}" for one in names)))
    markdown(("run", *(one.replace("_", " ") for one in names)), costs)


def draw(variants: list[str], found: dict[tuple[str, str], Row]) -> None:
    figure, axes = plt.subplots(figsize=(7.4, 4.6), layout="constrained")
    for place, variant in enumerate(variants):
        for height, benchmark in enumerate(BENCHMARKS):
            row = found[variant, benchmark]
            level = height + 0.22 * (place - 1)
            if row["low"] is not None:
                axes.plot([100 * row["low"], 100 * row["high"]], [level, level], color=f"C{place}", alpha=0.4)
            label = variant if height == 0 else None
            axes.plot(100 * row["score"], level, "o", color=f"C{place}", markersize=5, label=label)
            if row["chance"] is not None:
                axes.plot(100 * row["chance"], height, "|", color="#555", markersize=14)
    axes.set_yticks(range(len(BENCHMARKS)), list(BENCHMARKS))
    axes.invert_yaxis()
    axes.set_xlabel("score, % (lines: 95 % intervals; |: chance)")
    axes.legend(frameon=False)
    axes.grid(alpha=0.2)
    figure.savefig(HERE / "benchmarks.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
