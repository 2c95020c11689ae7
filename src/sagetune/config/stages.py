"""The typed groups of a run beside the reference's fields, one class a group."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sagetune.config.checks import Problems

DTYPES = ("auto", "float32", "bfloat16")
ATTENTIONS = ("segment", "sdpa", "eager")
CHAT_TEMPLATES = ("auto", "own", "chatml")
ON_ERROR = ("raise", "skip")
STREAMS = ("shuffled", "sequential")
LR_SCHEDULES = ("cosine", "linear", "constant")
ACCELERATORS = ("auto", "cpu", "gpu")
EVALUATIONS = ("generation", "likelihood")
CAPABILITIES = ("tool_use", "planning", "reasoning", "instruction_following", "timing", "tool_selection")
"""The reference's four, then two that are details of using tools: whether to call at all, and which tool."""
WANDB_MODES = ("offline", "online", "disabled")


@dataclass(kw_only=True)
class MethodInfo:
    """Which method the run is, for its records; the fields that make it one are set in its conf/method file."""

    id: str = "custom"
    name: str = "Custom"
    description: str = ""
    source: str = ""
    coreset: str = ""
    """The conf/coreset option that replaces the method's own strategy."""

    continual: str = ""
    """The conf/continual option that replaces the method's own replay."""

    mixture: str = ""
    """The conf/mixture option that replaces the method's own mixture."""

    objective: str = ""
    """The conf/objective option, where it is not supervised fine-tuning."""

    @property
    def label(self) -> str:
        """Name of the method in run folders and tables."""
        return "+".join(part for part in (self.id, self.mixture, self.coreset, self.continual, self.objective) if part)


