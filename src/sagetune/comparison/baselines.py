"""What each variant is compared with: the baseline that shares its other settings, or one that is named for all."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from sagetune.comparison.variants import BASELINE, Variant, differing

OPTIONS = ("mixture", "coreset", "continual", "objective")
"""Fields of MethodInfo: what can be put in place of a method's own, for several methods alike."""
Baselines = dict[str, str | None]
"""Variant -> the one that it is compared with: itself for a baseline, None if there is none."""


def choose_baselines(variants: Sequence[Variant], asked: str | None, free: Collection[str] = ()) -> Baselines:
    """The baseline of each variant: the one `asked` for, else the A_baseline that shares its settings and options.

    Where several plain baselines differ in a field that was swept, a variant has the one with its own value, so that
    rank 8 is compared with rank 8; with a mixture, coreset, replay or objective for several methods it has the one with
    the most of its own, so that DoRA with a mixture is compared with the baseline with that mixture, and this one with
    the plain baseline.

    variants: those with a result. free: fields that need not agree, as each variant had its own value chosen. Raises
    ValueError for a name that is not there.
    """
    names = [variant.name for variant in variants]
    if asked is not None:
        if asked not in names:
            raise ValueError(f"baseline must be a variant with a finished run ({', '.join(names)}), got {asked!r}")
        return dict.fromkeys(names, asked)
    plain = [variant for variant in variants if _is_plain(variant)]
    found = {variant.name: _baseline_of(variant, plain, free) for variant in variants}
    followed = {baseline for name, baseline in found.items() if baseline != name}
    # A baseline that nothing is compared with is none, but for one that has no other variant beside it.
    return {
        name: baseline if baseline != name or name in followed or len(names) == 1 else None
        for name, baseline in found.items()
    }


def remedy(folder: Path, variants: Sequence[Variant], baselines: Baselines) -> str | None:
    """What to do about variants without a baseline, in one line; None if all have one, or there is only one."""
    lacking = [name for name, baseline in baselines.items() if baseline is None]
    if not lacking or len(baselines) == 1:
        return None
    candidate = next((variant for variant in variants if _is_plain(variant)), variants[0]).name
    command = f"sagetune compare {shlex.quote(str(folder))} baseline={shlex.quote(candidate)}"
    return (
        f"not compared: {', '.join(lacking)}; there is no {BASELINE} with the same settings. "
        f"baseline=<variant> compares all with that one, as in: {command}"
    )


def groups_of(variants: Sequence[Variant], baselines: Mapping[str, str | None]) -> dict[str | None, list[Variant]]:
    """Baseline -> the variants that are compared with it."""
    groups: dict[str | None, list[Variant]] = {}
    for variant in variants:
        groups.setdefault(baselines[variant.name], []).append(variant)
    return groups


def _is_plain(variant: Variant) -> bool:
    return variant.example.method.id == BASELINE


def _options_of(variant: Variant) -> set[tuple[str, str]]:
    told = vars(variant.example.method)
    return {(name, told[name]) for name in OPTIONS if told[name]}


def _baseline_of(variant: Variant, plain: Sequence[Variant], free: Collection[str]) -> str | None:
    """Of the plain baselines with options of `variant` and its settings the one with the most; None of several."""
    own = _options_of(variant)
    candidates = [one for one in plain if _options_of(one) <= own]
    if _is_plain(variant):
        candidates = [one for one in candidates if _options_of(one) < own]
    fitting = [one for one in candidates if _agree(variant, one, plain, free)]
    most = max((len(_options_of(one)) for one in fitting), default=0)
    nearest = [one.name for one in fitting if len(_options_of(one)) == most]
    if not nearest and _is_plain(variant):
        return variant.name
    return nearest[0] if len(nearest) == 1 else None


def _agree(variant: Variant, baseline: Variant, plain: Sequence[Variant], free: Collection[str]) -> bool:
    """Whether `variant` has the values of `baseline` where baselines with the same options differ."""
    rivals = [one for one in plain if _options_of(one) == _options_of(baseline)]
    telling = set(differing([one.example for one in rivals])) & set(baseline.fields) - set(free)
    return all(variant.example.config.get(field) == baseline.example.config.get(field) for field in telling)
