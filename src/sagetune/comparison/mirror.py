"""A comparison for W&B: a run of its own in the group of the runs that it is of."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from sagetune.comparison.comparison import Comparison, rows_of
from sagetune.comparison.verdicts import Verdict
from sagetune.comparison.wording import sentence, verdict
from sagetune.config import MethodInfo
from sagetune.runfolder import RunFolder
from sagetune.tracking import Tracker

NAME = "comparison"
"""Job type, and folder inside that of the sweep."""
COLUMNS = ("variant", "figure", "mean", "low", "high", "difference", "from", "to", "p (Holm)", "verdict", "sentence")


def mirror(folder: Path, found: Comparison) -> None:
    """Log the tables of verdicts and of runs, a chart of the primary figure, and every mean as summary.

    folder: that of the sweep. Mode, project and group are those of its first finished run; without one, or where its
    W&B is off, nothing is logged. Nor where it is a run of another version, whose fields are not of this one: standard
    error then says so.
    """
    done = [run for run in found.runs if run.done]
    if not done or os.environ.get("WANDB_MODE", done[0].config["wandb.mode"]) == "disabled":
        return
    try:
        first = RunFolder.open(folder / done[0].name)[1]
    except ValueError as error:
        told = str(error).removeprefix("resume: ").splitlines()[0]
        print(f"the comparison is written, and not mirrored to W&B: {told}", file=sys.stderr)
        return
    run = dataclasses.replace(first, method=MethodInfo(id=NAME, name="Comparison"), sweep=folder.name, run_name=None)
    tracker = Tracker(folder / NAME, run, resume_step=None)
    tracker.table("verdicts", COLUMNS, [_row(one) for one in found.verdicts])
    rows = rows_of(found)
    names = list(dict.fromkeys(name for row in rows for name in row))
    tracker.table("runs", names, [[row.get(name) for name in names] for row in rows])
    if found.primary is not None:
        means = {name: one.evidence.mean for name, one in found.of(found.primary).items()}
        tracker.bars("primary", found.primary.label, means)
    tracker.summary({f"{one.figure.key}/{one.evidence.variant}": one.evidence.mean for one in found.verdicts})
    tracker.finish(0)


def _row(one: Verdict) -> list[Any]:
    """The values of COLUMNS."""
    evidence, difference = one.evidence, one.evidence.difference
    apart: list[float | None] = [None] * 4
    if difference is not None:
        apart = [difference.mean, *(difference.interval or (None, None)), difference.p_holm]
    score = [evidence.mean, *(evidence.interval or (None, None))]
    return [evidence.variant, one.figure.key, *score, *apart, verdict(evidence), sentence(evidence)]
