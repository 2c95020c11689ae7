"""AgentSFTConfig: the public reference's class to the letter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sagetune.config.checks import Problems
from sagetune.config.continual import REPLAY_BUFFER_SIZE, REPLAY_RATIO
from sagetune.config.coreset import CORESET_STRATEGIES, CORESET_STRATEGY


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
    coreset_strategy: str = CORESET_STRATEGY
    """How that part is selected."""
    coreset_target_size: int | None = None
    """Samples to select; None = coreset.share of the pool."""
    use_online_continual: bool = False
    """Mix replayed samples into every batch."""
    continual_buffer_size: int = REPLAY_BUFFER_SIZE
    """Samples that the replay buffer holds."""
    continual_replay_ratio: float = REPLAY_RATIO
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
