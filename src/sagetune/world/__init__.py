"""The embedded tool world: seeded, deterministic, offline; state in SQLite, an expert, a checker, split-disjoint tasks.

samples = generate("tool_selection", "train", 128, seed=0)   # list[Sample], ready for training
task = task_of(samples[0])                                   # the task behind a sample
environment = Environment(task)                              # .tools .step(tool_call) .snapshot() .score(messages)
check(task, expert(task)).passed                             # True for every task
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice
from typing import Any

from sagetune.sample import Sample
from sagetune.world.audit import audit
from sagetune.world.baselines import chance_and_trivial
from sagetune.world.domains import DOMAINS, TOOLS
from sagetune.world.environment import Environment, Verdict, check, expert
from sagetune.world.general import REASONING_KINDS, general
from sagetune.world.planning import planning
from sagetune.world.selecting import tool_selection
from sagetune.world.task import Task
from sagetune.world.timing import timing
from sagetune.world.tools import schema_of
from sagetune.world.values import SPLITS

__all__ = [
    "FAMILIES",
    "REASONING_KINDS",
    "SPLITS",
    "Environment",
    "Task",
    "Verdict",
    "audit",
    "baselines",
    "check",
    "check_family",
    "expert",
    "generate",
    "sample_of",
    "task_of",
    "tasks",
]

_MAKERS: dict[str, Callable[[str, int, int], Task]] = {
    "tool_selection": tool_selection, "planning": planning, "timing": timing, "general": general,
}  # fmt: skip
FAMILIES = tuple(_MAKERS)
DOMAIN_FAMILIES = ("tool_selection",)
"""Families whose every task is in one domain."""


def tasks(family: str, split: str, num: int, seed: int = 0) -> list[Task]:
    """The first `num` tasks of a family and split; task i does not depend on `num`.

    family: one of FAMILIES, or family/domain: those of its tasks that are in one domain. Raises ValueError on a bad
    name.
    """
    name, domain = check_family(family)
    _require("split", split, SPLITS)
    if num < 0:
        raise ValueError(f"num must be >= 0, got {num}")
    made = (_MAKERS[name](split, seed, index) for index in count())
    return list(islice((task for task in made if domain is None or task.domains == (domain,)), num))


def generate(family: str, split: str, num_samples: int, seed: int = 0) -> list[Sample]:
    """`num_samples` solved tasks as samples (see :func:`sample_of`); no two alike while the world has new ones."""
    return [sample_of(task) for task in tasks(family, split, num_samples, seed)]


def check_family(family: str) -> tuple[str, str | None]:
    """The family and domain of a name such as tool_selection/shop. Raises ValueError if there is no such."""
    name, slash, domain = family.partition("/")
    _require("family", name, FAMILIES)
    if not slash:
        return name, None
    _require("domain", domain, tuple(DOMAINS))
    if name not in DOMAIN_FAMILIES:
        raise ValueError(
            f"family {name!r} cannot be cut by domain, only {', '.join(DOMAIN_FAMILIES)} can: its tasks have one each"
        )
    return name, domain


def sample_of(task: Task) -> Sample:
    """The expert's solution of the task. `meta` rebuilds the task and tells its kind, domains and `unseen_tool`."""
    meta: dict[str, Any] = {
        "family": task.family, "split": task.split, "seed": task.seed, "index": task.index, "kind": task.kind,
        "domains": list(task.domains), "unseen_tool": task.unseen_tool,
    }  # fmt: skip
    return {
        "id": task.id,
        "messages": expert(task),
        "tools": [schema_of(TOOLS[name]) for name in task.tools],
        "task": task.family,
        "source": "world",
        "meta": meta,
    }


def task_of(sample: Sample) -> Task:
    """The task behind a sample of the world. Raises ValueError for a sample of any other source."""
    if sample["source"] != "world":
        raise ValueError(f"sample {sample['id']!r}: source must be 'world' to have a task, got {sample['source']!r}")
    meta = sample["meta"]
    missing = [name for name in ("family", "split", "seed", "index") if name not in meta]
    if missing:
        raise ValueError(f"sample {sample['id']!r}: meta lacks {', '.join(missing)}, by which the world finds the task")
    return _MAKERS[meta["family"]](meta["split"], meta["seed"], meta["index"])


def baselines(family: str, split: str, num: int, seed: int = 0) -> dict[str, float]:
    """`chance` and `trivial` of the first `num` tasks, and more per family (see :func:`chance_and_trivial`)."""
    return chance_and_trivial(tasks(family, split, num, seed))


def _require(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} must be one of {', '.join(allowed)}, got {value!r}")
