"""AgentTuning: data sets by task -> one list in stated proportions, and what that means for each of them. No torch.

AgentTuning's eta (arXiv:2310.12823) is such a proportion, of the samples and not a weight in the loss (its authors in
THUDM/AgentTuning#10). Proportions are exact: the parts of a total follow from the weights by largest remainder, so that
each is within one sample of its share; independent draws, as by `datasets.interleave_datasets`, are not.
"""

from __future__ import annotations

import math
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sagetune.config import RunConfig
from sagetune.config.checks import Problems
from sagetune.config.mixture import MIX_STRATEGIES, MIX_STRATEGY, MIX_TEMPERATURE, check_draw, check_weights
from sagetune.sample import Sample
from sagetune.sources import Part, endless


@dataclass
class MixerConfig:
    """How tasks are mixed: the reference's fields, then ours."""

    task_weights: dict[str, float]
    """Share of each task, in any unit; 0 leaves a task out. Strategies other than weighted read nothing else in it."""
    strategy: str = MIX_STRATEGY
    """weighted = by task_weights; proportional = by the data sets' sizes; temperature = by size^(1/temperature);
    equal = all alike; concat = by sizes, and never a sample twice."""
    shuffle: bool = True
    """Mix the order; False = task after task, each in its own order."""
    total: int | None = None
    """Samples to draw. None = as many as the scarcest task has its share of, so that none comes twice; with
    replacement, as many as there are."""
    replacement: bool = False
    """Draw with replacement; False = every sample of a task once before any comes twice."""
    temperature: float = MIX_TEMPERATURE
    seed: int = 0

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("strategy", self.strategy, MIX_STRATEGIES)
        check_weights(self.task_weights, "task_weights", problems)
        check_draw(self.strategy, self.temperature, self.replacement, "", problems)
        problems.check(self.total is None or self.total >= 1, "total", self.total, "null or at least 1")
        problems.report()


@dataclass
class TaskSample:
    """One sample of a task."""

    task_type: str
    data: dict[str, Any]
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What a task gives to a mixture."""

    wanted: float
    """Its part of the mixture, of 1."""
    size: int
    """Samples that it has."""
    drawn: int
    """Samples that are taken of it, repeats included."""

    @property
    def epochs(self) -> float:
        """How often a sample of it comes, on average, in one pass over the mixture."""
        return self.drawn / self.size

    @property
    def short(self) -> int:
        """Samples that it lacks: without replacement so many come again."""
        return max(0, self.drawn - self.size)


class MultiTaskMixer:
    """Mixes data sets of several tasks. The same seed gives the same mixture; each draw is a draw at random.

    A smaller total takes of each task the first of what a larger one takes, in the same order relative to each other.
    (The parts of a total by largest remainder may shrink, by one, when the total grows.)
    tell: receives one line for each task that has fewer samples than its share asks for.
    """

    def __init__(self, config: MixerConfig, *, tell: Callable[[str], None] = warnings.warn) -> None:
        self.config = config
        self._tell = tell

    def mix(self, task_datasets: Mapping[str, Sequence[Any]]) -> list[TaskSample]:
        """The mixture. task_datasets: samples, or TaskSamples of that task, by the tasks of task_weights.

        Raises ValueError for a task without a weight, for one without samples, and for a TaskSample of another task.
        """
        config, mixed = self.config, []
        for task, share in self.plan({task: len(rows) for task, rows in task_datasets.items()}).items():
            if share.short and not config.replacement:
                self._tell(_shortage(task, share))
            rows = task_datasets[task]
            draw = random.Random(f"{config.seed}:draw:{task}")
            places = _places(share.size, share.drawn, config.replacement, draw)
            order = random.Random(f"{config.seed}:order:{task}") if config.shuffle else None
            for rank, place in _ranked(places, order):
                mixed.append((rank, _task_sample(task, place, rows[place])))
        if config.shuffle:
            mixed.sort(key=lambda pair: pair[0])
        return [sample for _, sample in mixed]

    def plan(self, sizes: Mapping[str, int]) -> dict[str, Share]:
        """What each task would give, by the number of its samples. Raises ValueError as `mix` does."""
        config = self.config
        tasks = [task for task, weight in config.task_weights.items() if weight > 0]
        _check_tasks(config.task_weights, tasks, sizes)
        num = [sizes[task] for task in tasks]
        weights = _weights(config, [config.task_weights[task] for task in tasks], num)
        parts = apportion(_total(config, weights, num), weights)
        whole = math.fsum(weights)
        given = zip(tasks, weights, num, parts, strict=True)
        return {task: Share(weight / whole, size, part) for task, weight, size, part in given}

    def get_task_distribution(self, samples: Iterable[TaskSample]) -> dict[str, int]:
        """How many samples each task has, in the order of task_weights; then tasks that it does not name."""
        counts = Counter(sample.task_type for sample in samples)
        return dict.fromkeys(self.config.task_weights, 0) | counts


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Parts of `total` in proportion to `weights`, each within one of its share; they sum to it.

    Largest remainder (Hamilton), ties by position. Weights are taken as written: 0.35 is 7/20, not its nearest double.
    """
    exact = [Fraction(repr(float(weight))) for weight in weights]
    shares = [total * weight / sum(exact) for weight in exact]
    parts = [int(share) for share in shares]
    by_remainder = sorted(range(len(parts)), key=lambda place: parts[place] - shares[place])
    for place in by_remainder[: total - sum(parts)]:
        parts[place] += 1
    return parts


