"""Tool selection: where the right tool stands among ranked candidates. One verdict an item, and top-1 and MRR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sagetune.evaluation.calls import Reply
from sagetune.evaluation.scoring.intervals import Rate, bootstrap, wilson
from sagetune.evaluation.scoring.verdict import Scored, judged, not_an_abstention, unreadable

FIGURES = ("mrr",)


@dataclass(frozen=True, slots=True)
class SelectionReport:
    """Figures over items, all 0-1."""

    n: int
    top_1: Rate
    """Items whose right tool comes first."""
    mrr: Rate
    """Mean reciprocal rank of the right tool, 0 where it is not ranked."""
    parse_failure_rate: Rate
    """Items without a readable ranking."""


def score_ranking(ranking: Sequence[str], gold: str) -> Scored:
    """1 if the gold tool comes first, else 0. Figure `mrr`: its reciprocal rank, 0 if it is not there.

    The score is top-1 and not the reciprocal rank, which a ranking of all candidates raises above blind choice.
    Repeated and invented names keep their place, so that neither can lift the tool. An empty ranking is unreadable.
    """
    if not ranking:
        return unreadable("no candidate is ranked", FIGURES)
    if gold not in ranking:
        return judged(False, f"{gold} is not ranked", {"mrr": 0.0})
    return _at_rank(ranking.index(gold) + 1, gold)


def score_candidates(scores: Mapping[str, float], gold: str) -> Scored:
    """The same from a score for each candidate, higher is better, such as log-likelihoods.

    A candidate with the same score ranks before the gold tool: a model that cannot tell them apart has not chosen.
    Unreadable if a score is NaN. Raises ValueError if the gold tool is no candidate.
    """
    if gold not in scores:
        raise ValueError(f"gold {gold!r} must be one of the candidates {', '.join(scores)}")
    if any(math.isnan(score) for score in scores.values()):
        return unreadable("a candidate's score is not a number", FIGURES)
    return _at_rank(sum(score >= scores[gold] for score in scores.values()), gold)


def score_selection(reply: Reply, gold: str, prompt: str = "", functions: Sequence[str] = ()) -> Scored:
    """The same from a model's calls, the first of which is its choice."""
    if failure := not_an_abstention(reply, prompt, functions):
        return unreadable(failure, FIGURES)
    if not reply.calls:
        return judged(False, "no call", {"mrr": 0.0})
    return score_ranking([call["name"] for call in reply.calls], gold)


def selection_report(scored: Sequence[Scored], *, seed: int = 0) -> SelectionReport:
    """Top-1 accuracy and mean reciprocal rank over the verdicts of one of the scorers above."""
    return SelectionReport(
        n=len(scored),
        top_1=wilson(sum(item.correct for item in scored), len(scored)),
        mrr=bootstrap([item.figures["mrr"] for item in scored], seed=seed),
        parse_failure_rate=wilson(sum(item.parse_failure for item in scored), len(scored)),
    )


def _at_rank(rank: int, gold: str) -> Scored:
    return judged(rank == 1, f"{gold} comes at rank {rank}", {"mrr": 1 / rank})
