"""One learning rate a method, chosen by a figure of the development data, before anything is compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sagetune.comparison.figures import Figure, figures_of, value_of
from sagetune.comparison.variants import Variant

RATE = "sft.learning_rate"
SECTION = "tokens"
"""Its figures are of sft.eval_data, which is not what capabilities and actions are measured on."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant that was chosen from, with the mean of its figure over seeds."""

    variant: str
    method: str
    """The variant without its learning rate: all of one method were chosen from together."""
    rate: float
    value: float
    chosen: bool


def choose(variants: Sequence[Variant], select: str) -> tuple[list[Variant], list[Candidate]]:
    """Of variants that differ in their learning rate alone the best by `select`; then all that were chosen from.

    select: a figure such as tokens.loss. Of equal ones the first counts. Raises ValueError for a figure that is not of
    the development data, or that a variant lacks.
    """
    figure = _figure(variants, select)
    methods: dict[str, list[Variant]] = defaultdict(list)
    for variant in variants:
        methods[variant.name_without(RATE)].append(variant)
    sign = 1 if figure.better == "lower" else -1
    kept, candidates = [], []
    for method, rivals in methods.items():
        values = {variant.name: _mean(variant, figure) for variant in rivals}
        best = min(rivals, key=lambda variant: sign * values[variant.name])
        kept.append(best)
        candidates += [
            Candidate(v.name, method, v.example.config[RATE], values[v.name], v is best) for v in rivals
        ]  # fmt: skip
    return kept, candidates


def unequal_search(candidates: Sequence[Candidate]) -> dict[str, list[float]]:
    """Method -> the learning rates that it was tried with, if not all methods had the same; else empty."""
    rates: dict[str, list[float]] = defaultdict(list)
    for candidate in candidates:
        rates[candidate.method].append(candidate.rate)
    tried = {method: sorted(found) for method, found in rates.items()}
    return tried if len({tuple(found) for found in tried.values()}) > 1 else {}


def edges_of_search(variants: Sequence[Variant]) -> str | None:
    """Who found its learning rate at an edge of budget.learning_rates with most of its seeds, in one line; or None."""
    edges: dict[str, list[str]] = {"lowest": [], "highest": []}
    for variant in variants:
        searches = [run.result["search"] for run in variant.runs.values() if run.result.get("search")]
        for edge, end in (("lowest", min), ("highest", max)):
            found = [
                search["chosen"] == end(trial["learning_rate"] for trial in search["tried"]) for search in searches
            ]
            if 2 * sum(found) > len(found):
                edges[edge].append(variant.name)
    told = [f"the {edge} for {', '.join(names)}" for edge, names in edges.items() if names]
    if not told:
        return None
    return f"the best rate of budget.learning_rates is {' and '.join(told)}: a rate beyond that edge may do better"


def _figure(variants: Sequence[Variant], select: str) -> Figure:
    measured = figures_of(run for variant in variants for run in variant.runs.values())
    allowed = {figure.key: figure for figure in measured if figure.section == SECTION}
    if select not in allowed:
        fix = ", ".join(allowed) or "none was measured: set sft.eval_data"
        raise ValueError(f"select must be a figure of the development data ({fix}), got {select!r}")
    return allowed[select]


def _mean(variant: Variant, figure: Figure) -> float:
    values = [value for run in variant.runs.values() if (value := value_of(run, figure)) is not None]
    if not values:
        raise ValueError(f"select: no run of {variant.name} has {figure.key}; leave its runs out of the folder")
    return sum(values) / len(values)
