"""What makes many runs one sweep: the name of their folder, what a sweeper is told of each, how all of them stand.

No torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sagetune import status
from sagetune.config import RunConfig
from sagetune.runfolder import CHANGES_NOTHING, RunFolder, fingerprint

SHAREABLE = (*CHANGES_NOTHING, "seed", "hydra")
"""Fields in which two commands may differ whose runs are of one sweep."""


class JobFailed(CompactHydraException):
    """One job of a sweep was not done; Hydra goes on with the others and raises the first one in the end."""

    def __init__(self, what: str, exit_code: int) -> None:
        super().__init__(what, exit_code)
        self.exit_code = exit_code if exit_code > 0 else 128 - exit_code  # as a shell tells a signal

    def __str__(self) -> str:
        return str(self.args[0])


class SweepFolder(Callback):
    """Where the runs of the sweep that this process started lie; Hydra itself does not tell."""

    name: str | None = None
    path: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """config: the sweep's own. Hydra composes it without the swept values, so its fingerprint, and with it the
        folder, is the same for the same sweep, for one of more values and for one of other seeds."""
        fields = OmegaConf.to_container(config, resolve=False)
        assert isinstance(fields, dict)
        digits = fingerprint({str(name): value for name, value in fields.items()}, SHAREABLE, digits=6)
        SweepFolder.name = f"sweep-{digits}"
        SweepFolder.path = Path(config.hydra.sweep.dir)


# ${sweep_name:} in conf/train.yaml; null in a run of its own. As with ${now:} Hydra hands a value that was looked up in
# the sweep's configuration to the jobs, whatever process they run in.
OmegaConf.register_new_resolver("sweep_name", lambda: SweepFolder.name, use_cache=True, replace=True)


def score(run: RunConfig) -> float | None:
    """What a sweeper is told of a job that is done: the figure of result.json that its field `score` names.

    None where the run did not measure it.
    """
    folder = RunFolder(Path(run.resume)) if run.resume is not None else RunFolder.in_sweep(run)
    found: Any = json.loads(folder.result.read_text(encoding="utf-8"))
    for name in run.score.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else None


def refused_folder(cfg: DictConfig, command: str, reason: str, exit_code: int) -> RunFolder:
    """Leave a folder that tells of a job whose configuration does not pass its checks."""
    config = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(config, dict)
    fields = {str(key): value for key, value in config.items() if key != "hydra"}
    name = f"{cfg.method.id}-s{cfg.seed}-{fingerprint(fields)}"
    folder = RunFolder(Path(cfg.sft.output_dir) / cfg.sweep / name)
    folder.hold(fields)
    status.refuse(folder, command, reason, exit_code)
    return folder


def runs_of(sweep: Path) -> list[RunFolder]:
    """The run folders of a sweep, by name."""
    return [RunFolder(path.parent) for path in sorted(sweep.glob("*/config.yaml"))]


def print_status(console: Console, sweep: Path) -> None:
    """A row for each run of the sweep's folder: how it stands, how long it took, why it is not done."""
    table = Table(title=str(sweep), title_justify="left", box=SIMPLE_HEAD)
    for name in ("run", "status", "seconds", "reason"):
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    for folder in runs_of(sweep):
        found = status.read(folder)
        stands = found.status if found is not None else "not begun"
        color = {status.DONE: "green", status.RUNNING: "dim", "not begun": "dim"}.get(stands, "red")
        seconds = f"{found.seconds:.0f}" if found is not None and found.seconds is not None else ""
        reason = ((found.reason or "") if found is not None else "").strip().split("\n")[0]
        table.add_row(folder.path.name, f"[{color}]{stands}[/]", seconds, reason.replace("[", r"\["))
    console.print(table)
