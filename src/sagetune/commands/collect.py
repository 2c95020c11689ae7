"""`sagetune collect`: let an agent act on tasks; write what it did, what of it to train on, and preference pairs."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagetune.commands.entry import INTERRUPTED, USAGE_ERROR, run_command
from sagetune.config import (
    AgentSFTConfig,
    BudgetConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    Problems,
    RunConfig,
    TrainerConfig,
    TrajectoriesConfig,
)
from sagetune.sources import check_reference, check_tasks

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(kw_only=True)
class CollectConfig:
    """The fields of a run that decide what is collected, and where it goes."""

    sft: AgentSFTConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trajectories: TrajectoriesConfig = field(default_factory=TrajectoriesConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """batch_size of a local model; the rest is not looked at."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    """Of the collector (conf/collect.yaml hands it on)."""
    output: str = "trajectories.jsonl"
    """File that receives every attempt; if it is there already, collecting goes on in it."""
    samples: str | None = None
    """File that receives the trajectories that pass the filter, converted; sft.train_data reads it."""
    pairs: str | None = None
    """File that receives a success and a failure of one task as chosen and rejected, a pair a line."""

    def __post_init__(self) -> None:
        problems = Problems()
        for name in ("output", "samples", "pairs"):
            value = vars(self)[name]
            fits = value is None or (value.endswith(".jsonl") and Path(value).parent.is_dir())
            problems.check(fits, name, value, "a path in an existing folder that ends in .jsonl")
        places = [Path(path).resolve() for path in (self.output, self.samples, self.pairs, self.sft.train_data) if path]
        problems.check(
            len(set(places)) == len(places), "output", self.output, "another file than samples, pairs and data"
        )
        problems.report()

    def run(self) -> RunConfig:
        """The run whose stage this is."""
        names = ("sft", "model", "data", "trajectories", "budget", "evaluation", "trainer", "seed")
        return RunConfig(**{name: vars(self)[name] for name in names})


def main() -> None:
    """Run `sagetune collect` on the process's arguments and exit."""
    run_command("collect", CollectConfig, collect)


def collect(config: CollectConfig) -> int:
    """Collect and return 0; 1 if every attempt broke, 2 if the tasks or the agent cannot be used, 130 for Ctrl-C."""
    from rich.console import Console

    from sagetune.trajectories.collector import CollectionBroken

    console = Console()
    try:
        if config.trajectories.tasks is None:
            check_reference(config.sft.train_data)
        else:
            check_tasks(config.trajectories.tasks)
        figures = collect_and_write(config, console)
    except ValueError as error:
        print(f"sagetune collect: {error}", file=sys.stderr)
        return USAGE_ERROR
    except CollectionBroken as error:
        print(f"sagetune collect: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on with {config.output}", file=sys.stderr)
        return INTERRUPTED
    show(figures, console)
    for path in (config.output, config.samples, config.pairs):
        if path is not None:
            console.print(f"written: {path}", markup=False, soft_wrap=True)
    return 0


def collect_and_write(config: CollectConfig, console: Console) -> dict[str, Any]:
    """The statistics of the attempts, which are in the files when this returns."""
    from sagetune.trajectories.convert import TrajectoryToSFTConverter
    from sagetune.trajectories.filter import preference_pairs
    from sagetune.trajectories.stage import collected, filter_of, statistics

    samples = [] if config.trajectories.tasks is not None else _samples(config)
    found = collected(config.run(), samples, Path(config.output), lambda _: _local_agent(config, console), console)
    chooser = filter_of(config.trajectories.filter)
    if config.samples is not None:
        converter = TrajectoryToSFTConverter(config.trajectories.conversion)
        _write(config.samples, converter.convert(chooser.filter(found)))
    if config.pairs is not None:
        _write(config.pairs, preference_pairs(found))
    return statistics(found, chooser)


def show(figures: dict[str, Any], console: Console) -> None:
    """Print how many attempts succeeded and were kept, by method and by family, and why the others were not."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="attempts", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "attempts", "solved", "kept"):
        table.add_column(name, justify="right" if name else "left")
    for kind, kept in (("method", figures["methods"]), ("family", figures["tasks"])):
        for name, share in kept.items():
            judged = figures["success"][kind].get(name, {"solved": 0, "total": 0})  # without those that broke
            table.add_row(name or "(none)", *(f"{num:,}" for num in (judged["total"], judged["solved"], share["kept"])))
    judged = [sum(share[what] for share in figures["success"]["method"].values()) for what in ("total", "solved")]
    table.add_row("all", *(f"{num:,}" for num in (*judged, figures["kept"])))
    console.print(table)
    for title, counts in (("left out", figures["reasons"]), ("ended", figures["endings"])):
        if counts:
            listed = ", ".join(f"{name} {num:,}" for name, num in counts.items())
            console.print(f"{title}: {listed}", markup=False, soft_wrap=True)


def _samples(config: CollectConfig) -> list[Any]:
    from sagetune.sources import load

    data, number = config.data, config.budget.train_samples
    return load(config.sft.train_data, num_samples=number, seed=data.seed, on_error=data.on_error).samples


def _local_agent(config: CollectConfig, console: Console) -> Any:
    from sagetune.run import quiet_libraries
    from sagetune.trainer import AgentSFTTrainer

    quiet_libraries()
    return AgentSFTTrainer(config.run(), console=console).local_agent(config.trajectories.agent)


def _write(path: str, rows: list[dict[str, Any]]) -> None:
    import json

    from sagetune.files import write_text

    write_text(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
