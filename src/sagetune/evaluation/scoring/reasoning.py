"""Short answers: GSM8K's number, exact match with F1, yes or no."""

from __future__ import annotations

import re

from sagetune.evaluation.answers import exact_match, f1, normalized, yes_no_match
from sagetune.evaluation.scoring.verdict import Scored, judged, not_an_answer, shorten, unreadable

STRICT = re.compile(r"#### (\-?[0-9.,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
YES_OR_NO = re.compile(r"\W*(yes|no)\b(?!\W*(or|and)?\W*(yes|no)\b)", re.IGNORECASE)


def strict_answer(text: str) -> str | None:
    """The first number after `####`, as GSM8K's solutions end; None if there is none."""
    found = STRICT.search(text)
    return found[1] if found else None


def flexible_answer(text: str) -> str | None:
    """The last number of the text, None if there is none."""
    numbers = [found[0] for found in FLEXIBLE.finditer(text)]
    return numbers[-1] if numbers else None


def gold_number(gold: str) -> str:
    """The number of a solution of GSM8K, or `gold` if it is one. Raises ValueError if it has none."""
    wanted = strict_answer(gold) or (gold if FLEXIBLE.fullmatch(gold.strip()) else None)
    if wanted is None:
        raise ValueError(f"gold: expected a number or a solution that ends with '#### <number>', got {gold!r:.120}")
    return wanted


def score_gsm8k(text: str, gold: str) -> Scored:
    """1 if the number after `####` is the gold one, else 0; parse_failure without such a number.

    gold: GSM8K's solution or its number. Figures: `strict`, which is the score, and `flexible`, the last number of the
    text, which an echo of the question can hit. Numbers are compared as text without `,`, `$` and a final full stop.
    Source: lm-evaluation-harness 0.4.13, gsm8k.yaml. Raises ValueError if gold has no number.
    """
    wanted = gold_number(gold)
    strict, flexible = strict_answer(text), flexible_answer(text)
    figures = {"strict": _same_number(strict, wanted), "flexible": _same_number(flexible, wanted)}
    if strict is None:
        return Scored(0.0, False, True, not_an_answer(text) or "no number after ####", figures)
    return judged(bool(figures["strict"]), f"{shorten(strict)} is not {wanted}", figures)


def score_answer(answer: str, gold: str, prompt: str = "") -> Scored:
    """Exact match after normalisation, 0 or 1; figures: `exact_match` and `f1` over words (see answers.py).

    answer: the final answer alone, such as the argument of finish. A gold answer that normalisation empties ("A") is
    compared as it stands, or anything without a word would match it.
    """
    if failure := not_an_answer(answer, prompt):
        return unreadable(failure, ("exact_match", "f1"))
    if normalized(gold):
        same, overlap = exact_match(answer, gold), f1(answer, gold)
    else:
        same = answer.strip().casefold() == gold.strip().casefold()
        overlap = float(same)
    return judged(same, f"{shorten(answer)} is not {shorten(gold)}", {"exact_match": float(same), "f1": overlap})


def score_yes_no(answer: str, gold: bool, prompt: str = "") -> Scored:
    """1 if the first word is the gold one of yes and no, else 0; parse_failure if it is neither or both.

    Figure `starts_with`: FireAct's rule for StrategyQA, for which "nothing", "not sure" and "yesterday" are answers.
    """
    if failure := not_an_answer(answer, prompt):
        return unreadable(failure, ("starts_with",))
    figures = {"starts_with": float(yes_no_match(answer, gold))}
    found = YES_OR_NO.match(answer)
    if found is None:
        return Scored(0.0, False, True, f"neither yes nor no: {shorten(answer)}", figures)
    return judged((found[1].lower() == "yes") == gold, f"{found[1].lower()} is wrong", figures)


def _same_number(answer: str | None, gold: str) -> float:
    return float(answer is not None and _plain(answer) == _plain(gold))


def _plain(number: str) -> str:
    return re.sub(r"\.$", "", number.strip().replace(",", "").replace("$", ""))