def parts_of(run: RunConfig) -> list[Part]:
    """What a run reads for its mixture; a source without an end gives, at most, what is drawn of it."""
    weights, config = run.mixture.shares(), run.mixture
    if config.strategy == "equal":
        weights = dict.fromkeys(weights, 1.0)
    drawn = apportion(run.budget.train_samples or 0, list(weights.values()))
    parts = []
    for task, num in zip(weights, drawn, strict=True):
        reference = config.sources[task]
        limit = config.limits.get(task, max(1, num) if endless(reference) else None)
        parts.append(Part(reference, limit, task))
    return parts


def mixed(run: RunConfig, samples: Sequence[Sample], tell: Callable[[str], None]) -> tuple[list[Sample], Any]:
    """A run's training samples, task after task, and what mixture.json tells of them.

    samples: what `parts_of` reads. A sample that comes again has its number at its id.
    """
    started, config = time.perf_counter(), run.mixture
    by_task: dict[str, list[Sample]] = {task: [] for task in config.shares()}
    for sample in samples:
        by_task[sample["task"]].append(sample)
    mixer = MultiTaskMixer(
        MixerConfig(
            config.shares(),
            config.strategy,
            shuffle=False,  # the batches are; a stream of tasks wants them apart
            total=run.budget.train_samples,
            replacement=config.replacement,
            temperature=config.temperature,
            seed=run.data.seed,
        ),
        tell=tell,
    )
    drawn: list[Any] = [sample.data for sample in mixer.mix(by_task)]
    distinct = Counter(task for _, task in {(sample["id"], sample["task"]) for sample in drawn})
    sources = {
        task: {
            "reference": config.sources[task],
            "wanted": share.wanted,
            "size": share.size,
            "drawn": share.drawn,
            "distinct": distinct[task],
            "epochs": share.epochs,
            "short": share.short,
        }
        for task, share in mixer.plan({task: len(rows) for task, rows in by_task.items()}).items()
    }
    figures = {"strategy": config.strategy, "replacement": config.replacement, "eta": config.eta}
    figures |= {"total": len(drawn), "sources": sources, "seconds": time.perf_counter() - started}
    return _distinct_ids(drawn), figures


def count_used(figures: Any, samples: Iterable[Sample]) -> None:
    """Add to `figures` what the model gets of each task: samples that are too long to train on are not among it."""
    used = Counter(sample["task"] for sample in samples)
    for task, source in figures["sources"].items():
        source |= {"used": used[task], "share": used[task] / used.total()}


