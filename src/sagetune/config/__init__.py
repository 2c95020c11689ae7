"""What a run is: every field, every default and every check. No torch here, so that a mistake is told at once.

:class:`AgentSFTConfig` is the public reference's class to the letter. What goes beyond it lives in small typed groups,
and :class:`RunConfig` holds them all; Hydra reads the same dataclasses as its schema, so a default stands only here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sagetune.config.checks import Problems
from sagetune.config.continual import ContinualConfig
from sagetune.config.coreset import BATCH_STRATEGIES, CORESET_STRATEGIES, TARGETED_STRATEGIES, CoresetConfig
from sagetune.config.mixture import MixtureConfig
from sagetune.config.rl import (
    ROLLOUT_ALGORITHMS,
    DPOConfig,
    GRPOConfig,
    GuardConfig,
    PPOConfig,
    RLTrainingConfig,
    RolloutConfig,
)
from sagetune.config.sft import AgentSFTConfig
from sagetune.config.stages import (
    WANDB_MODES,
    AdapterConfig,
    BudgetConfig,
    DataConfig,
    EvaluationConfig,
    MethodInfo,
    ModelConfig,
    OptimConfig,
    TrainerConfig,
    WandbConfig,
)
from sagetune.config.trajectories import TrajectoriesConfig

__all__ = [
    "CONF_DIR",
    "CORESET_STRATEGIES",
    "ROLLOUT_ALGORITHMS",
    "WANDB_MODES",
    "AdapterConfig",
    "AgentSFTConfig",
    "BudgetConfig",
    "ContinualConfig",
    "CoresetConfig",
    "DPOConfig",
    "DataConfig",
    "EvaluationConfig",
    "GRPOConfig",
    "GuardConfig",
    "MethodInfo",
    "MixtureConfig",
    "ModelConfig",
    "OptimConfig",
    "PPOConfig",
    "Problems",
    "RLTrainingConfig",
    "RolloutConfig",
    "RunConfig",
    "TrainerConfig",
    "TrajectoriesConfig",
    "WandbConfig",
]

CONF_DIR = next(
    folder
    for folder in (Path(__file__).parents[1] / "conf", Path(__file__).parents[3] / "conf")  # in the wheel, in a clone
    if folder.is_dir()
)


@dataclass(kw_only=True)
class RunConfig:
    """One run: the reference's fields in `sft`, everything else in its group."""

    sft: AgentSFTConfig
    method: MethodInfo = field(default_factory=MethodInfo)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    trajectories: TrajectoriesConfig = field(default_factory=TrajectoriesConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    coreset: CoresetConfig = field(default_factory=CoresetConfig)
    continual: ContinualConfig = field(default_factory=ContinualConfig)
    rl: RLTrainingConfig | None = None
    """How to train beyond imitation; None = supervised fine-tuning."""
    dpo: DPOConfig = field(default_factory=DPOConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    seed: int = 0
    """Of adapter initialisation, batch order and dropout."""
    run_name: str | None = None
    """Folder of the run inside sft.output_dir; None = method, seed and time."""
    sweep: str | None = None
    """Folder inside sft.output_dir that holds the runs of a sweep, which sets it itself; None = a run of its own."""
    score: str = "after.tokens.loss"
    """The figure of result.json, by its path, that a sweeper such as Optuna searches by."""
    resume: str | None = None
    """Run folder to go on with; its own config.yaml then is the configuration."""

    def __post_init__(self) -> None:
        """Raise ValueError for what the fields allow each alone, but this version cannot do."""
        problems = Problems()
        check_stream(self, problems)
        rates = self.budget.learning_rates
        judged = "[] without sft.eval_data, by which rates are judged"
        problems.check(not rates or bool(self.sft.eval_data), "budget.learning_rates", rates, judged)
        if self.mixture.use:
            check_mixture(self, problems)
        if self.rl is not None:
            check_rl(self, self.rl, problems)
        if self.sft.use_coreset_selection:
            check_selection(self.sft, self.coreset, problems)
        needs_adapter = self.adapter.start_from is None or self.sft.use_lora
        start = "null while sft.use_lora is false"
        problems.check(needs_adapter, "adapter.start_from", self.adapter.start_from, start)
        fits = self.sft.use_lora or self.model.dtype != "bfloat16"
        full = "auto or float32 while sft.use_lora is false: bfloat16 weights lose small updates"
        problems.check(fits, "model.dtype", self.model.dtype, full)
        problems.check(0 <= self.seed < 2**31, "seed", self.seed, "in [0, 2^31)")
        named = self.run_name is None or self.sweep is None
        problems.check(named, "run_name", self.run_name, "null in a sweep: its runs are named by what they are")
        inside = self.sweep is None or Path(self.sweep).name == self.sweep
        problems.check(inside, "sweep", self.sweep, "the name of one folder inside sft.output_dir")
        problems.report()


def check_rl(run: RunConfig, rl: RLTrainingConfig, problems: Problems) -> None:
    """Note what training beyond imitation cannot do."""
    for name, value, off in (
        ("sft.use_coreset_selection", run.sft.use_coreset_selection, False),
        ("sft.use_online_continual", run.sft.use_online_continual, False),
        ("trajectories.use", run.trajectories.use, False),
        ("mixture.use", run.mixture.use, False),
        ("data.stream", run.data.stream, "shuffled"),
        ("continual.tasks", run.continual.tasks, None),
        ("budget.supervised_tokens", run.budget.supervised_tokens, None),
    ):
        problems.check(value == off, name, value, f"{off} while rl is set: it is for imitation")
    dropout = run.adapter.dropout
    steady = "0 while rl is set: it would be noise in every comparison with the reference"
    problems.check(dropout == 0, "adapter.dropout", dropout, steady)
    if rl.algorithm in ROLLOUT_ALGORITHMS:
        check_rollouts(run, rl, problems)
    fresh = run.sft.use_lora and run.adapter.start_from is None
    switched = run.dpo.reference != "adapter" or fresh
    needs = "precomputed unless a fresh adapter is trained: there is no other way back to the reference"
    problems.check(switched, "dpo.reference", run.dpo.reference, needs)


def check_rollouts(run: RunConfig, rl: RLTrainingConfig, problems: Problems) -> None:
    """Note what training on rollouts cannot do."""
    needs = f"true for {rl.algorithm}: policy and reference share one frozen base model"
    problems.check(run.sft.use_lora, "sft.use_lora", run.sft.use_lora, needs)
    rates = run.budget.learning_rates
    problems.check(not rates, "budget.learning_rates", rates, f"[] for {rl.algorithm}: no loss on dev data tells them")
    samples, tasks, length = run.rollout.samples, run.rollout.tasks, run.sft.max_seq_length
    if rl.algorithm == "grpo":
        problems.check(samples > 1, "rollout.samples", samples, "2 or more for grpo: it compares attempts at one task")
    else:
        problems.check(samples * tasks > 1, "rollout.samples", samples, "2 or more for ppo while rollout.tasks is 1")
        check_adaptive_kl(run.ppo, rl, samples * tasks, problems)
    longest = run.rollout.max_new_tokens
    room = f"below sft.max_seq_length={length}, which a conversation and its reply have to fit"
    problems.check(longest < length, "rollout.max_new_tokens", longest, room)


def check_adaptive_kl(ppo: PPOConfig, rl: RLTrainingConfig, num_rollouts: int, problems: Problems) -> None:
    """Note what a coefficient cannot be steered by."""
    if ppo.adaptive_kl_target is None:
        return
    moves = "above 0 while ppo.adaptive_kl_target is set, which multiplies it"
    problems.check(rl.kl_coef > 0, "rl.kl_coef", rl.kl_coef, moves)
    horizon, least = ppo.adaptive_kl_horizon, f"at least the {num_rollouts} rollouts of an update: it would overshoot"
    problems.check(horizon >= num_rollouts, "ppo.adaptive_kl_horizon", horizon, least)


def check_stream(run: RunConfig, problems: Problems) -> None:
    """Note what a stream of tasks and its replay cannot do."""
    continual, sequential = run.continual, run.data.stream == "sequential"
    whole = continual.strategy != "coreset" or sequential
    problems.check(whole, "continual.strategy", "coreset", "another while data.stream is shuffled: no task ends there")
    own = continual.targets != "self" or sequential
    problems.check(own, "continual.targets", "self", "gold while data.stream is shuffled: no task ends there")
    for task in continual.tasks or []:
        known = "{split}" in task or ":" not in task
        problems.check(known, "continual.tasks", task, "a family, family/domain, or a path or reference with {split}")
    replayed = run.sft.use_online_continual
    for name, default in (("distill", 0.0), ("targets", "gold")):
        used = replayed or vars(continual)[name] == default
        problems.check(used, f"continual.{name}", vars(continual)[name], f"{default} without sft.use_online_continual")
    needs_two = continual.draw == "mir" or continual.strategy == "coreset"
    ranks = continual.candidates > 1 or not needs_two
    problems.check(ranks, "continual.candidates", continual.candidates, "at least 2: of one nothing can be chosen")
    num_tasks = len(continual.tasks or [])
    used = {"train_samples": True, "max_steps": sequential}
    used |= {"eval_samples": bool(run.sft.eval_data), "benchmark_samples": bool(run.evaluation.data)}
    for name in used:
        value = vars(run.budget)[name]
        enough = value is None or value >= num_tasks or not used[name]
        problems.check(enough, f"budget.{name}", value, f"at least one for each of {num_tasks} continual.tasks")
    buckets = run.data.bucket_steps
    problems.check(not sequential or buckets == 1, "data.bucket_steps", buckets, "1 while data.stream is sequential")


def check_mixture(run: RunConfig, problems: Problems) -> None:
    """Note what cannot be mixed."""
    collects, tasks = run.trajectories.use, run.continual.tasks
    problems.check(
        not collects, "trajectories.use", collects, "false while mixture.use is true: collect, then mix files"
    )
    own = "null while mixture.use is true: the tasks of mixture.weights are the stream's"
    problems.check(tasks is None, "continual.tasks", tasks, own)
    num_tasks, steps = len(run.mixture.shares()), run.budget.max_steps
    enough = run.data.stream == "shuffled" or steps is None or steps >= num_tasks
    problems.check(enough, "budget.max_steps", steps, f"at least one for each of {num_tasks} tasks of the mixture")


def check_selection(sft: AgentSFTConfig, coreset: CoresetConfig, problems: Problems) -> None:
    """Note what a run that selects cannot do."""
    strategy, every = sft.coreset_strategy, coreset.refresh_epochs
    if coreset.scope == "batch":
        _check_batch_scope(sft, coreset, problems)
    words = strategy in ("diversity", "kcenter", "facility_location") and coreset.embedding == "tfidf"
    changes = "null: with the model as it is at an epoch's start this strategy would choose the same again"
    problems.check(every is None or not (words or strategy == "length"), "coreset.refresh_epochs", every, changes)
    if strategy in TARGETED_STRATEGIES:
        target = coreset.dev_data or sft.eval_data
        problems.check(bool(target), "coreset.dev_data", coreset.dev_data, f"data that {strategy} selects for")
    if strategy in ("less", "s2l"):
        needs = f"true for {strategy}: it trains an adapter to score with"
        problems.check(sft.use_lora, "sft.use_lora", sft.use_lora, needs)
        once = coreset.refresh_epochs
        problems.check(
            once is None, "coreset.refresh_epochs", once, f"null for {strategy}: it scores by its own warm-up"
        )


def _check_batch_scope(sft: AgentSFTConfig, coreset: CoresetConfig, problems: Problems) -> None:
    """Note the options that rows of a batch cannot follow."""
    while_batch = "while coreset.scope is batch"
    allowed = f"one of {', '.join(BATCH_STRATEGIES)} {while_batch}"
    problems.check(sft.coreset_strategy in BATCH_STRATEGIES, "sft.coreset_strategy", sft.coreset_strategy, allowed)
    size, rows = sft.coreset_target_size, "sft.batch_size rows of each candidate batch are trained on"
    problems.check(size is None, "sft.coreset_target_size", size, f"null {while_batch}: {rows}")
    every = coreset.refresh_epochs
    problems.check(every is None, "coreset.refresh_epochs", every, f"null {while_batch}")
    problems.check(not coreset.stratify, "coreset.stratify", coreset.stratify, f"false {while_batch}")
    problems.check(not coreset.whiten, "coreset.whiten", coreset.whiten, f"false {while_batch}: its rows are few")
    problems.check(coreset.dedup != "pool", "coreset.dedup", coreset.dedup, f"coverage or off {while_batch}")
    problems.check(
        coreset.embedding != "tfidf", "coreset.embedding", coreset.embedding, f"auto or hidden {while_batch}"
    )
    more = coreset.candidates == 1 or round(sft.batch_size * coreset.candidates) > sft.batch_size
    least = f"1, or enough for a row more than sft.batch_size={sft.batch_size}"
    problems.check(more, "coreset.candidates", coreset.candidates, least)
