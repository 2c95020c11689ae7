"""Variants -> what is known of each on each figure: over seeds, over test items, against the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sagetune.comparison.figures import OVERALL, Figure, ItemKey, Items, Level, items_of, level_of, value_of
from sagetune.comparison.runs import Run
from sagetune.comparison.sameness import Marks, are_same_in_all, marks_of
from sagetune.comparison.statistics import Rank, holm, least_p, mcnemar_p, ranks, sign_flip_p, t_interval
from sagetune.comparison.variants import Variant
from sagetune.comparison.wording import Difference, Evidence, OnItems
from sagetune.evaluation.scoring.intervals import bootstrap, macro_average, wilson

Values = Mapping[int, float]
"""Seed -> the figure's value."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One variant on one figure."""

    figure: Figure
    values: dict[int, float]
    """Seed -> value."""
    untouched: float | None
    """The figure before training, mean over the runs."""
    rank: Rank | None
    """None for a variant that lacks a seed that ranks go by, or was measured on other items than its baseline."""
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Sources:
    """What all verdicts on one figure are made from, by variant."""

    baselines: Mapping[str, str | None]
    """The variant that each is compared with."""
    scores: Mapping[str, Values]
    items: Mapping[str, Mapping[int, Items]]
    """Seed -> the score of each test item."""
    marks: Mapping[str, Mapping[int, Marks]]
    """Seed -> what tells the run's test items from others."""


def judge(variants: Sequence[Variant], figures: Sequence[Figure], baselines: Mapping[str, str | None]) -> list[Verdict]:
    """A verdict for each variant on each figure that it has, with p-values corrected over all comparisons of a kind.

    baselines: variant -> the one that it is compared with, itself for a baseline, None for no comparison. The
    corrections count the comparisons with all baselines together.
    """
    marks = {variant.name: {seed: marks_of(run) for seed, run in variant.runs.items()} for variant in variants}
    found = [verdict for figure in figures for verdict in _on_figure(figure, variants, baselines, marks)]
    families: dict[str, list[int]] = {}
    for place, verdict in enumerate(found):
        families.setdefault(family_of(verdict.figure), []).append(place)
    for places in families.values():
        _correct(found, places)
    return found


def family_of(figure: Figure) -> str:
    """Comparisons of one family are corrected together: all capabilities, and each other figure by itself."""
    return "capabilities" if figure.is_capability else figure.key


def num_comparisons(verdicts: Sequence[Verdict], figure: Figure) -> int:
    """How many p-values the correction for `figure` counts."""
    family = [verdict for verdict in verdicts if family_of(verdict.figure) == family_of(figure)]
    return sum(verdict.evidence.difference is not None for verdict in family)


def _correct(verdicts: list[Verdict], places: Sequence[int]) -> None:
    """Put Holm's p-values in, for the tests over seeds and for those over items."""
    over_seeds = [place for place in places if verdicts[place].evidence.difference is not None]
    over_items = [place for place in places if verdicts[place].evidence.items is not None]
    for place, p in zip(over_seeds, holm([_difference(verdicts[place]).p for place in over_seeds]), strict=True):
        evidence = verdicts[place].evidence
        corrected = replace(evidence, difference=replace(_difference(verdicts[place]), p_holm=p))
        verdicts[place] = replace(verdicts[place], evidence=corrected)
    for place, p in zip(over_items, holm([_items(verdicts[place]).p for place in over_items]), strict=True):
        evidence = verdicts[place].evidence
        corrected = replace(evidence, items=replace(_items(verdicts[place]), p_holm=p))
        verdicts[place] = replace(verdicts[place], evidence=corrected)


def _difference(verdict: Verdict) -> Difference:
    assert verdict.evidence.difference is not None
    return verdict.evidence.difference


def _items(verdict: Verdict) -> OnItems:
    assert verdict.evidence.items is not None
    return verdict.evidence.items


def _on_figure(
    figure: Figure,
    variants: Sequence[Variant],
    baselines: Mapping[str, str | None],
    marks: Mapping[str, Mapping[int, Marks]],
) -> list[Verdict]:
    scores = {variant.name: _values(variant, figure) for variant in variants}
    scores = {name: values for name, values in scores.items() if values}
    items = {v.name: {seed: items_of(run, figure) for seed, run in v.runs.items()} for v in variants}
    sources = Sources(baselines, scores, items, marks)
    evidence = {variant.name: _evidence(figure, variant, sources) for variant in variants if variant.name in scores}
    places = ranks({name: scores[name] for name, one in evidence.items() if not one.other_items}, figure.better)
    return [
        Verdict(
            figure=figure,
            values=scores[variant.name],
            untouched=_mean(_values(variant, figure, "before")),
            rank=places.get(variant.name),
            evidence=evidence[variant.name],
        )
        for variant in variants
        if variant.name in scores
    ]


