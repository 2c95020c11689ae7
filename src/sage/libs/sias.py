"""The public reference's import path; names only."""

from __future__ import annotations

from sagetune.replay import OnlineContinualLearner
from sagetune.selection import CoresetSelector

__all__ = ["CoresetSelector", "OnlineContinualLearner"]
