"""results.jsonl -> results.csv and a Markdown table: medians over the rounds, ratios to ours in the same run.

python table.py <results.jsonl> <results.csv>
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path

COLUMNS = ("name", "rounds", "tokens_per_second", "ours_faster", "cpu_ms_per_token", "ours_cheaper", "peak_mb")


def main(source: Path, target: Path) -> None:
    runs: dict[str, list[dict[str, float]]] = {}
    for line in source.read_text().splitlines():
        run = json.loads(line)
        runs.setdefault(run["name"], []).append(run)
    rows = []
    for name, found in runs.items():
        ours = runs[f"ours {name.split()[-1]}"]
        speed, cost, memory = (median(found, key) for key in ("tokens_per_second", "cpu_ms_per_token", "peak_mb"))
        faster, cheaper = median(ours, "tokens_per_second") / speed, cost / median(ours, "cpu_ms_per_token")
        figures = (f"{speed:.0f}", f"{faster:.2f}", f"{cost:.2f}", f"{cheaper:.2f}", f"{memory:.0f}")
        rows.append((name, str(len(found)), *figures))
    with target.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    for row in (COLUMNS, ("---",) * len(COLUMNS), *rows):
        print("| " + " | ".join(row) + " |")


def median(runs: list[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
