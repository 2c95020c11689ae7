"""Runs of study.py -> results.csv, plots, and Markdown tables: table.py <work folder of study.py>"""

# ruff: noqa: E402
from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from jobs import finished
from tables import markdown, share, write_csv

FIRST, CONTROL = "start", "imitation"
REWARD = {"grpo": "reward", "ppo": "objective/scores"}
Row = dict[str, Any]


def read_job(folder: Path) -> Row:
    variant, seed = folder.name.rsplit("-s", 1)
    result = json.loads((folder / "run" / "result.json").read_text())
    before, after = (result[when]["capabilities"]["scores"]["tool_use"]["score"] for when in ("before", "after"))
    row: Row = {"variant": variant, "seed": int(seed), "before": round(before, 4), "after": round(after, 4)}
    row |= {name: result[name] for name in ("steps", "tokens", "supervised_tokens")}
    return row | {"seconds": round(result["seconds"], 1)}


def rewards(folder: Path) -> list[float]:
    """The mean reward of each update."""
    name = REWARD[folder.name.rsplit("-s", 1)[0]]
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def main(work: Path) -> None:
    rows = [read_job(work / name) for name in finished(work)]
    order = list(dict.fromkeys((FIRST, CONTROL, *(row["variant"] for row in rows))))
    rows.sort(key=lambda row: (order.index(row["variant"]), row["seed"]))
    write_csv(HERE / "results.csv", rows)
    by_variant: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        by_variant[row["variant"]][row["seed"]] = row
    print_success(by_variant)
    draw(work, by_variant)


def print_success(by_variant: dict[str, dict[int, Row]]) -> None:
    control, lines = by_variant[CONTROL], []
    for variant, found in by_variant.items():
        gains = [row["after"] - row["before"] for row in found.values()]
        against = [row["after"] - control[seed]["after"] for seed, row in found.items() if seed in control]
        compared = share(against, signed=True) if variant not in (FIRST, CONTROL) else "–"
        spent = [f"{sum(row[name] for row in found.values()) / len(found):,.0f}" for name in ("tokens", "seconds")]
        scores = [share([row[when] for row in found.values()]) for when in ("before", "after")]
        lines.append([variant, len(found), *scores, share(gains, signed=True), compared, *spent])
    names = ("trained by", "seeds", "before", "after", "change", f"− {CONTROL}", "tokens trained on", "seconds")
    markdown(names, lines)


def draw(work: Path, by_variant: dict[str, dict[int, Row]]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for place, found in enumerate(by_variant.values()):
        for row in found.values():
            left.plot([place - 0.15, place + 0.15], [100 * row["before"], 100 * row["after"]], "o-", color=f"C{place}")
    left.set_xticks(range(len(by_variant)), list(by_variant))
    left.set_ylabel("held-out tasks solved, %: before, after")
    for place, (variant, found) in enumerate(by_variant.items()):
        for seed in found if variant in REWARD else ():
            curve = rewards(work / f"{variant}-s{seed}")
            right.plot(
                range(1, len(curve) + 1), curve, color=f"C{place}", label=variant if seed == min(found) else None
            )
    right.set_xlabel("update")
    right.set_ylabel("mean reward of its rollouts")
    right.legend(frameon=False)
    figure.savefig(HERE / "success.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
