"""`sagetune select`: choose samples of a pool and write them as JSONL, without training."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagetune.commands.entry import USAGE_ERROR, run_command
from sagetune.config import (
    AgentSFTConfig,
    BudgetConfig,
    CoresetConfig,
    DataConfig,
    EvaluationConfig,
    MethodInfo,
    MixtureConfig,
    ModelConfig,
    Problems,
    RunConfig,
    TrainerConfig,
)
from sagetune.sources import check_run

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(kw_only=True)
class SelectConfig:
    """The fields of a run that decide which samples are chosen, and where these go."""

    sft: AgentSFTConfig
    method: MethodInfo = field(default_factory=MethodInfo)
    """Not looked at; here because the options of coreset= and mixture= set it."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    coreset: CoresetConfig = field(default_factory=CoresetConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Not looked at; here because the options of data= set it."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    """Of random draws."""
    output: str = "selected.jsonl"
    """File that receives the chosen samples, in the order of choosing; `<output>.json` beside it tells about them."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.check(Path(self.output).parent.is_dir(), "output", self.output, "a path in an existing folder")
        problems.check(self.output.endswith(".jsonl"), "output", self.output, "a path that ends in .jsonl")
        scope = self.coreset.scope
        problems.check(scope == "pool", "coreset.scope", scope, "pool: rows of a batch exist only in training")
        problems.report()
        self.run()  # checks what the fields do not allow together

    def run(self) -> RunConfig:
        """The run whose training set this is."""
        names = ("sft", "model", "data", "mixture", "coreset", "budget", "trainer", "seed")
        return RunConfig(**{name: vars(self)[name] for name in names})


def main() -> None:
    """Run `sagetune select` on the process's arguments and exit."""
    run_command("select", SelectConfig, select)


def select(config: SelectConfig) -> int:
    """Write the chosen samples and return 0, or 2 if the data or the model cannot be used."""
    from rich.console import Console

    console = Console()
    try:
        check_run(config.run())
        entry = choose_and_write(config, console)
    except ValueError as error:
        print(f"sagetune select: {error}", file=sys.stderr)
        return USAGE_ERROR
    show(entry, config.output, console)
    return 0


def choose_and_write(config: SelectConfig, console: Console) -> dict[str, Any]:
    """The entry of selection.json for the chosen samples, which are in `output` when this returns."""
    import json

    from sagetune.files import write_json, write_text
    from sagetune.formats import to_openai
    from sagetune.run import quiet_libraries
    from sagetune.trainer import AgentSFTTrainer

    quiet_libraries()
    trainer = AgentSFTTrainer(config.run(), console=console)
    pool, entry = trainer.select()
    by_id = {sample["id"]: sample for sample in pool.samples}
    rows = [json.dumps(to_openai(by_id[sample_id]), ensure_ascii=False) for sample_id in entry["ids"]]
    write_text(Path(config.output), "".join(f"{row}\n" for row in rows))
    write_json(Path(f"{config.output}.json"), entry)
    return entry


def show(entry: dict[str, Any], output: str, console: Console) -> None:
    """Print what was chosen of each task, and the figures of the selection."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=f"{entry['strategy']}: chosen of the pool", title_justify="left", box=SIMPLE_HEAD)
    for name in ("task", "pool", "chosen"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for task, count in entry["tasks"].items():
        table.add_row(task or "(none)", f"{count['pool']:,}", f"{count['selected']:,}")
    table.add_row("all", f"{entry['num_pool']:,}", f"{entry['num_selected']:,}")
    console.print(table)
    means = entry["length"]
    console.print(
        f"coverage {entry['coverage']:.3f}, near-duplicates {entry['duplicate_share']:.1%}, supervised tokens a sample "
        f"{means['pool_mean']:.1f} in the pool, {means['selected_mean']:.1f} chosen; {entry['seconds']:.1f} s, "
        f"{entry['forward_tokens']:,} tokens through the model, {entry['reused_tokens']:,} from the cache",
        markup=False,
    )
    console.print(f"written: {output}", markup=False, soft_wrap=True)