def _evidence(figure: Figure, variant: Variant, sources: Sources) -> Evidence:
    name, baseline, scores = variant.name, sources.baselines[variant.name], sources.scores
    values, level = list(scores[name].values()), level_of(variant.example, figure)
    reference = baseline if baseline in scores else None
    interval = t_interval(values)
    difference, on_items, same = None, None, True
    if reference is not None and reference != name:
        difference = difference_of(scores[name], scores[reference])
        on_items = compare_items(sources.items[name], sources.items[reference])
        same = are_same_in_all(figure, sources.marks[name], sources.marks[reference])
    mean = sum(values) / len(values)
    return Evidence(
        variant=name,
        figure=figure.label,
        form=figure.form,
        better=figure.better,
        values=values,
        mean=mean,
        interval=interval,
        level=(level.name, level.value) if level else None,
        above_level=_is_above(level, interval, sources.items[name]),
        baseline=reference,
        difference=difference,
        items=on_items,
        other_items=not same,
        left_out=seeds_without_value(variant, figure),
    )


def seeds_without_value(variant: Variant, figure: Figure) -> list[int]:
    """Seeds whose run measured `figure` and has no finite value of it, as after training that diverged."""
    return [seed for seed, run in variant.runs.items() if was_measured(run, figure) and value_of(run, figure) is None]


def difference_of(values: Values, baseline: Values) -> Difference | None:
    """`values` minus `baseline` over the seeds that both have, p_holm not corrected yet; None without such a seed."""
    seeds = sorted(set(values) & set(baseline))
    if not seeds:
        return None
    differences = [values[seed] - baseline[seed] for seed in seeds]
    p, mean = sign_flip_p(differences), sum(differences) / len(seeds)
    return Difference(seeds, differences, mean, t_interval(differences), p, least_p(len(seeds)), p)


def compare_items(items: Mapping[int, Items], baseline: Mapping[int, Items]) -> OnItems | None:
    """Both variants on the items that all their runs have; an item counts once, with its mean over the shared seeds.

    items, baseline: seed -> group -> item -> score. Groups have equal weight. Without a shared seed all seeds count.
    None if they share no item.
    """
    seeds = sorted(set(items) & set(baseline))
    ours, theirs = (over_seeds({seed: own[seed] for seed in seeds or own}) for own in (items, baseline))
    shared = {group: sorted(set(ours[group]) & set(theirs[group])) for group in ours if group in theirs}
    shared = {group: keys for group, keys in shared.items() if keys}
    if not shared or set(shared) != set(ours) | set(theirs):
        return None
    differences = {g: [ours[g][key] - theirs[g][key] for key in keys] for g, keys in shared.items()}
    rate = macro_average(differences)
    assert rate.value is not None
    assert rate.low is not None
    assert rate.high is not None
    weighted = [d * rate.n / len(found) / len(differences) for found in differences.values() for d in found]
    p = sign_flip_p(weighted)
    by_seed = [_of_seed(seed, items[seed], baseline[seed], shared) for seed in seeds]
    return OnItems(rate.n, rate.value, (rate.low, rate.high), p, p, by_seed)


def over_seeds(items: Mapping[int, Items]) -> Items:
    """Each item's mean over the seeds; items that not every seed has are left out."""
    groups = dict.fromkeys(group for found in items.values() for group in found)
    means: Items = {}
    for group in groups:
        runs = [found.get(group, {}) for found in items.values()]
        keys = [key for key in runs[0] if all(key in run for run in runs)]
        means[group] = {key: sum(run[key] for run in runs) / len(runs) for key in keys}
    return means


def _of_seed(seed: int, items: Items, baseline: Items, shared: Mapping[str, Sequence[ItemKey]]) -> dict[str, float]:
    """How often one of the two runs of a seed does better on an item, and McNemar's test of it."""
    pairs = [(items[group][key], baseline[group][key]) for group, keys in shared.items() for key in keys]
    won, lost = sum(ours > theirs for ours, theirs in pairs), sum(ours < theirs for ours, theirs in pairs)
    return {"seed": seed, "won": won, "lost": lost, "p": mcnemar_p(won, lost)}


def _is_above(level: Level | None, interval: tuple[float, float] | None, items: Mapping[int, Items]) -> bool | None:
    """Whether the intervals of a score over seeds and over items lie above `level`."""
    lows = [interval[0]] if interval else []
    for scores in over_seeds(items).values():
        alone = all(score in (0.0, 1.0) for score in scores.values())
        rate = wilson(int(sum(scores.values())), len(scores)) if alone else bootstrap(list(scores.values()))
        if rate.low is not None:
            lows.append(rate.low)
    return min(lows) > level.value if level and lows else None


def was_measured(run: Run, figure: Figure) -> bool:
    """Whether a finished run measured `figure`, whatever came out."""
    after = run.result["after"]
    if figure.section != "capability":
        return bool(after.get(figure.section))
    scores = (after.get("capabilities") or {"scores": {}})["scores"]
    return bool(scores) if figure.key == OVERALL else figure.field in scores


def _values(variant: Variant, figure: Figure, when: str = "after") -> dict[int, float]:
    found = {seed: value_of(run, figure, when) for seed, run in variant.runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _mean(values: Values) -> float | None:
    return sum(values.values()) / len(values) if values else None
