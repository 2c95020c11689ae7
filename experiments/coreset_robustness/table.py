"""picks.jsonl and runs.jsonl of study.py, added to picks.csv and runs.csv here -> both, plots, and Markdown tables.

python table.py <work folder>
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from study import EVERYWHERE, FRACTIONS, ORDER, SEEDS

HERE = Path(__file__).parent
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, 97.5 %, by number of pairs
Row = dict[str, Any]


def read(lines: Path, recorded: Path) -> list[Row]:
    """The rows of a work folder, and those that were recorded earlier and are not in it."""
    rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    known = {(row["strategy"], row["seed"], row["fraction"]) for row in rows}
    with recorded.open(newline="") as file:
        for row in csv.DictReader(file):
            typed: Row = {k: v if k == "strategy" else int(v) if v.isdigit() else float(v) for k, v in row.items()}
            if (typed["strategy"], typed["seed"], typed["fraction"]) not in known:
                rows.append(typed)
    return rows


def write_csv(path: Path, rows: list[Row]) -> None:
    order = sorted(rows, key=lambda row: (row["fraction"], ORDER.index(row["strategy"]), row["seed"]))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in order:
            writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})


def mean(rows: list[Row], strategy: str, fraction: float, figure: str) -> float:
    return statistics.mean(row[figure] for row in rows if (row["strategy"], row["fraction"]) == (strategy, fraction))


def by_seed(rows: list[Row], strategy: str, fraction: float, figure: str) -> dict[int, float]:
    return {row["seed"]: row[figure] for row in rows if (row["strategy"], row["fraction"]) == (strategy, fraction)}


def against_random(rows: list[Row], strategy: str, fraction: float, figure: str, scale: float, digits: int) -> str:
    """Mean of the paired differences to random over the seeds, with its 95 % interval."""
    ours, theirs = (by_seed(rows, name, fraction, figure) for name in (strategy, "random"))
    pairs = [scale * (ours[seed] - theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    half = T_95[len(pairs)] * statistics.stdev(pairs) / len(pairs) ** 0.5
    return f"{statistics.mean(pairs):+.{digits}f} ± {half:.{digits}f}"


def shares_table(picks: list[Row]) -> None:
    print("\n| strategy | noise found, % | wrong among chosen, % | copies beside twin, % | answer | s | tokens |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for strategy in ORDER:
        if len(by_seed(picks, strategy, FRACTIONS[0], "noise")) < len(SEEDS):
            continue
        cells = []
        for figure, scale in (("noise", 100), ("wrong", 100), ("copies", 100), ("answer_characters", 1)):
            cells.append(
                " / ".join(f"{scale * mean(picks, strategy, fraction, figure):.0f}" for fraction in sorted(FRACTIONS))
            )
        seconds, tokens = (mean(picks, strategy, 0.1, figure) for figure in ("seconds", "forward_tokens"))
        print(f"| {strategy} | {' | '.join(cells)} | {seconds:.0f} | {tokens:,.0f} |")


def training_table(runs: list[Row], fraction: float) -> None:
    print(f"\n{fraction:.0%} of the pool\n")
    print("| strategy | seeds | loss | loss − random | exact match | exact match − random, points | right tool |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for strategy in ORDER:
        seeds = by_seed(runs, strategy, fraction, "loss")
        if len(seeds) < len(SEEDS):
            continue
        loss, exact, tool = (mean(runs, strategy, fraction, name) for name in ("loss", "exact_match", "name_accuracy"))
        apart = (
            ("–", "–")
            if strategy == "random"
            else (
                against_random(runs, strategy, fraction, "loss", 1, 3),
                against_random(runs, strategy, fraction, "exact_match", 100, 1),
            )
        )
        print(f"| {strategy} | {len(seeds)} | {loss:.3f} | {apart[0]} | {exact:.1%} | {apart[1]} | {tool:.1%} |")


def plot(runs: list[Row]) -> None:
    plt.rcParams["svg.hashsalt"] = "coreset_robustness"
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, name, label in zip(
        axes, ("loss", "exact_match"), ("held-out loss", "exact match, generated"), strict=True
    ):
        for strategy in EVERYWHERE:
            points = [(f, by_seed(runs, strategy, f, name)) for f in sorted(FRACTIONS)]
            points = [(fraction, values) for fraction, values in points if len(values) == len(SEEDS)]
            if points:
                axis.plot(
                    [f for f, _ in points], [statistics.mean(v.values()) for _, v in points], "o-", label=strategy
                )
        axis.set(xlabel="share of the pool", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "fractions.svg", metadata={"Date": None})


def main(work: Path) -> None:
    picks, runs = (read(work / f"{name}.jsonl", HERE / f"{name}.csv") for name in ("picks", "runs"))
    write_csv(HERE / "picks.csv", picks)
    write_csv(HERE / "runs.csv", runs)
    plot(runs)
    shares_table(picks)
    for fraction in sorted(FRACTIONS):
        training_table(runs, fraction)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
