"""Selection time and memory against the size of the pool: n = 10,000 to 1,000,000 embedded samples, k = n / 100.

    python scale.py [largest n] [d]      defaults: 1000000 256; writes scale.csv and scale.svg, prints a Markdown table

Each size runs in a process of its own, so its peak memory is its own. Points as in selection.py. Coverage is facility
location (exact up to 20,000 samples, in parts of 5,000 above), k-center leaves out the 2 % least dense samples, and
near-duplicates are those of cosine 0.95 (cells of 2,000 above 50,000 samples).
"""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
TASKS = ("coverage", "k-center", "near-duplicates")


def measure(num: int, dim: int) -> dict[str, float]:
    """Seconds of each task, and the process's peak memory."""
    from selection import make_points

    from sagetune.selection.facility import facility_location
    from sagetune.selection.kcenter import kcenter
    from sagetune.selection.similar import without_near_duplicates

    points, k = make_points(num, dim), num // 100
    runs = (
        lambda: facility_location(points, k),
        lambda: kcenter(points, k, outlier_share=0.02),
        lambda: without_near_duplicates(points, 0.95),
    )
    row: dict[str, float] = {"n": num, "k": k, "points_mb": points.numel() * 4 / 2**20}
    for task, run in zip(TASKS, runs, strict=True):
        started = time.perf_counter()
        run()
        row[task] = round(time.perf_counter() - started, 2)
        print(f"n = {num}: {task} {row[task]:.1f} s", file=sys.stderr, flush=True)
    row["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return row


def plot(rows: list[dict[str, float]]) -> None:
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "scale"
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for task in TASKS:
        axes.plot([row["n"] for row in rows], [row[task] for row in rows], marker="o", label=task)
    axes.set(xscale="log", yscale="log", xlabel="samples in the pool (1 % chosen)", ylabel="seconds, two cores")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(HERE / "scale.svg", metadata={"Date": None})


def main(largest: int = SIZES[-1], dim: int = 256) -> None:
    rows = []
    for num in (size for size in SIZES if size <= largest):
        command = [sys.executable, __file__, "--one", str(num), str(dim)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
    with (HERE / "scale.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plot(rows)
    print("| n | k | coverage, s | k-center, s | near-duplicates, s | points, MB | peak memory, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        times = " | ".join(f"{row[task]:.1f}" for task in TASKS)
        print(f"| {row['n']:,} | {row['k']:,} | {times} | {row['points_mb']:.0f} | {row['peak_mb']:,.0f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main(*map(int, sys.argv[1:]))
