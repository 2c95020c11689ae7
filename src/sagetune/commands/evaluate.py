"""`sagetune evaluate`: what can an agent do, capability by capability, and how sure is that?"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagetune.commands.entry import INTERRUPTED, USAGE_ERROR, run_command
from sagetune.config import AgentSFTConfig, EvaluationConfig, ModelConfig, Problems, TrainerConfig
from sagetune.config.trajectories import AgentConfig

if TYPE_CHECKING:
    from rich.console import Console

    from sagetune.capability.scores import CapabilityReport


@dataclass(kw_only=True)
class EvaluateConfig:
    """Who is measured, on what, and where the answers go."""

    sft: AgentSFTConfig
    """base_model is measured; the rest is not looked at."""
    model: ModelConfig = field(default_factory=ModelConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    agent: AgentConfig = field(default_factory=lambda: AgentConfig(kind="local"))
    """kind=local measures agent.model, such as the adapter of a run, None = sft.base_model; kind=endpoint with model
    and base_url measures a server. How it decodes stands in `evaluation`."""
    output: str = "evaluation"
    """Folder that receives answers, report.json and report.html; if it is there, the evaluation goes on."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.check(bool(self.evaluation.capabilities), "evaluation.capabilities", {}, "one at least")
        problems.check(self.agent.kind != "expert", "agent.kind", self.agent.kind, "local or endpoint")
        problems.report()


def main() -> None:
    """Run `sagetune evaluate` on the process's arguments and exit."""
    run_command("evaluate", EvaluateConfig, evaluate)


def evaluate(config: EvaluateConfig) -> int:
    """Evaluate and return 0; 1 if every attempt broke, 2 if data or model cannot be used, 130 for Ctrl-C."""
    from rich.console import Console

    from sagetune.capability.data import check_capabilities
    from sagetune.trajectories.collector import CollectionBroken

    console = Console()
    try:
        check_capabilities(config.evaluation)
        report = measured(config, console)
    except ValueError as error:
        print(f"sagetune evaluate: {error}", file=sys.stderr)
        return USAGE_ERROR
    except CollectionBroken as error:
        print(f"sagetune evaluate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on in {config.output}", file=sys.stderr)
        return INTERRUPTED
    show(report, console)
    console.print(f"report: {Path(config.output) / 'report.html'}", markup=False, soft_wrap=True)
    return 0


def measured(config: EvaluateConfig, console: Console) -> CapabilityReport:
    """The report, which is in the output folder when this returns."""
    from sagetune.capability.evaluator import AgentCapabilityEvaluator
    from sagetune.capability.page import write_page
    from sagetune.files import write_json
    from sagetune.run import quiet_libraries

    quiet_libraries()
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    who = {"base_model": config.sft.base_model, **dataclasses.asdict(config.agent)}
    evaluator = AgentCapabilityEvaluator(
        config.evaluation, model_config=config.model, folder=folder, who=who, console=console
    )
    report = evaluator.evaluate(agent_of(config), config.evaluation.capabilities)
    write_json(folder / "report.json", report.to_dict())
    write_page(folder / "report.html", {config.agent.model or config.sft.base_model: report.to_dict()})
    return report


def agent_of(config: EvaluateConfig) -> Any:
    """What is measured, decoding as `evaluation` says."""
    import torch

    from sagetune.trajectories.local import local_agent
    from sagetune.trajectories.stage import endpoint_of

    options: dict[str, Any] = {name: vars(config.evaluation)[name] for name in ("temperature", "max_new_tokens")}
    if config.agent.kind == "endpoint":
        return endpoint_of(dataclasses.replace(config.agent, **options))
    return local_agent(
        config.agent.model or config.sft.base_model,
        base_model=config.sft.base_model,
        config=config.model,
        device=torch.device("cpu") if config.trainer.accelerator == "cpu" else None,
        batch_size=config.evaluation.batch_size,
        **options,
    )


def show(report: CapabilityReport, console: Console) -> None:
    """Print each capability with its interval, how often a reply could not be read, and the chance level."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="capabilities, 95 % intervals", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "score", "interval", "unreadable", "chance", "n"):
        table.add_column(name, justify="right" if name else "left")
    for name, score in report.scores.items():
        low, high = score.details["interval"]
        blind = score.details["chance"]
        table.add_row(
            name,
            f"{100 * score.score:.1f} %",
            f"{100 * low:.0f}–{100 * high:.0f}",
            f"{100 * score.details['parse_failure_rate']:.1f} %",
            "–" if blind is None else f"{100 * blind:.1f} %",
            f"{score.num_samples:,}",
        )
    table.add_row("overall", f"{100 * report.overall:.1f} %", "", "", "", "")
    console.print(table)
