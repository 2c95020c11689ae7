"""A folder of runs -> everything that its report says, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagetune.comparison.baselines import Baselines, choose_baselines, remedy
from sagetune.comparison.choosing import RATE, Candidate, choose, edges_of_search
from sagetune.comparison.costs import Cost, cost_of, equal_budget, usual_cost
from sagetune.comparison.figures import Figure, figures_of, primary_of, value_of
from sagetune.comparison.runs import Run, read_runs
from sagetune.comparison.statistics import least_p, seeds_needed
from sagetune.comparison.variants import Variant, changes, disagreements, group, missing
from sagetune.comparison.verdicts import Verdict, judge, num_comparisons, seeds_without_value
from sagetune.comparison.wording import sentence, verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that is shown."""

    folder: Path
    runs: list[Run]
    variants: list[Variant]
    compared: list[Variant]
    """Those with a result, and where learning rates were chosen, only with the chosen one."""
    candidates: list[Candidate]
    """What learning rates were chosen from."""
    figures: list[Figure]
    primary: Figure | None
    """What the sentences are about first; None if no run has finished."""
    baselines: Baselines
    """Variant with a result -> the one that it is compared with."""
    verdicts: list[Verdict]
    costs: dict[str, Cost]
    """Variant -> cost -> mean over its runs."""
    missing: list[dict[str, str]]
    disagreements: list[dict[str, Any]]
    unequal: list[dict[str, Any]]
    """Budgets that the variants do not share; see `equal_budget`."""
    not_finite: list[dict[str, Any]]
    """variant, figure and seeds that measured it without a finite value."""
    search_edges: str | None
    """Who searched a learning rate and found it at an edge of the grid; see `edges_of_search`."""

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.absolute().name

    @property
    def baseline(self) -> str | None:
        """What all are compared with; None where it is not the same for all, or there is none."""
        named = {baseline for baseline in self.baselines.values() if baseline is not None}
        return named.pop() if len(named) == 1 else None

    @property
    def remedy(self) -> str | None:
        """What to do where variants have no baseline; None where all have one."""
        return remedy(self.folder, self.compared, self.baselines)

    def changes_of(self, variant: Variant) -> dict[str, list[Any]] | None:
        """Field -> [its baseline's value, its own]; None without a baseline."""
        name = self.baselines.get(variant.name, self.baseline)  # without a result it has none of its own
        return next((changes(variant, one) for one in self.compared if one.name == name), None)

    def of(self, figure: Figure) -> dict[str, Verdict]:
        """Variant -> its verdict on `figure`."""
        return {found.evidence.variant: found for found in self.verdicts if found.figure == figure}


def compare(folder: Path, baseline: str | None = None, select: str | None = None) -> Comparison:
    """Compare the runs whose folders lie in `folder`.

    baseline: a variant's name; None = of each variant the A_baseline with its settings. select: a figure of the
    development data, such as tokens.loss, by which one learning rate a method is chosen first; None = all variants are
    compared. Raises ValueError if there is no run, no such variant or no such figure.
    """
    runs = read_runs(folder)
    variants, refused = group(runs), [run for run in runs if run.refused]
    done = [variant for variant in variants if variant.runs]
    candidates: list[Candidate] = []
    if select is not None:
        done, candidates = choose(done, select)
    figures = figures_of(run for variant in done for run in variant.runs.values())
    baselines = choose_baselines(done, baseline, free=(RATE,) if select is not None else ())
    costs = {variant.name: usual_cost(list(variant.runs.values())) for variant in done}
    return Comparison(
        folder=folder,
        runs=runs,
        variants=variants,
        compared=done,
        candidates=candidates,
        figures=figures,
        primary=primary_of(figures) if figures else None,
        baselines=baselines,
        verdicts=judge(done, figures, baselines),
        costs=costs,
        missing=missing(variants, refused),
        disagreements=disagreements(done),
        unequal=equal_budget(costs),
        not_finite=_not_finite(done, figures),
        search_edges=edges_of_search(done),
    )


def to_dict(found: Comparison) -> dict[str, Any]:
    """Plain containers for results.json."""
    by_name = {variant.name: variant for variant in found.variants}
    return {
        "folder": found.name,
        "chosen_from": [dataclasses.asdict(candidate) for candidate in found.candidates],
        "baseline": found.baseline,
        "primary": found.primary.key if found.primary else None,
        "variants": [
            {
                "variant": name,
                "method": dataclasses.asdict(variant.example.method),
                "runs": {str(seed): run.name for seed, run in variant.runs.items()},
                "repeats": variant.repeats,
                "baseline": found.baselines.get(name),
                "changes": found.changes_of(variant),
                "costs": found.costs.get(name),
                "figures": {v.figure.key: _judged(v) for v in found.verdicts if v.evidence.variant == name},
            }
            for name, variant in by_name.items()
        ],
        "tests": {figure.key: tests(found, figure) for figure in found.figures},
        "missing": found.missing,
        "disagreements": found.disagreements,
        "unequal_budgets": found.unequal,
        "not_finite": found.not_finite,
        "search_edges": found.search_edges,
    }


def tests(found: Comparison, figure: Figure) -> dict[str, Any]:
    """What the tests on `figure` can show at best: comparisons, most seeds, least p, and the seeds that 0.05 takes."""
    num = num_comparisons(found.verdicts, figure)
    differences = [verdict.evidence.difference for verdict in found.of(figure).values()]
    seeds = max((len(difference.seeds) for difference in differences if difference), default=0)
    return {
        "comparisons": num,
        "seeds": seeds,
        "least_p": least_p(seeds) if seeds else None,
        "seeds_needed": seeds_needed(num) if num else None,
    }


def rows_of(found: Comparison) -> list[dict[str, Any]]:
    """A row for each run folder: how it stands, its figures and its costs; for results.csv."""
    names = {run.name: variant.name for variant in found.variants for run in _members(variant)}
    rows = []
    for run in found.runs:
        row: dict[str, Any] = {"run": run.name, "variant": names.get(run.name, ""), "method": run.method.label}
        row |= {"seed": run.seed, "status": run.status, "reason": run.reason}
        row["commit"] = (run.environment.get("git") or {}).get("commit")
        if run.done:
            row["learning_rate"] = run.result["learning_rate"]
            row |= {figure.key: value_of(run, figure) for figure in found.figures} | cost_of(run)
        rows.append(row)
    return rows


def _not_finite(variants: Sequence[Variant], figures: Sequence[Figure]) -> list[dict[str, Any]]:
    return [
        {"variant": variant.name, "figure": figure.label, "seeds": seeds}
        for figure in figures
        for variant in variants
        if (seeds := seeds_without_value(variant, figure))
    ]


def _members(variant: Variant) -> list[Run]:
    return [*variant.runs.values(), *variant.unfinished.values()]


def _judged(found: Verdict) -> dict[str, Any]:
    evidence = dataclasses.asdict(found.evidence)
    return {
        "verdict": verdict(found.evidence),
        "sentence": sentence(found.evidence),
        "seeds": {str(seed): value for seed, value in found.values.items()},
        "untouched": found.untouched,
        "rank": dataclasses.asdict(found.rank) if found.rank else None,
        **{name: evidence[name] for name in evidence if name not in ("variant", "values")},
    }
