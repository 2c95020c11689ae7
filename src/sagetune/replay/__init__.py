"""Continual learning: earlier samples are kept and replayed."""

from sagetune.replay.learner import OnlineContinualLearner

__all__ = ["OnlineContinualLearner"]
