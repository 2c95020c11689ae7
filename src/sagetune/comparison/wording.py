"""The words that figures allow. The rules stand here and nowhere else: what a sentence claims, its evidence bears.

A variant is called better or worse only if the interval over seeds leaves out no change *and* the exact test, after
Holm's correction, comes out below ALPHA: the interval supposes normal values, which a few seeds cannot show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sagetune.comparison.statistics import ALPHA, all_alike
from sagetune.report import format_delta, format_figure

SMALL_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, slots=True)
class Difference:
    """A variant minus the baseline, paired by seed."""

    seeds: list[int]
    values: list[float]
    """One a seed."""
    mean: float
    interval: tuple[float, float] | None
    """95 %, Student's t over the seeds; None for one seed, or where all seeds give the same."""
    p: float
    """Exact sign-flip test over the seeds, two-sided."""
    least_p: float
    """The smallest that so many seeds can give."""
    p_holm: float
    """`p` corrected for the number of comparisons."""


@dataclass(frozen=True, slots=True)
class OnItems:
    """A variant minus the baseline on the same test items, each item's mean over the seeds that both have."""

    num_items: int
    mean: float
    interval: tuple[float, float]
    """95 %, paired bootstrap over the items."""
    p: float
    """Sign-flip test over the items, two-sided; McNemar's exact test for one seed and scores of 0 and 1."""
    p_holm: float
    by_seed: list[dict[str, float]]
    """seed, items that the variant alone has right (won), that the baseline alone has right (lost), McNemar's p."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one variant on one figure; verdict and sentence rest on nothing else."""

    variant: str
    figure: str
    form: str
    """ "share" of 1, or "number"."""
    better: str
    """ "higher" or "lower"."""
    values: list[float]
    """One a seed."""
    mean: float
    interval: tuple[float, float] | None
    level: tuple[str, float] | None
    """Name and value of a score that takes no learning, such as the chance level."""
    above_level: bool | None
    """Whether every interval of the score, over seeds and over items, lies above it; None without level or interval."""
    baseline: str | None
    """The variant that all are compared with; itself for the baseline, None if there is none."""
    difference: Difference | None
    """None for the baseline, and for a variant that shares no seed with it."""
    items: OnItems | None = None
    other_items: bool = False
    """Whether a run was measured on other test items than the baseline's run of the same seed."""
    left_out: list[int] = field(default_factory=list)
    """Seeds whose run measured the figure and has no finite value of it."""


def verdict(evidence: Evidence) -> str:
    """better, worse, leans better, leans worse, undecided, same, constant, one seed, other items, no shared seed, no
    baseline or baseline. `leans`: the interval leaves out no change, and the exact test does not bear it out."""
    difference = evidence.difference
    if evidence.baseline is None:
        return "no baseline"
    if evidence.baseline == evidence.variant:
        return "baseline"
    if difference is None:
        return "no shared seed"
    if evidence.other_items:
        return "other items"
    if len(difference.values) == 1:
        return "one seed"
    if all_alike(difference.values):
        return "constant" if difference.mean else "same"
    assert difference.interval is not None
    low, high = difference.interval
    if low <= 0 <= high:
        return "undecided"
    side = "better" if (low > 0) == (evidence.better == "higher") else "worse"
    return side if difference.p_holm < ALPHA else f"leans {side}"


def sentence(evidence: Evidence) -> str:
    """One variant on one figure in words, with no claim that the evidence does not bear."""
    found = verdict(evidence)
    if found in ("baseline", "no baseline", "no shared seed"):
        return _alone(evidence, found) + _left_out(evidence) + _below_level(evidence) + "."
    difference = evidence.difference
    assert difference is not None
    seeds, change = _seeds(len(difference.values)), format_delta(difference.mean, evidence.form)
    opening = f"{evidence.variant}: {change} on {evidence.figure} over {evidence.baseline} in {seeds}"
    if difference.interval is not None:
        opening += f" ({_interval(difference.interval, evidence.form)})"
    qualified = _claim(found, difference) + _left_out(evidence) + _below_level(evidence)
    return opening + qualified + "." + _on_items(evidence)


