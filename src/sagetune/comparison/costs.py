"""What each variant cost: seconds by stage, tokens, parameters, memory."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from sagetune.comparison.runs import Run

METHOD_STAGES = ("search", "train", "select", "collect", "mix")
"""Seconds of the method itself; the others measure."""
REMEDIES = {
    "steps": "budget.max_steps makes them equal where epochs do not end sooner",
    "tokens": "they follow from the samples that a method trains on; look at the cost",
    "supervised tokens": "budget.supervised_tokens makes them equal, to one step, or nearly where a stream selects",
}
"""Budget -> what makes it equal."""
Cost = dict[str, float]


def cost_of(run: Run) -> Cost:
    """Costs of a finished run by name; what it does not have is absent.

    seconds: of the method's own stages together; seconds <stage>: of each stage, measuring too. search tokens: trained
    on in the trials of the rate search; a trial that diverged tells none. forward tokens: through the model without a
    gradient, for selection (in the trials, too) and replay; reused tokens: more of them, whose figures another run left
    in the cache. agent tokens: read and written to collect trajectories.
    """
    result = run.result
    stages: dict[str, float] = result["costs"]
    cost: Cost = {"seconds": sum(stages.get(stage, 0.0) for stage in METHOD_STAGES)}
    cost |= {f"seconds {stage}": seconds for stage, seconds in stages.items()}
    names = ("steps", "tokens", "supervised_tokens", "trainable_parameters", "peak_memory_mb")
    cost |= {name.replace("_", " "): result[name] for name in names}
    trials = result["search"]["tried"] if result.get("search") else []
    if trials:
        cost["search tokens"] = sum(trial["tokens"] or 0 for trial in trials)
    selections = [one for one in [*(trial.get("selection") for trial in trials), result["selection"]] if one]
    replay = result["replay"] or {}
    if selections or replay:
        scored = sum(one["forward_tokens"] for one in selections)
        cost["forward tokens"] = scored + replay.get("forward_tokens", 0)
        cost["reused tokens"] = selections[0]["reused_tokens"] if selections else 0  # later ones reuse the run's own
    if result["trajectories"]:
        cost["agent tokens"] = sum(
            result["trajectories"].get(f"{kind}_tokens") or 0 for kind in ("prompt", "completion")
        )
    return cost


def usual_cost(runs: Sequence[Run]) -> Cost:
    """Of each cost the mean over the runs that have it; of seconds the median, as one run may have shared its core."""
    costs = [cost_of(run) for run in runs]
    names = dict.fromkeys(name for cost in costs for name in cost)
    found = {name: [cost[name] for cost in costs if name in cost] for name in names}
    return {name: (median if name.startswith("seconds") else _mean)(values) for name, values in found.items()}


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
