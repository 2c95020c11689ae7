"""The public reference's import path; names only. Torch loads when the trainer is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sagetune.config import AgentSFTConfig

if TYPE_CHECKING:
    from sagetune.trainer import AgentSFTTrainer

__all__ = ["AgentSFTConfig", "AgentSFTTrainer"]


def __getattr__(name: str) -> Any:
    if name == "AgentSFTTrainer":
        from sagetune.trainer import AgentSFTTrainer

        return AgentSFTTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
