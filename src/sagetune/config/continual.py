"""How earlier samples are kept and replayed, and the stream of tasks in which that matters."""

from __future__ import annotations

from dataclasses import dataclass

from sagetune.config.checks import Problems

# The reference's class has the same defaults.
REPLAY_BUFFER_SIZE = 2048
REPLAY_RATIO = 0.25
REPLAY_STRATEGY = "reservoir"
REPLAY_STRATEGIES = ("reservoir", "task_balanced", "fifo", "loss", "coreset")
REPLAY_DRAWS = ("uniform", "task_balanced", "mir")
REPLAY_MODES = ("append", "replace")
REPLAY_TARGETS = ("gold", "self")
REPLAY_CANDIDATES = 4


@dataclass(kw_only=True)
class ContinualConfig:
    """A stream of tasks, and what replay does beyond the reference's continual_* fields."""

    tasks: list[str] | None = None
    """Tasks of the stream, in order: families of the world (tool_selection), their domains (tool_selection/shop), or
    files that hold {split} in place of train and test. They stand in for sft.train_data, sft.eval_data and
    evaluation.data, and share the budget's samples equally. None = the tasks of sft.train_data, by first appearance."""
    strategy: str = REPLAY_STRATEGY
    """Which samples the buffer keeps: sagetune.replay.learner tells what each means."""
    draw: str = "uniform"
    """Which of them are replayed."""
    mode: str = "append"
    """append = replayed rows come on top of the batch; replace = they take the place of rows of the batch."""
    weight: float = 1.0
    """Weight of a replayed token in the loss, over that of a current one."""
    candidates: int = REPLAY_CANDIDATES
    """Samples that draw=mir ranks for each row, and that strategy=coreset chooses from for each place."""
    distill: float = 0.0
    """Weight of dark experience (DER++, arXiv:2004.07211): replayed tokens also follow the model's earlier beliefs."""
    distill_top_k: int = 32
    """Likeliest tokens that are remembered of a belief; the rest of the vocabulary is one bucket."""
    targets: str = "gold"
    """What the replayed samples of a finished task answer: gold, or self = the model's own answers that the world's
    checker passes (arXiv:2605.29495)."""
    self_answers: int = 64
    """Samples of a finished task that are answered anew while targets is self."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("continual.strategy", self.strategy, REPLAY_STRATEGIES)
        problems.one_of("continual.draw", self.draw, REPLAY_DRAWS)
        problems.one_of("continual.mode", self.mode, REPLAY_MODES)
        problems.one_of("continual.targets", self.targets, REPLAY_TARGETS)
        problems.check(self.weight > 0, "continual.weight", self.weight, "above 0")
        problems.check(self.distill >= 0, "continual.distill", self.distill, "at least 0")
        for name in ("candidates", "distill_top_k", "self_answers"):
            problems.check(vars(self)[name] >= 1, f"continual.{name}", vars(self)[name], "at least 1")
        if self.tasks is not None:
            some = len(self.tasks) > 1 and len(set(self.tasks)) == len(self.tasks)
            problems.check(some, "continual.tasks", self.tasks, "null, or two tasks or more, each once")
        problems.report()
