"""`sagetune train`: compose, check, run."""

from __future__ import annotations

import sys

from hydra.core.hydra_config import HydraConfig

from sagetune.capability.data import check_capabilities
from sagetune.commands.entry import USAGE_ERROR, run_command
from sagetune.config import RunConfig
from sagetune.sources import check_run


def main() -> None:
    run_command("train", RunConfig, train)


def train(config: RunConfig) -> int:
    """Train as configured and return the exit code: 0, 1 failed, 2 refused, 130 or 143 interrupted."""
    try:
        if config.resume is not None:
            check_alone(HydraConfig.get().overrides.task)
        else:
            check_run(config)
            check_capabilities(config.evaluation)
    except ValueError as error:
        print(f"sagetune train: {error}", file=sys.stderr)
        return USAGE_ERROR

    from sagetune.run import run_or_report

    return run_or_report(config)


def check_alone(overrides: list[str]) -> None:
    """Raise ValueError if anything is set beside `resume`: the run goes on as its config.yaml says."""
    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        raise ValueError(f"resume goes on with the run's own config.yaml; leave out {' '.join(others)}")
