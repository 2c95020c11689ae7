"""A folder of runs -> everything that its report says, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagetune.comparison.choosing import Candidate, choose
from sagetune.comparison.costs import Cost, cost_of, equal_budget, mean_cost
from sagetune.comparison.figures import Figure, figures_of, primary_of, value_of
from sagetune.comparison.runs import Run, read_runs
from sagetune.comparison.statistics import least_p, seeds_needed
from sagetune.comparison.variants import Variant, changes, choose_baseline, disagreements, group, missing
from sagetune.comparison.verdicts import Verdict, judge, num_comparisons
from sagetune.comparison.wording import sentence, verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that is shown."""

    name: str
    """Of the folder."""
    runs: list[Run]
    variants: list[Variant]
    compared: list[Variant]
    """Those with a result, and where learning rates were chosen, only with the chosen one."""
    candidates: list[Candidate]
    """What learning rates were chosen from."""
    figures: list[Figure]
    primary: Figure | None
    """What the sentences are about first; None if no run has finished."""
    baseline: str | None
    verdicts: list[Verdict]
    costs: dict[str, Cost]
    """Variant -> cost -> mean over its runs."""
    missing: list[dict[str, str]]
    disagreements: list[dict[str, Any]]
    unequal: list[dict[str, Any]]
    """Budgets that the variants do not share; see `equal_budget`."""

    def of(self, figure: Figure) -> dict[str, Verdict]:
        """Variant -> its verdict on `figure`."""
        return {found.evidence.variant: found for found in self.verdicts if found.figure == figure}


def compare(folder: Path, baseline: str | None = None, select: str | None = None) -> Comparison:
    """Compare the runs whose folders lie in `folder`.

    baseline: a variant's name; None = the only plain baseline. select: a figure of the development data, such as
    tokens.loss, by which one learning rate a method is chosen first; None = all variants are compared. Raises
    ValueError if there is no run, no such variant or no such figure.
    """
    runs = read_runs(folder)
    variants = group(runs)
    done = [variant for variant in variants if variant.runs]
    candidates: list[Candidate] = []
    if select is not None:
        done, candidates = choose(done, select)
    figures = figures_of(run for variant in done for run in variant.runs.values())
    reference = choose_baseline(done, baseline)
    costs = {variant.name: mean_cost(list(variant.runs.values())) for variant in done}
    return Comparison(
        name=folder.absolute().name,
        runs=runs,
        variants=variants,
        compared=done,
        candidates=candidates,
        figures=figures,
        primary=primary_of(figures) if figures else None,
        baseline=reference,
        verdicts=judge(done, figures, reference),
        costs=costs,
        missing=missing(variants),
        disagreements=disagreements(done),
        unequal=equal_budget(costs),
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
                "changes": changes(variant, by_name[found.baseline]) if found.baseline else None,
                "costs": found.costs.get(name),
                "figures": {v.figure.key: _judged(v) for v in found.verdicts if v.evidence.variant == name},
            }
            for name, variant in by_name.items()
        ],
        "tests": {figure.key: tests(found, figure) for figure in found.figures},
        "missing": found.missing,
        "disagreements": found.disagreements,
        "unequal_budgets": found.unequal,
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


def _members(variant: Variant) -> list[Run]:
    return [*variant.runs.values(), *variant.unfinished.values()]


def _judged(found: Verdict) -> dict[str, Any]:
    evidence = dataclasses.asdict(found.evidence)
    return {
        "verdict": verdict(found.evidence),
        "sentence": sentence(found.evidence),
        "seeds": {str(seed): value for seed, value in found.values.items()},
        "untouched": found.untouched,
        "rank": dataclasses.asdict(found.rank),
        **{name: evidence[name] for name in evidence if name not in ("variant", "values")},
    }