@dataclass(kw_only=True)
class ModelConfig:
    """How the base model is loaded."""

    dtype: str = "auto"
    """auto = bfloat16 where the device computes it natively, else float32."""
    attention: str = "segment"
    """segment = padding-free rows with exact attention per sample; sdpa or eager = padded batches."""
    chat_template: str = "auto"
    """own = the tokenizer's; chatml = ours with tools; auto = the tokenizer's where it renders tools, else ours."""
    trust_remote_code: bool = False
    """Run Python code that a hub repository ships. Only for repositories that you trust."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("model.dtype", self.dtype, DTYPES)
        problems.one_of("model.attention", self.attention, ATTENTIONS)
        problems.one_of("model.chat_template", self.chat_template, CHAT_TEMPLATES)
        problems.report()


@dataclass(kw_only=True)
class DataConfig:
    """How samples are read."""

    seed: int = 0
    """Seed of generated data; apart from the run's seed, so that seeds of a study see the same data."""
    on_error: str = "raise"
    """What a bad record of a file does: raise names it; skip counts it, up to 5 % of the file."""
    stream: str = "shuffled"
    """Order of training: shuffled = every epoch a new order of all samples; sequential = task after task, each for
    sft.num_epochs epochs."""
    bucket_steps: int = 1
    """Optimiser steps whose samples are sorted by length together; 1 = every step is a random draw."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("data.on_error", self.on_error, ON_ERROR)
        problems.one_of("data.stream", self.stream, STREAMS)
        problems.check(self.bucket_steps >= 1, "data.bucket_steps", self.bucket_steps, "at least 1")
        problems.report()


@dataclass(kw_only=True)
class AdapterConfig:
    """What the adapter changes, beyond the reference's lora_* fields."""

    target_modules: str = "all-linear"
    """"all-linear" (every linear layer but the output head), or comma-separated module names."""
    dropout: float = 0.0
    """Dropout on the adapter's input."""
    start_from: str | None = None
    """Adapter to go on training, its settings included: a PEFT folder, or a run's folder; None = a fresh one."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.check(bool(self.target_modules), "adapter.target_modules", self.target_modules, "all-linear or names")
        problems.check(0 <= self.dropout < 1, "adapter.dropout", self.dropout, "in [0, 1)")
        problems.report()


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW, its schedule and its clipping."""

    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; vectors (biases, norms, DoRA magnitudes) are never decayed."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    embedding_lr_ratio: float = 1.0
    """Learning rate of embedding parameters over the base rate."""
    max_grad_norm: float = 1.0
    """Global gradient norm is clipped to this; 0 = no clipping."""
    lr_schedule: str = "cosine"
    """Shape after the warm-up; cosine and linear end at zero."""
    warmup_ratio: float = 0.03
    """Share of the optimiser steps in which the learning rate rises from zero."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("optim.lr_schedule", self.lr_schedule, LR_SCHEDULES)
        problems.check(0 <= self.warmup_ratio < 1, "optim.warmup_ratio", self.warmup_ratio, "in [0, 1)")
        for name in ("beta1", "beta2"):
            problems.check(0 <= vars(self)[name] < 1, f"optim.{name}", vars(self)[name], "in [0, 1)")
        for name in ("weight_decay", "max_grad_norm", "embedding_lr_ratio"):
            problems.check(vars(self)[name] >= 0, f"optim.{name}", vars(self)[name], "at least 0")
        problems.check(self.epsilon > 0, "optim.epsilon", self.epsilon, "above 0")
        problems.report()


@dataclass(kw_only=True)
class BudgetConfig:
    """How much a run may use. None = all there is (a file), or no cap (steps)."""

    train_samples: int | None = 1000
    """Samples taken from the training data, in its order."""
    eval_samples: int | None = 200
    """Samples taken from sft.eval_data."""
    benchmark_samples: int | None = 100
    """Samples taken from evaluation.data, scored by generated actions before and after."""
    max_steps: int | None = None
    """Optimiser steps at most."""
    supervised_tokens: int | None = None
    """Supervised tokens, to the step that comes nearest: methods whose samples are longer, or that replay, then take
    fewer steps. A stream, and what is replayed, counts by the mean of its samples. The number that was trained on is in
    the result."""
    learning_rates: list[float] = field(default_factory=list)
    """Rates of which the best on sft.eval_data is trained with, each tried in a short training; empty = no search,
    sft.learning_rate."""
    search_steps: int = 20
    """Optimiser steps of each such trial."""

    def __post_init__(self) -> None:
        problems = Problems()
        for name in ("train_samples", "eval_samples", "benchmark_samples", "max_steps", "supervised_tokens"):
            value = vars(self)[name]
            problems.check(value is None or value >= 1, f"budget.{name}", value, "null or at least 1")
        rates = self.learning_rates
        sound = all(math.isfinite(rate) and rate > 0 for rate in rates) and len(set(rates)) == len(rates)
        problems.check(sound, "budget.learning_rates", rates, "different rates above 0, none twice")
        problems.check(len(rates) != 1, "budget.learning_rates", rates, "two or more: one is sft.learning_rate")
        problems.check(self.search_steps >= 1, "budget.search_steps", self.search_steps, "at least 1")
        problems.report()


@dataclass(kw_only=True)
class EvaluationConfig:
    """Generated actions on held-out tasks, before and after training."""

    data: str | None = "agent_benchmark:tool_selection:test"
    """Held-out conversations; None = no generation."""
    max_new_tokens: int = 64
    """Longest generated action."""
    batch_size: int = 16
    """Prompts generated together."""
    capabilities: dict[str, str] = field(default_factory=dict)
    """Capability -> what it is measured on: a reference of sft.train_data's forms, or gsm8k:<path>, hotpotqa:<path>,
    strategyqa:<path>, ifeval:<path>, bfcl:<folder>. Empty = no capability report."""
    folder: str = "data"
    """Folder of the files that the options of real benchmarks read."""
    samples: int | None = 100
    """Items of each capability; None = all there are."""
    attempts: int = 1
    """Times that each item is asked; above 1 the report has pass^k."""
    temperature: float = 0.0
    """0 = the likeliest token."""
    max_turns: int = 12
    """Messages of the agent in one task."""
    how: str = "generation"
    """generation = what the model writes; likelihood = which of the given choices it prefers, where there are some."""

    def __post_init__(self) -> None:
        problems = Problems()
        for name in ("max_new_tokens", "batch_size", "attempts", "max_turns"):
            problems.check(vars(self)[name] >= 1, f"evaluation.{name}", vars(self)[name], "at least 1")
        problems.check(
            self.samples is None or self.samples >= 1, "evaluation.samples", self.samples, "null or at least 1"
        )
        problems.check(self.temperature >= 0, "evaluation.temperature", self.temperature, "at least 0")
        varied = self.attempts == 1 or self.temperature > 0
        problems.check(
            varied, "evaluation.attempts", self.attempts, "1 while evaluation.temperature is 0: all are alike"
        )
        problems.one_of("evaluation.how", self.how, EVALUATIONS)
        unknown = sorted(set(self.capabilities) - set(CAPABILITIES))
        problems.check(not unknown, "evaluation.capabilities", unknown, f"some of {', '.join(CAPABILITIES)}")
        problems.report()


@dataclass(kw_only=True)
class TrainerConfig:
    """Where the run computes and how often it saves and validates."""

    accelerator: str = "auto"
    """auto = a GPU where there is one, else the CPU."""
    checkpoint_every_n_steps: int = 25
    """Optimiser steps between checkpoints that a killed run resumes from."""
    eval_every_n_steps: int | None = None
    """Optimiser steps between evaluations on sft.eval_data; None = at the end only."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("trainer.accelerator", self.accelerator, ACCELERATORS)
        saves = self.checkpoint_every_n_steps
        problems.check(saves >= 1, "trainer.checkpoint_every_n_steps", saves, "at least 1")
        every = self.eval_every_n_steps
        problems.check(every is None or every >= 1, "trainer.eval_every_n_steps", every, "null or at least 1")
        problems.report()


@dataclass(kw_only=True)
class WandbConfig:
    """Weights & Biases, as a mirror of the run folder."""

    mode: str = "offline"
    """offline = into the run folder, for `wandb sync`; WANDB_MODE in the environment beats it."""
    project: str = "sagetune"
    entity: str | None = None
    group: str | None = None
    """Runs of one study share it."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("wandb.mode", self.mode, WANDB_MODES)
        problems.check(bool(self.project), "wandb.project", self.project, "a non-empty string")
        problems.report()
