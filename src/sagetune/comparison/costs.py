"""What each variant cost: seconds by stage, tokens, parameters, memory; means over its runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sagetune.comparison.runs import Run

METHOD_STAGES = ("search", "train", "select", "collect", "mix")
"""Seconds of the method itself; the others measure."""
REMEDIES = {
    "steps": "budget.max_steps makes them equal where epochs do not end sooner",
    "tokens": "they follow from the samples that a method trains on; look at the cost",
    "supervised tokens": "budget.supervised_tokens makes them equal, to one step",
}
"""Budget -> what makes it equal."""
Cost = dict[str, float]


def cost_of(run: Run) -> Cost:
    """Costs of a finished run by name; what it does not have is absent.

    seconds: of the method's own stages together; seconds <stage>: of each stage, measuring too. forward tokens: through
    the model without a gradient, for selection and replay; reused tokens: more of them, whose figures another run (or
    a trial of the search, which has their seconds) left in the cache. agent tokens: read and written to collect
    trajectories.
    """
    result = run.result
    stages: dict[str, float] = result["costs"]
    cost: Cost = {"seconds": sum(stages.get(stage, 0.0) for stage in METHOD_STAGES)}
    cost |= {f"seconds {stage}": seconds for stage, seconds in stages.items()}
    names = ("steps", "tokens", "supervised_tokens", "trainable_parameters", "peak_memory_mb")
    cost |= {name.replace("_", " "): result[name] for name in names}
    parts = [part for part in (result["selection"], result["replay"]) if part]
    if parts:
        for name in ("forward_tokens", "reused_tokens"):
            cost[name.replace("_", " ")] = sum(part.get(name, 0) for part in parts)
    if result["trajectories"]:
        cost["agent tokens"] = sum(
            result["trajectories"].get(f"{kind}_tokens") or 0 for kind in ("prompt", "completion")
        )
    return cost


def mean_cost(runs: Sequence[Run]) -> Cost:
    """The mean of each cost over the runs that have it."""
    costs = [cost_of(run) for run in runs]
    names = dict.fromkeys(name for cost in costs for name in cost)
    return {name: _mean([cost[name] for cost in costs if name in cost]) for name in names}


def equal_budget(costs: dict[str, Cost], tolerance: float = 0.02) -> list[dict[str, Any]]:
    """Budgets that the variants do not share, where the largest is beyond `tolerance` more.

    Of each its name, variant -> mean, and what makes it equal.
    """
    found = []
    for name in REMEDIES:
        values = {variant: cost[name] for variant, cost in costs.items() if name in cost}
        if values and max(values.values()) > (1 + tolerance) * min(values.values()):
            found.append({"budget": name, "values": values, "remedy": REMEDIES[name]})
    return found


def _mean(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return int(mean) if mean == int(mean) else mean  # a count stays one
