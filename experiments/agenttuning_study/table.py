"""Every job of the study -> results.csv, kept.svg, and Markdown tables: table.py <work folder of study.py>"""

# ruff: noqa: E402
from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from jobs import DATA, finished
from tables import markdown, number, rescored, share, write_csv

AGENT = ("tool_use", "planning", "timing")
GENERAL = ("reasoning", "instruction_following", "ifeval_loose")
WORLD = {
    "tool_use": "agent_benchmark:tool_selection:test",
    "reasoning": "agent_benchmark:general:test",
    "instruction_following": "agent_benchmark:general:test",
    "timing": "agent_benchmark:timing:test",
}
IFEVAL, ITEMS = f"ifeval:{DATA}/ifeval/input_data.jsonl", 24
ORDER = ("untouched", "agent only", "eta 0.5", "eta 0.2", "eta 0.1", "general only")
Row = dict[str, Any]


def read_job(folder: Path) -> Row:
    described = folder / "study.json"
    row: Row = json.loads(described.read_text()) if described.is_file() else {"variant": "untouched", "seed": ""}
    data = WORLD | {"planning": str(folder.parent / "plans.jsonl")}
    world = {name: rescored(folder / "world" / f"{name}.jsonl", name, data[name], ITEMS) for name in data}
    for name, score in world.items():
        row[name], row[f"{name}_unreadable"] = score["score"], score["details"]["parse_failure_rate"]
    row["plan_f1"] = world["planning"]["details"]["figures"]["plan_f1"]
    timing = world["timing"]["details"]["timing"]
    row["timing"] = timing["balanced_accuracy"]["value"]  # of the families most do not call
    ifeval = rescored(folder / "ifeval" / "instruction_following.jsonl", "instruction_following", IFEVAL, ITEMS)
    row["ifeval_strict"] = ifeval["details"]["figures"]["prompt_strict"]
    row["ifeval_loose"] = ifeval["details"]["figures"]["prompt_loose"]
    row["agent"] = statistics.mean(row[name] for name in AGENT)
    row["general"] = statistics.mean(row[name] for name in GENERAL)
    if described.is_file():
        result = json.loads((folder / "run" / "result.json").read_text())
        row |= {name: result[name] for name in ("tokens", "supervised_tokens")}
        row["text_loss_before"] = result["before"]["tokens"]["loss"]
        row["text_loss"] = result["after"]["tokens"]["loss"]
        row["text_loss_change"] = row["text_loss"] - row["text_loss_before"]
        row["train_seconds"] = round(result["seconds"], 1)
    return row


def main(work: Path) -> None:
    rows = [read_job(work / name) for name in finished(work)]
    rows.sort(key=lambda row: (ORDER.index(row["variant"]), row["seed"]))
    write_csv(HERE / "results.csv", rows)
    by_variant = {name: some for name in ORDER if (some := [row for row in rows if row["variant"] == name])}

    def values(some: list[Row], name: str) -> list[float]:
        return [row[name] for row in some]

    def changes(some: list[Row], name: str) -> str:
        """The text loss was measured before and after in each run."""
        return number(values(some, name), signed=True) if name in some[0] else "–"

    print("Means over the seeds with 95 % intervals, in per cent; the last column is in nats a token.\n")
    markdown(
        ("trained on", "seeds", "agent, mean", "general, mean", "change of the text loss"),
        [
            (
                name,
                len(some),
                *(share(values(some, one)) for one in ("agent", "general")),
                changes(some, "text_loss_change"),
            )
            for name, some in by_variant.items()
        ],
    )
    print()
    markdown(
        ("trained on", *(one.replace("_", " ") for one in (*AGENT, "plan_f1", *GENERAL, "ifeval_strict"))),
        [
            (name, *(share(values(some, one)) for one in (*AGENT, "plan_f1", *GENERAL, "ifeval_strict")))
            for name, some in by_variant.items()
        ],
    )
    print("\nDifferences to agent only, paired by seed:\n")
    reference = {row["seed"]: row for row in by_variant["agent only"]}
    paired = [name for name in by_variant if name not in ("untouched", "agent only")]
    markdown(
        ("trained on", "agent", "general", "text loss"),
        [
            (
                name,
                *(
                    form([row[one] - reference[row["seed"]][one] for row in by_variant[name]], signed=True)
                    for one, form in (("agent", share), ("general", share), ("text_loss", number))
                ),
            )
            for name in paired
        ],
    )
    print_costs(by_variant)
    draw(by_variant)


def print_costs(by_variant: dict[str, list[Row]]) -> None:
    print("\nWhat it costs:\n")
    names = ("steps", "tokens", "supervised_tokens", "train_seconds")
    markdown(
        ("trained on", *(name.replace("_", " ") for name in names)),
        [
            (name, *(f"{statistics.mean(row[one] for row in some):.0f}" for one in names))
            for name, some in by_variant.items()
            if name != "untouched"
        ],
    )


def draw(by_variant: dict[str, list[Row]]) -> None:
    """Agent score against general score: what keeps both is in the upper right."""
    figure, axes = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    for place, (name, rows) in enumerate(by_variant.items()):
        color = f"C{place}"
        points = [(100 * row["general"], 100 * row["agent"]) for row in rows]
        axes.plot(*zip(*points, strict=True), ".", color=color, markersize=5)
        middle = [statistics.mean(values) for values in zip(*points, strict=True)]
        axes.plot(*middle, "o", color=color, markersize=9, label=name)
    axes.set_xlabel("general: world's reasoning and instructions, IFEval (mean, %)")
    axes.set_ylabel("agent: tool use, planning, timing (mean, %)")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.2)
    figure.savefig(HERE / "kept.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
