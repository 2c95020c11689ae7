"""Run folders -> results.csv and the loss curves of this study. Usage: collect.py <folder of runs>"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
ACTIONS = ("exact_match", "name_accuracy", "argument_accuracy", "parse_failure_rate")


def row_of(run: Path) -> dict[str, Any]:
    """The figures of one run folder, flat."""
    result = json.loads((run / "result.json").read_text())
    environment = json.loads((run / "environment.json").read_text())
    row = {"run": run.name, "seed": result["seed"], "steps": result["steps"], "tokens": result["tokens"]}
    row |= {"train_seconds": round(result["seconds"], 1), "final_loss": round(result["final_loss"], 4)}
    row["peak_memory_mb"] = round(result["peak_memory_mb"])
    for when in ("before", "after"):
        actions, tokens = result[when]["actions"], result[when]["tokens"]
        row |= {f"{when}_{name}": round(actions[name]["value"], 4) if actions else "" for name in ACTIONS}
        row |= {f"{when}_{name}": round(tokens[name], 4) if tokens else "" for name in ("loss", "accuracy")}
    row["commit"] = environment["git"]["commit"][:12] if environment.get("git") else ""
    return row


def plot(runs: list[Path]) -> None:
    plt.rcParams["svg.hashsalt"] = "first_run"
    figure, axes = plt.subplots(figsize=(7, 4))
    for run in runs:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [row for row in rows if "train/loss" in row]
        axes.plot([row["step"] for row in steps], [row["train/loss"] for row in steps], label=run.name, linewidth=1.2)
    axes.set(xlabel="optimiser step", ylabel="training loss, nats a supervised token", yscale="log")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(HERE / "loss.svg", metadata={"Date": None})


def main() -> None:
    runs = sorted(path.parent for path in Path(sys.argv[1]).glob("*/result.json"))
    rows = [row_of(run) for run in runs]
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plot(runs)


if __name__ == "__main__":
    main()
