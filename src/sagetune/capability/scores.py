"""CapabilityScore and CapabilityReport: the reference's classes, with intervals and what a figure rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

TITLE = "Agent Capability Report"


@dataclass
class CapabilityScore:
    """One capability: the reference's fields."""

    capability: str
    score: float
    """Mean over the samples, 0 to 1."""
    num_samples: int
    details: dict[str, Any] = field(default_factory=dict)
    """interval (95 %), parse_failure_rate, by_family, figures (further means), chance, how (generation or likelihood),
    hashes (of prompts, data and decoding), timing, selection, pass_k, items."""


@dataclass
class CapabilityReport:
    """The scores of several capabilities. overall: the mean over those that were evaluated."""

    scores: dict[str, CapabilityScore]

    @property
    def overall(self) -> float:
        """Raises ValueError if nothing was evaluated."""
        if not self.scores:
            raise ValueError("no capability was evaluated, so there is no overall score")
        return sum(score.score for score in self.scores.values()) / len(self.scores)

    def summary(self) -> str:
        """The text of the reference: a line for each capability, then the overall score."""
        lines = [TITLE, "-" * len(TITLE)]
        for name, score in self.scores.items():
            lines.append(f"{name.replace('_', ' ').title()}: {score.score:.2f} (n={score.num_samples})")
        return "\n".join([*lines, f"Overall: {self.overall:.2f}"])

    def to_dict(self, *, items: bool = True) -> dict[str, Any]:
        """Plain containers for JSON. items: with every answer and its verdict."""
        scores = {name: asdict(score) for name, score in self.scores.items()}
        for score in scores.values():
            if not items:
                score["details"].pop("items", None)
        return {"scores": scores, "overall": self.overall}

    def get_score(self, capability: str) -> float:
        """Raises ValueError if `capability` was not evaluated."""
        if capability not in self.scores:
            raise ValueError(f"capability must be one of {', '.join(self.scores)}, got {capability!r}")
        return self.scores[capability].score
