"""What runs are compared on: each figure's value in a run, the level it has to beat, and its test items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sagetune.comparison.runs import Run, Tree
from sagetune.report import FIGURES, figure_of

OVERALL = "capability.overall"
HEADLINES = (OVERALL, "actions.exact_match", "rollouts.success", "tokens.loss")
"""The first that was measured is what the verdicts go by; a terminal shows all of them."""
CALLING = ("name_accuracy", "argument_accuracy")
ITEM_SCORES: dict[str, Callable[[Tree], bool]] = {
    "exact_match": lambda row: row["exact_match"],
    "name_accuracy": lambda row: row["name_correct"],
    "argument_accuracy": lambda row: row["arguments_correct"],
    "decision_accuracy": lambda row: not row["parse_failure"] and row["abstained"] == (not row["gold_calls"]),
    "parse_failure_rate": lambda row: row["parse_failure"],
}
ItemKey = tuple[str, str, str]
"""id, prompt and gold answer: the same item is the same in all three."""
Items = dict[str, dict[ItemKey, float]]
"""Group -> item -> score; a figure is the mean of its groups' means."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Something measured. better: "higher" or "lower"; form: "share" of 1 or "number"."""

    key: str
    """Section and field, such as actions.exact_match or capability.tool_use."""
    label: str
    better: str
    form: str

    @property
    def section(self) -> str:
        return self.key.split(".")[0]

    @property
    def field(self) -> str:
        return self.key.split(".")[1]

    @property
    def is_capability(self) -> bool:
        return self.section == "capability" and self.key != OVERALL


@dataclass(frozen=True, slots=True)
class Level:
    """A score that takes no learning, and what it is called."""

    name: str
    value: float


def figures_of(runs: Iterable[Run]) -> list[Figure]:
    """What at least one of the finished `runs` measured: capabilities, then the figures of a run's report."""
    runs = list(runs)
    names = dict.fromkeys(name for run in runs for name in _scores(run.result.get("after")))
    found = [Figure(f"capability.{name}", name.replace("_", " "), "higher", "share") for name in names]
    if len(names) > 1:
        found.insert(0, Figure(OVERALL, "overall capability", "higher", "share"))
    for section, field, label, better, form in FIGURES:
        found.append(Figure(f"{section}.{field}", label.replace(":", ""), better, form))
    return [figure for figure in found if any(value_of(run, figure) is not None for run in runs)]


def primary_of(figures: list[Figure]) -> Figure:
    """The figure that the verdicts go by: the first of HEADLINES that was measured, else the first of all."""
    by_key = {figure.key: figure for figure in figures}
    return next((by_key[key] for key in HEADLINES if key in by_key), figures[0])


def value_of(run: Run, figure: Figure, when: str = "after") -> float | None:
    """The figure `when` = "before" or "after" training; None if the run has not measured it."""
    measured = run.result.get(when)
    if figure.key == OVERALL:
        return ((measured or {}).get("capabilities") or {}).get("overall")
    if figure.is_capability:
        return _scores(measured).get(figure.field, {}).get("score")
    return figure_of(measured, figure.section, figure.field)["value"]


def level_of(run: Run, figure: Figure) -> Level | None:
    """The score of a capability by chance, and of exact match by the trivial baseline; None where neither is known."""
    if figure.is_capability:
        chance = _scores(run.result.get("after")).get(figure.field, {"details": {"chance": None}})["details"]["chance"]
        return Level("chance level", chance) if chance is not None else None
    if figure.key == "actions.exact_match" and run.result.get("baselines"):
        return Level("trivial baseline", run.result["baselines"]["trivial"])
    return None


def items_of(run: Run, figure: Figure) -> Items:
    """The score of each test item, the mean over its attempts; empty for a figure that no items are recorded of."""
    if figure.section == "capability":
        scores = _scores(run.after)
        names = list(scores) if figure.key == OVERALL else [figure.field] if figure.field in scores else []
        return {name: _means((row, row["score"]) for row in scores[name]["details"]["items"]) for name in names}
    actions = run.after.get("actions")
    if figure.section != "actions" or not actions:
        return {}
    score = ITEM_SCORES[figure.field]
    rows = [row for row in actions["items"] if row["gold_calls"] or figure.field not in CALLING]
    return {figure.field: _means((row, float(score(row))) for row in rows)}


def _means(rows: Iterable[tuple[Tree, float]]) -> dict[ItemKey, float]:
    found: dict[ItemKey, list[float]] = defaultdict(list)
    for row, score in rows:
        found[row["id"], row["prompt"], row["gold"]].append(score)
    return {key: sum(scores) / len(scores) for key, scores in found.items()}


def _scores(measured: Tree | None) -> dict[str, Any]:
    return ((measured or {}).get("capabilities") or {"scores": {}})["scores"]
