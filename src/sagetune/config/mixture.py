"""Mixing data by task: which sources, in which proportions. AgentTuning's stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sagetune.config.checks import Problems

MIX_STRATEGY = "weighted"
MIX_STRATEGIES = ("weighted", "proportional", "temperature", "equal", "concat")
SIZED_STRATEGIES = ("proportional", "temperature", "concat")
"""Those whose proportions follow from the sizes of the sources."""
MIX_TEMPERATURE = 2.0
GENERAL = "general"


@dataclass(kw_only=True)
class MixtureConfig:
    """What a run trains on in place of sft.train_data: budget.train_samples samples of several sources."""

    use: bool = False
    """Mix; False trains on sft.train_data."""
    weights: dict[str, float] = field(default_factory=dict)
    """Share of each task in the mixture, in any unit; 0 leaves it out. The task is what its samples count as."""
    sources: dict[str, str] = field(default_factory=dict)
    """Where the samples of each task come from, a reference as in sft.train_data."""
    limits: dict[str, int] = field(default_factory=dict)
    """Samples that are read of a task's source at most. Without one a file is read whole, and the embedded world, which
    has no end, gives as many as are drawn."""
    eta: float | None = None
    """AgentTuning's share of agent data: what the tasks but `general` have together, in the proportions of their
    weights; `general` has the rest. None = the weights as they are."""
    strategy: str = MIX_STRATEGY
    """weighted = by weights; proportional = by the sources' sizes; temperature = by size^(1/temperature); equal = all
    alike; concat = by sizes, and never a sample twice."""
    temperature: float = MIX_TEMPERATURE
    """Of strategy=temperature: 1 = proportional; the larger, the more equal."""
    replacement: bool = False
    """Draw with replacement; False = every sample of a source once before any comes twice."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("mixture.strategy", self.strategy, MIX_STRATEGIES)
        check_draw(self.strategy, self.temperature, self.replacement, "mixture.", problems)
        if self.use:
            check_weights(self.weights, "mixture.weights", problems)
        self._check_names(problems)
        problems.check(self.eta is None or 0 <= self.eta <= 1, "mixture.eta", self.eta, "null or in [0, 1]")
        by_weights = self.eta is None or self.strategy == MIX_STRATEGY
        problems.check(by_weights, "mixture.eta", self.eta, f"null for {self.strategy}, which goes by no weights")
        if self.eta is not None and self.use:
            agent = sum(weight for task, weight in self.weights.items() if task != GENERAL)
            both = self.weights.get(GENERAL, 0) > 0 and agent > 0
            needs = f"null unless mixture.weights has {GENERAL} and another task, both above 0"
            problems.check(both, "mixture.eta", self.eta, needs)
        problems.report()

    def _check_names(self, problems: Problems) -> None:
        missing = [task for task, weight in self.weights.items() if weight > 0 and task not in self.sources]
        allowed = f"a reference for each task of mixture.weights: {', '.join(missing)} has none"
        problems.check(not missing, "mixture.sources", self.sources, allowed)
        for name, given in (("sources", self.sources), ("limits", self.limits)):
            for task in given:
                allowed = f"one of mixture.weights ({', '.join(self.weights)})"
                problems.check(task in self.weights, f"mixture.{name}: task", task, allowed)
        for task, limit in self.limits.items():
            problems.check(limit >= 1, f"mixture.limits.{task}", limit, "at least 1")

    def shares(self) -> dict[str, float]:
        """The weight of each task that is mixed, with eta in it."""
        weights = dict(self.weights)
        if self.eta is not None:
            agent = sum(weight for task, weight in weights.items() if task != GENERAL)
            weights = {task: self.eta * weight / agent for task, weight in weights.items()} | {GENERAL: 1 - self.eta}
        return {task: weight for task, weight in weights.items() if weight > 0}


def check_weights(weights: dict[str, float], name: str, problems: Problems) -> None:
    """Note weights that give no proportions."""
    for task, weight in weights.items():
        sound = math.isfinite(weight) and weight >= 0
        problems.check(sound, f"{name}.{task}", weight, "a number, at least 0 (0 leaves the task out)")
    problems.check(any(weights.values()), name, weights, "a weight for each task, one at least above 0")


def check_draw(strategy: str, temperature: float, replacement: bool, prefix: str, problems: Problems) -> None:
    """Note what a way of drawing cannot do."""
    problems.check(0 < temperature < math.inf, f"{prefix}temperature", temperature, "a number above 0")
    once = not replacement or strategy != "concat"
    problems.check(once, f"{prefix}replacement", replacement, "false for concat, which takes no sample twice")
