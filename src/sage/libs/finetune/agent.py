"""The public reference's import path; names only. Torch loads when the trainer is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sagetune.capability.scores import CapabilityReport, CapabilityScore
from sagetune.config import AgentSFTConfig, RLTrainingConfig
from sagetune.config.trajectories import CollectorConfig, SFTConversionConfig
from sagetune.mixing import MixerConfig, MultiTaskMixer, TaskSample
from sagetune.trajectories.collector import TrajectoryCollector
from sagetune.trajectories.convert import TrajectoryToSFTConverter, collect_and_convert
from sagetune.trajectories.filter import TrajectoryFilter
from sagetune.trajectories.record import AgentTrajectory, TrajectoryStep, load_trajectories

if TYPE_CHECKING:
    from sagetune.capability.evaluator import AgentCapabilityEvaluator
    from sagetune.rl_trainer import AgentRLTrainer
    from sagetune.trainer import AgentSFTTrainer

__all__ = [
    "AgentCapabilityEvaluator",
    "AgentRLTrainer",
    "AgentSFTConfig",
    "AgentSFTTrainer",
    "AgentTrajectory",
    "CapabilityReport",
    "CapabilityScore",
    "CollectorConfig",
    "MixerConfig",
    "MultiTaskMixer",
    "RLTrainingConfig",
    "SFTConversionConfig",
    "TaskSample",
    "TrajectoryCollector",
    "TrajectoryFilter",
    "TrajectoryStep",
    "TrajectoryToSFTConverter",
    "collect_and_convert",
    "load_trajectories",
]


def __getattr__(name: str) -> Any:
    if name == "AgentSFTTrainer":
        from sagetune.trainer import AgentSFTTrainer

        return AgentSFTTrainer
    if name == "AgentRLTrainer":
        from sagetune.rl_trainer import AgentRLTrainer

        return AgentRLTrainer
    if name == "AgentCapabilityEvaluator":
        from sagetune.capability.evaluator import AgentCapabilityEvaluator

        return AgentCapabilityEvaluator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
