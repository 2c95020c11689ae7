"""Timing: should a tool be called at all? One verdict an item, and the figures over many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sagetune.evaluation.calls import Reply
from sagetune.evaluation.scoring.intervals import Rate, macro_average, wilson
from sagetune.evaluation.scoring.verdict import Scored, judged, not_an_abstention, unreadable

CALL, HOLD, UNREADABLE = "call", "hold", "unreadable"
DECISIONS = (CALL, HOLD, UNREADABLE)


@dataclass(frozen=True, slots=True)
class TimingReport:
    """Decisions over items. An unreadable reply is neither decision and wrong in every rate."""

    n: int
    balanced_accuracy: Rate
    """Mean of the shares of right decisions among the items to call and the items to hold back; 0.5 is chance."""
    false_call_rate: Rate
    """Calls among the items that need none."""
    missed_call_rate: Rate
    """Items that need a call and were held back, among those that need one."""
    parse_failure_rate: Rate
    """Unreadable replies, over all."""
    confusion_matrix: dict[str, dict[str, int]]
    """Wanted decision (call, hold) -> decision made (call, hold, unreadable) -> items."""


def decision_of(reply: Reply, prompt: str = "", functions: Iterable[str] = ()) -> str:
    """call, hold or unreadable. functions: the offered names; see not_an_abstention."""
    if not_an_abstention(reply, prompt, functions):
        return UNREADABLE
    return CALL if reply.calls else HOLD


def score_timing(reply: Reply, should_call: bool, prompt: str = "", functions: Sequence[str] = ()) -> Scored:
    """1 if a tool is called where it should be, or held back where not, else 0. Which tool is not judged here."""
    if failure := not_an_abstention(reply, prompt, functions):
        return unreadable(failure)
    return judged(bool(reply.calls) == should_call, "a missed call" if should_call else "a needless call")


def timing_report(decisions: Sequence[tuple[bool, str]], *, seed: int = 0) -> TimingReport:
    """Figures over (should_call, decision made) pairs, a decision being one of DECISIONS.

    Raises ValueError for another decision. With items of one class only, balanced accuracy is that class's share.
    """
    if unknown := [decision for _, decision in decisions if decision not in DECISIONS]:
        raise ValueError(f"a decision must be one of {', '.join(DECISIONS)}, got {unknown[0]!r}")
    counts = Counter((CALL if should_call else HOLD, decision) for should_call, decision in decisions)
    matrix = {wanted: {made: counts[wanted, made] for made in DECISIONS} for wanted in (CALL, HOLD)}
    right = {wanted: [float(made == wanted) for made in Counter(matrix[wanted]).elements()] for wanted in matrix}
    return TimingReport(
        n=len(decisions),
        balanced_accuracy=macro_average(right, seed=seed),
        false_call_rate=wilson(matrix[HOLD][CALL], sum(matrix[HOLD].values())),
        missed_call_rate=wilson(matrix[CALL][HOLD], sum(matrix[CALL].values())),
        parse_failure_rate=wilson(matrix[CALL][UNREADABLE] + matrix[HOLD][UNREADABLE], len(decisions)),
        confusion_matrix=matrix,
    )
