"""Runs -> variants: what is compared with what, what differs between them, and what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sagetune.comparison.runs import Run
from sagetune.comparison.sameness import marks_of
from sagetune.runfolder import CHANGES_NOTHING

BASELINE = "A_baseline"
BOOKKEEPING = (
    *(*CHANGES_NOTHING, "seed", "trajectories.collector.seed"),
    *("sft.output_dir", "trainer.checkpoint_every_n_steps"),
)
RECORDS = ("method.", "wandb.")
MEASURING = ("evaluation.", "sft.eval_data", "budget.eval_samples", "budget.benchmark_samples", "data.seed")
TRAINING = ("sft.base_model", "model.", "sft.train_data", "budget.")
"""data.stream is not among them: one task after the other is what a continual method is."""
ABSENT = {
    **{"status": "absent", "reason": "there is no run folder", "traceback": ""},
    **{"command": "the sweep's command again", "run": ""},
}


@dataclass(frozen=True, slots=True)
class Variant:
    """Runs that differ in their seed alone."""

    label: str
    """The method's."""
    fields: dict[str, Any]
    """Those in which runs of the same method and seed differ, with this variant's values."""
    runs: dict[int, Run]
    """Seed -> the finished run."""
    unfinished: dict[int, Run]
    """Seed -> a run that has no result, where no other run of that seed has one."""
    repeats: list[str]
    """Names of runs that are left out because a newer one is the same."""

    @property
    def name(self) -> str:
        return self.name_without(None)

    def name_without(self, field: str | None) -> str:
        """The label and the fields, but for one."""
        return " ".join([self.label, *(f"{name}={value}" for name, value in self.fields.items() if name != field)])

    @property
    def example(self) -> Run:
        """One of its runs, for what all have in common."""
        return next(iter((self.runs or self.unfinished).values()))


def group(runs: Sequence[Run]) -> list[Variant]:
    """The variants of `runs`: the plain baseline first, the others by name.

    A refused run is of none: what nobody could train, such as a typo, tells nothing apart.
    """
    methods: dict[str, list[Run]] = defaultdict(list)
    for run in (run for run in runs if not run.refused):
        methods[run.method.label].append(run)
    variants = [variant for label, members in methods.items() for variant in _variants(label, members)]
    return sorted(variants, key=lambda variant: (variant.label != BASELINE, variant.name))


def splitting_fields(runs: Iterable[Run]) -> list[str]:
    """The fields in which runs of one seed differ."""
    seeds: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        seeds[run.seed].append(run)
    return sorted({field for members in seeds.values() for field in differing(members)})


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Field -> its distinct values, for the fields in which `runs` differ; records and bookkeeping apart."""
    names = dict.fromkeys(name for run in runs for name in run.config)
    values = {name: _distinct(run.config.get(name) for run in runs) for name in names if _is_setting(name)}
    return {name: found for name, found in values.items() if len(found) > 1}


def missing(variants: Sequence[Variant], refused: Sequence[Run] = ()) -> list[dict[str, str]]:
    """Each cell of variant and seed without a result: variant, seed, status, reason, traceback, command, run.

    The cells are all variants with all seeds that any run folder has: what was never started has no folder to tell.
    Then the `refused` runs, under their method.
    """
    seeds = sorted({seed for variant in variants for seed in (*variant.runs, *variant.unfinished)})
    cells = []
    for variant in variants:
        for seed in (seed for seed in seeds if seed not in variant.runs):
            run = variant.unfinished.get(seed)
            cells.append({"variant": variant.name, "seed": str(seed), **(_told(run) if run else ABSENT)})
    return cells + [{"variant": run.method.label, "seed": str(run.seed), **_told(run)} for run in refused]


def disagreements(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """Fields that should agree over all finished runs and do not: field, what it decides, value -> who has it.

    Then environments: where runs were made by different commits, versions or machines.
    """
    runs = [(variant.name, run) for variant in variants for run in variant.runs.values()]
    found = []
    for field in differing([run for _, run in runs]):
        what = "measuring" if field.startswith(MEASURING) else "training" if field.startswith(TRAINING) else None
        if what:
            found.append(_split(field, what, [(name, run.config.get(field)) for name, run in runs]))
    for field in ("git", "versions", "device", "cpu"):
        if len(_distinct(run.environment.get(field) for _, run in runs)) > 1:
            found.append(_split(field, "environment", [(name, run.environment.get(field)) for name, run in runs]))
    for variant in variants:
        for field, values in differing(list(variant.runs.values())).items():
            found.append({"field": field, "what": "seeds", "values": [[str(v), [variant.name]] for v in values]})
    return found + _other_items(runs)


def changes(variant: Variant, baseline: Variant) -> dict[str, list[Any]]:
    """Field -> [the baseline's value, the variant's], for the fields in which they differ."""
    return differing([baseline.example, variant.example])


def _told(run: Run) -> dict[str, str]:
    """How a run without a result stands."""
    told = {"status": run.status, "reason": run.reason, "traceback": run.traceback}
    return {**told, "command": run.command, "run": run.name}


def _variants(label: str, runs: Sequence[Run]) -> list[Variant]:
    """The variants of one method."""
    names = splitting_fields(runs)
    members: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        members[str([run.config.get(name) for name in names])].append(run)
    return [_variant(label, {name: found[0].config.get(name) for name in names}, found) for found in members.values()]


def _variant(label: str, fields: dict[str, Any], members: Sequence[Run]) -> Variant:
    """Of runs with the same seed the newest finished one counts."""
    ordered = sorted(members, key=lambda run: (run.environment.get("time", ""), run.name))
    runs = {run.seed: run for run in ordered if run.done}
    unfinished = {run.seed: run for run in ordered if not run.done and run.seed not in runs}
    repeats = [run.name for run in ordered if run.done and runs[run.seed] is not run]
    return Variant(label, fields, dict(sorted(runs.items())), dict(sorted(unfinished.items())), repeats)


def _other_items(runs: Sequence[tuple[str, Run]]) -> list[dict[str, Any]]:
    """Which capabilities were measured, each on other prompts, data or decoding, as hashes tell; other sections."""
    found = []
    reports = [(name, (run.result["after"].get("capabilities") or {"scores": {}})["scores"]) for name, run in runs]
    measured_ones = [(name, ", ".join(sorted(scores)) or "none") for name, scores in reports]
    if len(_distinct(names for _, names in measured_ones)) > 1:
        found.append(_split("capabilities", "measuring", measured_ones))
    for capability in dict.fromkeys(key for _, scores in reports for key in scores):
        hashes = [(name, s[capability]["details"]["hashes"]) for name, s in reports if capability in s]
        if len(_distinct(value for _, value in hashes)) > 1:
            found.append(_split(f"items of {capability}", "measuring", hashes))
    marks = [(name, marks_of(run)) for name, run in runs]
    for section in ("tokens", "tokens.hash", "preferences", "actions"):
        measured = [(name, of_run[section]) for name, of_run in marks if section in of_run]
        if len(_distinct(mark for _, mark in measured)) > 1:
            found.append(_split(f"items of {section}", "measuring", measured))
    return found


def _split(field: str, what: str, values: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """values: [value in words, the variants that have it]."""
    holders: dict[str, list[str]] = defaultdict(list)
    for name, value in values:
        if name not in holders[format_value(value)]:
            holders[format_value(value)].append(name)
    return {"field": field, "what": what, "values": [[value, names] for value, names in holders.items()]}


def format_value(value: Any) -> str:
    """A setting as people write it; a dict as its entries."""
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _is_setting(name: str) -> bool:
    return name not in BOOKKEEPING and not name.startswith(RECORDS)


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
