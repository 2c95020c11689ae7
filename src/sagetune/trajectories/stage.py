"""FireAct's place in a run: training tasks -> attempts -> the good ones -> samples to train on."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sagetune.config import RunConfig
from sagetune.config.trajectories import AgentConfig, FilterConfig
from sagetune.files import write_json
from sagetune.sample import Sample
from sagetune.trajectories.collector import TrajectoryCollector, without_observations
from sagetune.trajectories.convert import TrajectoryToSFTConverter
from sagetune.trajectories.endpoint import EndpointAgent
from sagetune.trajectories.environment import AgentTask
from sagetune.trajectories.expert import ExpertAgent
from sagetune.trajectories.filter import TrajectoryFilter
from sagetune.trajectories.record import AgentTrajectory, load_trajectories
from sagetune.trajectories.runs import finished
from sagetune.trajectories.tasks import as_task, tasks_of

LoadLocal = Callable[[AgentConfig], Any]
"""Makes the agent that is a local model."""
Found = list[AgentTrajectory]
COSTS = ("seconds", "prompt_tokens", "completion_tokens")


def collected(run: RunConfig, samples: Sequence[Sample], path: Path, load_local: LoadLocal, console: Console) -> Found:
    """All attempts at the tasks, failures too; they are in the file `path`, from which a stopped collection goes on."""
    config = run.trajectories
    tasks = _world_tasks(samples) if config.tasks is None else tasks_of(config.tasks)
    known = [task for task in tasks if task.gold or config.agent.kind != "expert"]
    if len(known) < len(tasks):
        console.print(f"{len(tasks) - len(known)} of {len(tasks)} tasks have no known solution for the expert")
    options, details = config.collector, dataclasses.asdict(config.agent)
    if config.agent.kind == "local":
        details["model"] = config.agent.model or run.sft.base_model
        if not config.agent.temperature:
            options = dataclasses.replace(options, bad_replies=0)
    collector = TrajectoryCollector(
        agent_of(config.agent, options.seed, load_local),
        options,
        path=path,
        name=config.agent.label,
        details=details,
        console=console,
    )
    return collector.attempts(known[: run.budget.train_samples])


def _world_tasks(samples: Sequence[Sample]) -> list[AgentTask]:
    """The tasks behind samples of the embedded world. Raises ValueError for others: there is nothing to act in."""
    foreign = next((sample["id"] for sample in samples if sample["source"] != "world"), None)
    if foreign is not None:
        raise ValueError(
            f"sft.train_data: sample {foreign!r} has nothing to act in, as only tasks of the embedded world have: act "
            f"in recorded searches or in BFCL (trajectories.tasks=search:<path> or bfcl:<folder>), or train on the "
            f"conversations as they are (trajectories.use=false)"
        )
    return [as_task(sample) for sample in samples]


def gathered(
    run: RunConfig, samples: Sequence[Sample], path: Path, mark: Path, load_local: LoadLocal, console: Console
) -> list[Sample]:
    """The samples to train on. What became of the attempts is written to `mark` (see `statistics`).

    A run that goes on and finds `mark` trains on the very attempts that it names. Raises ValueError if nothing passes
    the filter.
    """
    config = run.trajectories
    if mark.is_file():
        done = finished(load_trajectories(path))
        kept = [
            done[(task, method, seed, attempt)] for task, method, seed, attempt in json.loads(mark.read_text())["keys"]
        ]
    else:
        started = time.perf_counter()
        found = collected(run, samples, path, load_local, console)
        chooser = filter_of(config.filter)
        kept, figures = chooser.filter(found), statistics(found, chooser)
        if not kept:
            told = f"none of {len(found)} attempts can be trained on: {figures['reasons']}; see {path}"
            raise ValueError(f"trajectories: {told}")
        seconds = time.perf_counter() - started
        write_json(mark, {**figures, "wall_seconds": seconds, "keys": [trajectory.key for trajectory in kept]})
    if not config.collector.save_intermediate:
        kept = [without_observations(trajectory) for trajectory in kept]
    converted: Any = TrajectoryToSFTConverter(config.conversion).convert(kept)
    return converted


def agent_of(config: AgentConfig, seed: int, load_local: LoadLocal) -> Any:
    if config.kind == "expert":
        return ExpertAgent(config.error_rate, seed=seed)
    if config.kind == "local":
        return load_local(config)
    return endpoint_of(config)


def endpoint_of(config: AgentConfig) -> EndpointAgent:
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
        "family": _solved((trajectory.family or trajectory.task_id, trajectory) for trajectory in found),
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