def format_p(p: float) -> str:
    """ "p = 0.25", or "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _alone(evidence: Evidence, found: str) -> str:
    """The score itself, where there is nothing to compare it with."""
    score = format_figure(evidence.mean, evidence.form)
    text = f"{evidence.variant}: {score} on {evidence.figure} in {_seeds(len(evidence.values))}"
    if evidence.interval is not None:
        low, high = (format_figure(end, evidence.form) for end in evidence.interval)
        text += f" (95 % interval {low} to {high})"
    reasons = {
        "baseline": "; the others are compared with it",
        "no baseline": "; there is no baseline to compare it with",
        "no shared seed": f"; it shares no seed with {evidence.baseline}, so there is no paired comparison",
    }
    return text + reasons[found]


def _claim(found: str, difference: Difference) -> str:
    num = len(difference.values)
    if found == "other items":
        return ": no verdict, the two were not measured on the same test items"
    if found == "one seed":
        return ": one seed has no interval and tells nothing of another"
    if found == "same":
        return ": the same in each"
    if found == "constant":
        return ": the same change in each, so the spread over seeds is unknown and nothing is told of another"
    tested = f"exact {_tested(difference.p, difference.p_holm)}"
    if found in ("better", "worse"):
        return f": {found} ({tested})"
    if found == "undecided":
        return ": not told apart from no change" + (f"; {_floor(num)}" if difference.least_p >= ALPHA else "")
    limit = f", and {_floor(num)}" if difference.least_p >= ALPHA else ""
    return f": {found}, not established: the interval supposes normal differences ({tested}{limit})"


def _tested(p: float, p_holm: float) -> str:
    """Both p-values, or one where the correction changes nothing that is shown."""
    plain, corrected = format_p(p), format_p(p_holm)
    return plain if plain == corrected else f"{plain}, {corrected.removeprefix('p = ')} after Holm's correction"


def _floor(num_seeds: int) -> str:
    return f"{_seeds(num_seeds)} cannot give p below {2.0 ** (1 - num_seeds):.2g}"


def _left_out(evidence: Evidence) -> str:
    """Seeds that the mean lacks: a value that is not finite, as of a model that diverged, is in no mean."""
    if not evidence.left_out:
        return ""
    seeds = ", ".join(map(str, evidence.left_out))
    if len(evidence.left_out) == 1:
        return f"; seed {seeds} has no finite value and is left out"
    return f"; seeds {seeds} have no finite value and are left out"


def _below_level(evidence: Evidence) -> str:
    if evidence.level is None or evidence.above_level is not False:
        return ""
    name, value = evidence.level
    claim = "not established to be above" if evidence.mean > value else "not above"
    return f"; its score is {claim} the {name} of {format_figure(value, evidence.form)}"


def _on_items(evidence: Evidence) -> str:
    """What the test items tell of these trained models, whatever another seed would give."""
    items = evidence.items
    if items is None:
        return ""
    if not any(seed["won"] or seed["lost"] for seed in items.by_seed) and items.interval == (0, 0):
        return f" On the same {items.num_items:,} test items: no difference on any."
    low, high = items.interval
    told = (low > 0 or high < 0) and items.p_holm < ALPHA
    change = f"{format_delta(items.mean, evidence.form)}, {_interval(items.interval, evidence.form)}"
    claim = "these trained models differ beyond the draw of items" if told else "not told apart from no change"
    return f" On the same {items.num_items:,} test items: {claim} ({change}; {_tested(items.p, items.p_holm)})."


def _interval(ends: Sequence[float], form: str) -> str:
    low, high = (format_delta(end, form) for end in ends)
    return f"95 % interval {low} to {high}"


def _seeds(num: int) -> str:
    word = SMALL_NUMBERS[num] if num < len(SMALL_NUMBERS) else str(num)
    return f"{word} seed{'' if num == 1 else 's'}"
