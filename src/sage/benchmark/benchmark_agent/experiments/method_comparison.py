"""The public reference's import path; names only."""

from __future__ import annotations

from sagetune.methods import MethodConfig, MethodRegistry

__all__ = ["MethodConfig", "MethodRegistry"]