def _check_tasks(weights: Mapping[str, float], tasks: Sequence[str], sizes: Mapping[str, int]) -> None:
    problems = Problems()
    known = ", ".join(weights)
    for task in sizes:
        fix = f"one of task_weights ({known}): give it a weight there, 0 to leave it out"
        problems.check(task in weights, "task_datasets: task", task, fix)
    missing = [task for task in tasks if task not in sizes]
    fix = f"samples for each task of task_weights: {', '.join(missing)} has none; set its weight to 0 to leave it out"
    problems.check(not missing, "task_datasets", list(sizes), fix)
    for task in tasks:
        some = sizes.get(task, 1) > 0
        fix = "at least one sample, or a weight of 0 in task_weights"
        problems.check(some, f"task_datasets[{task!r}]", [], fix)
    problems.report()


def _weights(config: MixerConfig, weights: Sequence[float], sizes: Sequence[int]) -> list[float]:
    if config.strategy == "weighted":
        return list(weights)
    if config.strategy == "equal":
        return [1.0] * len(sizes)
    if config.strategy == "temperature":
        largest = max(sizes)  # sizes over the largest, so that no power overflows
        return [(size / largest) ** (1 / config.temperature) for size in sizes]
    return [float(size) for size in sizes]


def _total(config: MixerConfig, weights: Sequence[float], sizes: Sequence[int]) -> int:
    if config.strategy == "concat":
        return min(sum(sizes), config.total or sum(sizes))
    if config.total is not None:
        return config.total
    return sum(sizes) if config.replacement else largest_total(weights, sizes)


def largest_total(weights: Sequence[float], sizes: Sequence[int]) -> int:
    """The largest total of which no share is larger than its size, so that no sample is needed twice."""
    exact = [Fraction(repr(float(weight))) for weight in weights]
    return min(int(size * sum(exact) / weight) for size, weight in zip(sizes, exact, strict=True) if weight)


def _places(size: int, num: int, replacement: bool, rng: random.Random) -> list[int]:
    """`num` draws of a data set; those of a smaller `num` are the first of a larger."""
    if replacement:
        return [rng.randrange(size) for _ in range(num)]
    places: list[int] = []
    while len(places) < num:
        places += rng.sample(range(size), size)
    return places[:num]


def _ranked(places: Sequence[int], order: random.Random | None) -> list[tuple[float, int]]:
    """Each place with what sorts the mixture: chance, or nothing, where all come in order before any comes again."""
    if order is not None:
        return [(order.random(), place) for place in places]
    seen: Counter[int] = Counter()
    turns = []
    for place in places:
        turns.append((seen[place], place))
        seen[place] += 1
    return [(0.0, place) for _, place in sorted(turns)]


def _task_sample(task: str, place: int, row: Any) -> TaskSample:
    if not isinstance(row, TaskSample):
        return TaskSample(task, row, row.get("source"))
    if row.task_type != task:
        where = f"task_datasets[{task!r}][{place}].task_type"
        raise ValueError(f"{where} must be {task!r}, got {row.task_type!r}: put it into the data set of its task")
    return row


def _shortage(task: str, share: Share) -> str:
    return (
        f"mixing: {task} has {share.size} samples of the {share.drawn} that its share of {share.wanted:.1%} asks for: "
        f"it is seen {share.epochs:.2f} times"
    )


def _distinct_ids(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, each that comes again with the number of its turn at its id."""
    taken = {sample["id"] for sample in samples}
    seen: Counter[str] = Counter()
    named: list[Sample] = []
    for sample in samples:
        seen[sample["id"]] += 1
        name, turn = sample["id"], seen[sample["id"]]
        while turn > 1 and name in taken:
            name += f"#{turn}"
        taken.add(name)
        named.append({**sample, "id": name})
    return named
