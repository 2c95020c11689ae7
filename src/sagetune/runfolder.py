"""The files of one run: where each lies, how its folder is named, and the run's configuration as YAML."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sagetune.config import RunConfig

CHANGES_NOTHING = ("method", "run_name", "sweep", "resume", "score", "wandb")
"""Fields that a run's result does not follow from; `method` only describes what the others set."""


class RunFolder:
    """Names of a run's files; each stands here and nowhere else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.status = path / "status.json"
        """How the run stands, from its start on: see `sagetune.status`."""
        self.log = path / "output.log"
        """What a job of a sweep printed, where it has a process of its own."""
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoints" / "last.ckpt"
        self.model = path / "adapter"
        """The trained adapter as a plain PEFT folder; the whole model where sft.use_lora is false."""
        self.training = path / "training.json"
        """The TrainingResult: there once training has ended and `model` is whole."""
        self.before, self.after = path / "before.json", path / "after.json"
        self.trajectories = path / "trajectories.jsonl"
        """Every attempt of the agent, failures too, as it was made."""
        self.gathering = path / "trajectories.json"
        """How many attempts succeeded, which were kept, why not the others, and what they cost."""
        self.mixture = path / "mixture.json"
        """What the mixture that is trained on holds of each task: samples, epochs, what is lacking."""
        self.search = path / "search.json"
        """The learning rates that were tried, with the loss of each on dev data."""
        self.trials = path / "search"
        """The folder of the trials."""
        self.reference = path / "reference.json"
        """Log-probabilities that the reference of DPO gives the pairs."""
        self.rollouts = path / "rollouts.jsonl"
        """What the policy of PPO or GRPO did in each update, an AgentTrajectory a line."""
        self.selection = path / "selection.json"
        """What was selected for which epoch, and how it differs from the pool."""
        self.stream = path / "stream.json"
        """The figures after each task of a stream but the last."""
        self.replay = path / "replay.json"
        """What was replayed how often, and what the buffer held at the end."""
        self.answers = path / "answers"
        """What the model said before and after, a file a capability."""
        self.samples = path / "samples.jsonl"
        """Generated actions before and after, beside the gold ones."""
        self.result = path / "result.json"
        self.report = path / "report.html"

    @classmethod
    def create(cls, run: RunConfig) -> RunFolder:
        """Make the folder of a run and write its config.yaml.

        Inside a sweep the folder's name follows from the configuration, so the same job finds its folder again. Raises
        ValueError if the folder of another run holds one already: nothing that a user has is overwritten.
        """
        name = run.run_name or f"{run.method.label}-s{run.seed}-{datetime.now():%Y%m%d-%H%M%S-%f}"
        folder = cls(run.sft.output_dir / name) if run.sweep is None else cls.in_sweep(run)
        if not folder.hold(plain(run)) and run.sweep is None:
            raise ValueError(
                f"run_name: {folder.path} holds a run already; go on with it by resume={folder.path}, "
                f"or give another run_name"
            )
        return folder

    @classmethod
    def in_sweep(cls, run: RunConfig) -> RunFolder:
        """The folder of a job of a sweep: method, seed, and a fingerprint of what else its result follows from."""
        assert run.sweep is not None
        return cls(run.sft.output_dir / run.sweep / f"{run.method.label}-s{run.seed}-{fingerprint(plain(run))}")

    def hold(self, config: dict[str, Any]) -> bool:
        """Make the folder and write `config` to config.yaml; False, and nothing is written, if there is one."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.config.with_name(f"config.{os.getpid()}.partial")
        partial.write_text(OmegaConf.to_yaml(OmegaConf.create(config)), encoding="utf-8")
        try:
            os.link(partial, self.config)  # whole or not at all, and of two runs that start at once one gets the folder
        except FileExistsError:
            return False
        finally:
            partial.unlink()
        return True

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Inside, no other process can claim the folder; the system takes the claim back from a process that dies.

        Raises ValueError if another process has it.
        """
        with self.config.open("a") as file:  # nothing is written; the lock is on the file that is never replaced
            for _ in range(20):  # who asks `is_claimed` has the file for an instant
                if _locked(file, fcntl.LOCK_EX):
                    break
                time.sleep(0.02)
            else:
                raise ValueError(f"resume: another process is at work in {self.path}; wait for it")
            yield

    def is_claimed(self) -> bool:
        """Whether a process is at work in the folder."""
        with self.config.open() as file:
            return not _locked(file, fcntl.LOCK_SH)

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, RunConfig]:
        """A run's folder and its configuration. Raises ValueError if `path` holds no run."""
        folder = cls(path)
        if not folder.config.is_file():
            raise ValueError(f"resume: {path} holds no run (no {folder.config.name}); give the folder of a run")
        try:
            run = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.load(folder.config)))
        except OmegaConfBaseException as error:
            raise ValueError(f"resume: {folder.config} is not a configuration of this version: {error}") from error
        assert isinstance(run, RunConfig)
        return folder, run


def _locked(file: IO[str], kind: int) -> bool:
    """Whether the file could be locked; it then is until it is closed."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def fingerprint(config: dict[str, Any], without: tuple[str, ...] = CHANGES_NOTHING, digits: int = 8) -> str:
    """Hex digits that follow from all fields of a configuration (as `plain` gives it) but those named `without`.

    Where results are written has no part either. Of a file of data only its path has.
    """
    fields = {name: value for name, value in config.items() if name not in without}
    fields["sft"] = {name: value for name, value in fields["sft"].items() if name != "output_dir"}
    return sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:digits]


def plain(run: RunConfig) -> dict[str, Any]:
    """The configuration as nested dicts of YAML's own types."""
    tree = dataclasses.asdict(run)
    tree["sft"]["output_dir"] = str(run.sft.output_dir)
    return tree
