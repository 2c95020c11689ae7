"""What a person should know about pairs of a better and a worse conversation. Pairs -> findings. No model."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from sagetune import inspection
from sagetune.chat import Encoded
from sagetune.inspection import Finding
from sagetune.preferences import Pair

FAULTS = {"no_preference": "a pair whose chosen and rejected say the same"}
USUAL = ("duplicate", "contradiction")
"""What is no fault here: several pairs of one task share a side, or have different ones."""


def find(pairs: Sequence[Pair]) -> list[Finding]:
    """FAULTS, and what `inspection.find` finds in the chosen conversations and in the rejected ones."""
    sides = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
    findings = [finding for side in sides for finding in inspection.find(side) if finding.kind not in USUAL]
    for pair in pairs:
        if inspection.said(pair.chosen) == inspection.said(pair.rejected):
            findings.append(Finding("no_preference", pair.chosen["id"].rpartition("/")[0], ""))
    return findings


def summary(encoded: Sequence[Encoded]) -> str:
    """How long the replies of either side are: what a policy can win by, without being better.

    encoded: a pair's chosen, then its rejected, and so on. "" for none.
    """
    lengths = [inspection.num_supervised(side) for side in encoded]
    chosen, rejected = lengths[::2], lengths[1::2]
    if not chosen:
        return ""
    longer = sum(first > second for first, second in zip(chosen, rejected, strict=True))
    medians = f"median {median(chosen):g} tokens against {median(rejected):g}"
    return f"{len(chosen)} pairs; the chosen reply is the longer one in {longer} ({medians})"
