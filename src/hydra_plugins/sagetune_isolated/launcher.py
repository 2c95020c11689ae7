"""hydra/launcher=isolated: the jobs of `sagetune train -m`, a process each, `n_jobs` at a time.

Hydra reads this file at every start, also that of other applications, and not as a module of its own: so nothing heavy
is imported up here, and annotations are not postponed, which dataclasses could not resolve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class IsolatedLauncherConf:
    """n_jobs: processes at a time."""

    _target_: str = "hydra_plugins.sagetune_isolated.launcher.IsolatedLauncher"
    n_jobs: int = 1


ConfigStore.instance().store(
    group="hydra/launcher", name="isolated", node=IsolatedLauncherConf, provider="sagetune_isolated"
)


class IsolatedLauncher(Launcher):
    def __init__(self, n_jobs: int) -> None:
        if n_jobs < 1:
            raise ValueError(f"hydra.launcher.n_jobs must be at least 1, got {n_jobs}")
        self._num_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if config.hydra.job.config_name != "train":
            raise ValueError("hydra/launcher=isolated runs the jobs of `sagetune train`; use hydra/launcher=basic here")
        self._loader = hydra_context.config_loader
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from rich.console import Console

        from sagetune.commands.train import job_folder
        from sagetune.jobs import run_jobs
        from sagetune.runfolder import RunFolder
        from sagetune.sweep import JobFailed, score

        returns = [JobReturn(overrides=list(overrides)) for overrides in job_overrides]
        folders = {}
        for place, overrides in enumerate(job_overrides):
            try:
                folders[place] = job_folder(self._loader.load_sweep_config(self._config, list(overrides)))
            except JobFailed as refused:
                returns[place].status, returns[place].return_value = JobStatus.FAILED, refused
        codes = run_jobs(list(folders.values()), self._num_jobs, Console())
        for (place, folder), code in zip(folders.items(), codes, strict=True):
            returns[place].status = JobStatus.FAILED if code else JobStatus.COMPLETED
            failed = JobFailed(f"{folder.path}: exit code {code}", code) if code else None
            returns[place].return_value = failed or score(RunFolder.open(folder.path)[1])
        return returns
