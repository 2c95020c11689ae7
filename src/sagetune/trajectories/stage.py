"""FireAct's place in a run: training tasks -> attempts -> the good ones -> samples to train on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sagetune.config import RunConfig
from sagetune.config.trajectories import AgentConfig, FilterConfig, TrajectoriesConfig
from sagetune.sample import Sample
from sagetune.trajectories.collector import TrajectoryCollector
from sagetune.trajectories.convert import TrajectoryToSFTConverter
from sagetune.trajectories.expert import ExpertAgent
from sagetune.trajectories.filter import TrajectoryFilter
from sagetune.trajectories.record import AgentTrajectory
from sagetune.trajectories.tasks import as_task, tasks_of

LoadLocal = Callable[[AgentConfig], Any]
"""Makes the agent that is a local model."""
COSTS = ("seconds", "prompt_tokens", "completion_tokens")


def collected(
    config: TrajectoriesConfig,
    samples: Sequence[Sample],
    limit: int | None,
    path: Path,
    load_local: LoadLocal,
    console: Console,
) -> list[AgentTrajectory]:
    """All attempts at the tasks, failures too; they are in the file `path`, from which a stopped collection goes on."""
    agent = agent_of(config.agent, config.collector.seed, load_local)
    tasks = [as_task(sample) for sample in samples] if config.tasks is None else tasks_of(config.tasks)
    known = [task for task in tasks if task.gold or config.agent.kind != "expert"]
    if len(known) < len(tasks):
        console.print(f"{len(tasks) - len(known)} of {len(tasks)} tasks have no known solution for the expert")
    collector = TrajectoryCollector(agent, config.collector, path=path, name=config.agent.label, console=console)
    return collector.attempts(known[:limit])


def gathered(
    run: RunConfig, samples: Sequence[Sample], path: Path, load_local: LoadLocal, console: Console
) -> tuple[list[Sample], dict[str, Any]]:
    """The samples to train on, and what became of the attempts (see `statistics`).

    Raises ValueError if nothing passes the filter.
    """
    config, started = run.trajectories, time.perf_counter()
    found = collected(config, samples, run.budget.train_samples, path, load_local, console)
    chooser = filter_of(config.filter)
    kept = chooser.filter(found)
    figures = statistics(found, chooser) | {"wall_seconds": time.perf_counter() - started}
    if not kept:
        raise ValueError(
            f"trajectories: none of {len(found)} attempts can be trained on: {figures['reasons']}; see {path}"
        )
    converted: Any = TrajectoryToSFTConverter(config.conversion).convert(kept)
    return converted, figures


def agent_of(config: AgentConfig, seed: int, load_local: LoadLocal) -> Any:
    if config.kind == "expert":
        return ExpertAgent(config.error_rate, seed=seed)
    if config.kind == "local":
        return load_local(config)
    from sagetune.trajectories.endpoint import EndpointAgent

    assert config.model is not None
    assert config.base_url is not None
    return EndpointAgent(
        config.model,
        config.base_url,
        api_key_env=config.api_key_env,
        temperature=config.temperature,
        max_tokens=config.max_new_tokens,
    )


def filter_of(config: FilterConfig) -> TrajectoryFilter:
    return TrajectoryFilter(
        config.min_reward,
        config.require_success,
        config.max_steps,
        max_repeats=config.max_repeats,
        max_refused=config.max_refused,
        shortest=config.shortest,
    )


def statistics(found: Sequence[AgentTrajectory], chooser: TrajectoryFilter) -> dict[str, Any]:
    """The filter's statistics; `success`: solved and total by family and method; how attempts ended; what they cost."""
    endings: dict[str, int] = {}
    for trajectory in found:
        endings[trajectory.status] = endings.get(trajectory.status, 0) + 1
    costs = {name: sum(trajectory.figures.get(name, 0) for trajectory in found) for name in COSTS}
    success = {
        "family": _solved((trajectory.family, trajectory) for trajectory in found),
        "method": _solved((trajectory.method, trajectory) for trajectory in found),
    }
    return chooser.get_stats(found) | {"success": success, "endings": endings} | costs


def _solved(pairs: Iterable[tuple[str, AgentTrajectory]]) -> dict[str, dict[str, int]]:
    """Attempts that the infrastructure broke do not count."""
    shares: dict[str, dict[str, int]] = {}
    for name, trajectory in pairs:
        if trajectory.status != "error":
            share = shares.setdefault(name, {"solved": 0, "total": 0})
            share["solved"] += trajectory.success
            share["total"] += 1
    return shares
