"""`sagetune train`: compose, check, run."""

from __future__ import annotations

import sys

from sagetune.commands.entry import USAGE_ERROR, run_command
from sagetune.config import RunConfig
from sagetune.sources import check_reference


def main() -> None:
    run_command("train", RunConfig, train)


def train(config: RunConfig) -> int:
    """Train as configured and return the exit code: 0, 1 failed, 2 refused, 130 or 143 interrupted."""
    try:
        for reference in (config.sft.train_data, config.sft.eval_data, config.evaluation.data):
            if reference is not None and config.resume is None:
                check_reference(reference)
    except ValueError as error:
        print(f"sagetune train: {error}", file=sys.stderr)
        return USAGE_ERROR

    from sagetune.run import run_or_report

    return run_or_report(config)
