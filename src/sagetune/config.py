"""What a run is: every field, every default and every check. No torch here, so that a mistake is told at once.

:class:`AgentSFTConfig` is the public reference's class to the letter. What goes beyond it lives in small typed groups,
and :class:`RunConfig` holds them all; Hydra reads the same dataclasses as its schema, so a default stands only here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONF_DIR = next(
    folder
    for folder in (Path(__file__).parent / "conf", Path(__file__).parents[2] / "conf")  # in the wheel, in a clone
    if folder.is_dir()
)

CORESET_STRATEGIES = ("loss_topk", "diversity", "hybrid", "random")
DTYPES = ("auto", "float32", "bfloat16")
ATTENTIONS = ("segment", "sdpa", "eager")
CHAT_TEMPLATES = ("auto", "own", "chatml")
ON_ERROR = ("raise", "skip")
LR_SCHEDULES = ("cosine", "linear", "constant")
ACCELERATORS = ("auto", "cpu", "gpu")
WANDB_MODES = ("offline", "online", "disabled")


class Problems:
    """Collects what is wrong with a config, so that a user reads all of it at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def check(self, ok: bool, name: str, value: Any, allowed: str) -> None:
        if not ok:
            self.found.append(f"{name} must be {allowed}, got {value!r}")

    def one_of(self, name: str, value: str, allowed: tuple[str, ...]) -> None:
        self.check(value in allowed, name, value, "one of " + ", ".join(allowed))

    def report(self) -> None:
        """Raise ValueError with one line a problem; return if there is none."""
        if self.found:
            raise ValueError("\n".join(self.found))


@dataclass
class AgentSFTConfig:
    """Supervised fine-tuning of a language model on agent conversations: the reference's fields and defaults."""

    base_model: str
    """Hub id, folder, or "embedded:smollm2_135m" / "embedded:tiny"."""
    train_data: str
    """`agent_sft:<split>`, `agent_benchmark:<family>:<split>`, or a path to .jsonl, .jsonl.gz or .json."""
    eval_data: str | None = None
    """Held-out conversations for loss and token accuracy, in the same forms; None = no evaluation while training."""
    output_dir: Path = Path(".sage/finetune/")
    """Folder that receives one folder a run."""
    num_epochs: int = 3
    """Passes over the training samples."""
    batch_size: int = 8
    """Samples a device in one forward pass."""
    learning_rate: float = 2e-5
    """Peak learning rate, reached after the warm-up."""
    gradient_accumulation_steps: int = 4
    """Batches a device per optimiser step."""
    max_seq_length: int = 2048
    """Tokens of one sample; whole oldest exchanges of a longer one are dropped."""
    use_lora: bool = True
    """Train an adapter; False trains every weight."""
    lora_r: int = 16
    """Rank of the adapter."""
    lora_alpha: int = 32
    """Scale of the adapter: its product is multiplied by lora_alpha / lora_r."""
    use_dora: bool = False
    """DoRA: magnitude and direction apart (arXiv:2402.09353)."""
    use_lora_plus: bool = False
    """LoRA+: a larger learning rate for the B matrices (arXiv:2402.12354)."""
    lora_plus_lr_ratio: float = 16.0
    """Learning rate of B over that of A, at least 1."""
    use_coreset_selection: bool = False
    """Train on a selected part of the samples."""
    coreset_strategy: str = "hybrid"
    """How that part is selected."""
    coreset_target_size: int | None = None
    """Samples to select; None = the selector's default."""
    use_online_continual: bool = False
    """Mix replayed samples into every batch."""
    continual_buffer_size: int = 2048
    """Samples that the replay buffer holds."""
    continual_replay_ratio: float = 0.25
    """Replayed rows for each current row."""

    def __post_init__(self) -> None:
        """Raise ValueError naming every field that is out of range."""
        self.output_dir = Path(self.output_dir)
        problems = Problems()
        positive = ("num_epochs", "batch_size", "gradient_accumulation_steps", "lora_r", "lora_alpha")
        for name in (*positive, "continual_buffer_size"):
            problems.check(vars(self)[name] >= 1, f"sft.{name}", vars(self)[name], "at least 1")
        problems.check(self.max_seq_length >= 16, "sft.max_seq_length", self.max_seq_length, "at least 16 tokens")
        problems.check(0 < self.learning_rate <= 1, "sft.learning_rate", self.learning_rate, "in (0, 1]")
        problems.check(self.lora_plus_lr_ratio >= 1, "sft.lora_plus_lr_ratio", self.lora_plus_lr_ratio, "at least 1")
        problems.one_of("sft.coreset_strategy", self.coreset_strategy, CORESET_STRATEGIES)
        size = self.coreset_target_size
        problems.check(size is None or size >= 1, "sft.coreset_target_size", size, "null or at least 1")
        ratio = self.continual_replay_ratio
        problems.check(0 <= ratio <= 1, "sft.continual_replay_ratio", ratio, "in [0, 1]")
        for name in ("base_model", "train_data"):
            problems.check(bool(vars(self)[name]), f"sft.{name}", vars(self)[name], "a non-empty string")
        for name in ("use_dora", "use_lora_plus"):
            asked = vars(self)[name] and not self.use_lora
            problems.check(not asked, f"sft.{name}", True, "false while sft.use_lora is false: it changes the adapter")
        problems.report()


