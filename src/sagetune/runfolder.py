"""The files of one run: where each lies, and the run's configuration as YAML."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sagetune.config import RunConfig


class RunFolder:
    """Names of a run's files; each stands here and nowhere else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoints" / "last.ckpt"
        self.model = path / "adapter"
        """The trained adapter as a plain PEFT folder; the whole model where sft.use_lora is false."""
        self.training = path / "training.json"
        """The TrainingResult: there once training has ended and `model` is whole."""
        self.before = path / "before.json"
        self.after = path / "after.json"
        self.trajectories = path / "trajectories.jsonl"
        """Every attempt of the agent, failures too, as it was made."""
        self.gathering = path / "trajectories.json"
        """How many attempts succeeded, which were kept, why not the others, and what they cost."""
        self.mixture = path / "mixture.json"
        """What the mixture that is trained on holds of each task: samples, epochs, what is lacking."""
        self.reference = path / "reference.json"
        """Log-probabilities that the reference of DPO gives the pairs."""
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
        """Make the folder of a new run and write its config.yaml.

        Raises ValueError if the folder holds a run already: nothing that a user has is overwritten.
        """
        name = run.run_name or f"{run.method.label}-s{run.seed}-{datetime.now():%Y%m%d-%H%M%S-%f}"
        folder = cls(run.sft.output_dir / name)
        folder.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        try:
            config = folder.config.open("x")  # of two runs that start at once one gets the folder
        except FileExistsError as error:
            raise ValueError(
                f"run_name: {folder.path} holds a run already; go on with it by resume={folder.path}, "
                f"or give another run_name"
            ) from error
        with config:
            config.write(OmegaConf.to_yaml(OmegaConf.create(plain(run))))
        return folder

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


def plain(run: RunConfig) -> dict[str, Any]:
    """The configuration as nested dicts of YAML's own types."""
    tree = dataclasses.asdict(run)
    tree["sft"]["output_dir"] = str(run.sft.output_dir)
    return tree
