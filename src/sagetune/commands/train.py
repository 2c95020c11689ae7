"""`sagetune train`: compose, check, run; with -m a sweep of runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from sagetune.commands.entry import USAGE_ERROR, explain, run_command, to_dataclass
from sagetune.config import ROLLOUT_ALGORITHMS, RunConfig
from sagetune.runfolder import RunFolder
from sagetune.sweep import JobFailed, print_status, refused_folder, runs_of, score


def main() -> None:
    run_command("train", RunConfig, train, score=score, refuse=refuse, conclude=conclude)


def train(config: RunConfig) -> int:
    """Train as configured and return the exit code: 0, 1 failed, 2 refused, 130 or 143 interrupted."""
    from sagetune.attempt import attempt  # what only a run needs: `--cfg job` and `--help` answer in half the time
    from sagetune.capability.data import check_capabilities
    from sagetune.sources import check_judged, check_run

    try:
        if config.resume is not None:
            check_alone(HydraConfig.get().overrides.task)
            folder, run = RunFolder.open(Path(config.resume))
        else:
            if config.sweep is None:  # what a sweep's job is refused for, its folder tells
                check_run(config)
                if config.rl is not None and config.rl.algorithm in ROLLOUT_ALGORITHMS:
                    check_judged(config)
                check_capabilities(config.evaluation)
            folder, run = RunFolder.create(config), config
    except ValueError as error:
        print(f"sagetune train: {error}", file=sys.stderr)
        return USAGE_ERROR
    return attempt(folder, run)


def check_alone(overrides: Sequence[str]) -> None:
    """Raise ValueError if anything is set beside `resume`: the run goes on as its config.yaml says."""
    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        raise ValueError(f"resume goes on with the run's own config.yaml; leave out {' '.join(others)}")


def job_folder(cfg: DictConfig) -> RunFolder:
    """The folder of a sweep's job, its run ready to be done. cfg: as Hydra composes it for the job.

    Raises JobFailed, and leaves a folder that tells why, if the configuration does not pass its checks.
    """
    own, overrides = deepcopy(cfg), list(cfg.hydra.overrides.task)
    with open_dict(own):
        del own["hydra"]
    try:
        return RunFolder.create(to_dataclass(own, RunConfig))
    except (ValueError, OmegaConfBaseException) as error:
        print(f"sagetune train {shlex.join(overrides)}: {explain(error)}", file=sys.stderr)
        refuse(own, overrides, explain(error))
        raise JobFailed(explain(error), USAGE_ERROR) from error


def refuse(cfg: DictConfig, overrides: Sequence[str], reason: str) -> None:
    """Leave a folder that tells why a sweep's job cannot be run."""
    command = shlex.join(["sagetune", "train", *overrides, f"sweep={cfg.sweep}"])
    refused_folder(cfg, command, reason, USAGE_ERROR)


def conclude(sweep: Path) -> None:
    """What a sweep ends with, from what is on disk: how each of its runs stands, and the comparison of those done."""
    from sagetune.comparison.comparison import compare
    from sagetune.comparison.mirror import mirror
    from sagetune.comparison.page import write
    from sagetune.comparison.terminal import print_comparison

    if not runs_of(sweep):
        return
    console = Console()
    print_status(console, sweep)
    found = compare(sweep)
    path = write(sweep, found)
    print_comparison(console, found)
    mirror(sweep, found)
    console.print(f"report: {path}", markup=False, soft_wrap=True)