@dataclass(kw_only=True)
class MethodInfo:
    """Which method the run is, for its records; the fields that make it one are set in its conf/method file."""

    id: str = "custom"
    name: str = "Custom"
    description: str = ""
    source: str = ""


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
    bucket_steps: int = 1
    """Optimiser steps whose samples are sorted by length together; 1 = every step is a random draw."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("data.on_error", self.on_error, ON_ERROR)
        problems.check(self.bucket_steps >= 1, "data.bucket_steps", self.bucket_steps, "at least 1")
        problems.report()


@dataclass(kw_only=True)
class AdapterConfig:
    """What the adapter changes, beyond the reference's lora_* fields."""

    target_modules: str = "all-linear"
    """"all-linear" (every linear layer but the output head), or comma-separated module names."""
    dropout: float = 0.0
    """Dropout on the adapter's input."""

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

    def __post_init__(self) -> None:
        problems = Problems()
        for name, value in vars(self).items():
            problems.check(value is None or value >= 1, f"budget.{name}", value, "null or at least 1")
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

    def __post_init__(self) -> None:
        problems = Problems()
        for name in ("max_new_tokens", "batch_size"):
            problems.check(vars(self)[name] >= 1, f"evaluation.{name}", vars(self)[name], "at least 1")
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


@dataclass(kw_only=True)
class RunConfig:
    """One run: the reference's fields in `sft`, everything else in its group."""

    sft: AgentSFTConfig
    method: MethodInfo = field(default_factory=MethodInfo)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    seed: int = 0
    """Of adapter initialisation, batch order and dropout."""
    run_name: str | None = None
    """Folder of the run inside sft.output_dir; None = method, seed and time."""
    resume: str | None = None
    """Run folder to go on with; its own config.yaml then is the configuration."""

    def __post_init__(self) -> None:
        """Raise ValueError for what the fields allow each alone, but this version cannot do."""
        problems = Problems()
        for name in ("use_coreset_selection", "use_online_continual"):
            value = vars(self.sft)[name]
            problems.check(not value, f"sft.{name}", value, "false: this version does not train with it yet")
        fits = self.sft.use_lora or self.model.dtype != "bfloat16"
        full = "auto or float32 while sft.use_lora is false: bfloat16 weights lose small updates"
        problems.check(fits, "model.dtype", self.model.dtype, full)
        problems.check(0 <= self.seed < 2**31, "seed", self.seed, "in [0, 2^31)")
        problems.report()
