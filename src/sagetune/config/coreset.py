"""How samples are selected: the names of the strategies and the fields beyond the reference's coreset_*."""

from __future__ import annotations

from dataclasses import dataclass

from sagetune.config.checks import Problems

REFERENCE_STRATEGIES = ("loss_topk", "diversity", "hybrid", "random")
CORESET_STRATEGIES = (
    *REFERENCE_STRATEGIES,
    *("length", "kcenter", "facility_location", "ccs", "el2n", "ifd", "deita"),
    *("rds", "grad_sketch", "less", "s2l"),
)
TARGETED_STRATEGIES = ("rds", "grad_sketch", "less")
"""They select what resembles a development set."""
BATCH_STRATEGIES = ("loss_topk", "diversity", "hybrid", "random", "length", "kcenter", "facility_location", "el2n")
"""Those that can choose rows of one candidate batch."""
CORESET_STRATEGY = "hybrid"
CORESET_TARGET_SIZE = 1000
CORESET_LOSS_RATIO = 0.6
CORESET_SCOPES = ("pool", "batch")
COVERAGES = ("facility_location", "kcenter")
EMBEDDINGS = ("auto", "tfidf", "hidden")
DEDUP = ("coverage", "pool", "off")
OPTIMIZERS = ("auto", "lazy", "stochastic", "partition")
SCORES = ("loss", "el2n", "ifd", "length")


@dataclass(kw_only=True)
class CoresetConfig:
    """How samples are selected, beyond the reference's coreset_* fields (see `sagetune.selection`)."""

    scope: str = "pool"
    """pool = the training set, before training; batch = rows of each candidate batch, inside the training step."""
    refresh_epochs: int | None = None
    """Select from the pool again, with the model as it then is, every so many epochs; None = once."""
    candidates: float = 4.0
    """Candidate rows for each trained row where scope is batch, at least 1."""
    share: float = 0.25
    """Share of the pool that is selected where sft.coreset_target_size is null."""
    loss_ratio: float = CORESET_LOSS_RATIO
    """Share of hybrid's samples that are selected by loss; the rest is selected for coverage given those."""
    coverage: str = "facility_location"
    """What diversity and hybrid maximise: facility_location, in which a sample covers itself no better than its nearest
    other would, or kcenter."""
    embedding: str = "auto"
    """tfidf = hashed words, no model; hidden = the model's last hidden states; auto = hidden where there is a model,
    else tfidf."""
    embed_dim: int = 256
    """Dimensions of projected tfidf embeddings, and the most that whitening keeps."""
    whiten: bool = False
    """Decorrelate the embedding's dimensions and give each the same variance (PCA whitening)."""
    dedup: str = "coverage"
    """Near-duplicates are left out: by strategies that maximise coverage; from the pool, for all; or not at all. Rows
    of a batch are few and are never compared."""
    dedup_similarity: float = 0.95
    """Cosine similarity of tfidf embeddings from which the later of two samples is a near-duplicate."""
    prune_top: float = 0.0
    """Share with the highest loss (for ccs: the highest score) that no strategy may select, rounded up: mislabelled
    samples, noise. What it takes to reach the target size stays."""
    stratify: bool = False
    """Select from each task in proportion to its size."""
    length_bins: int = 1
    """Select equally from so many bins of supervised tokens (quantiles), against a preference for long or short."""
    outlier_share: float = 0.02
    """Share of the least dense samples that kcenter leaves out: the farthest point is an outlier by construction."""
    optimizer: str = "auto"
    """Of facility location. lazy = exact, 4 n^2 bytes; stochastic = n / k ln 100 candidates a pick, no matrix;
    partition = exact in random parts of 5,000; auto = lazy up to 20,000 samples, else partition."""
    score: str = "loss"
    """What deita and ccs call the difficulty or quality of a sample."""
    similarity_limit: float = 0.9
    """deita takes no sample whose cosine similarity to one that it has taken is larger."""
    dev_data: str | None = None
    """What rds, grad_sketch and less select for; None = sft.eval_data."""
    dev_samples: int = 64
    """Samples of dev_data that are used."""
    warmup_share: float = 0.05
    """Share of the pool, drawn at random, on which less and s2l train an adapter first."""
    warmup_epochs: int = 4
    """Passes over it; each ends with a checkpoint whose gradients (less) or losses (s2l) are used."""
    warmup_learning_rate: float = 2e-4
    """Of that training (AdamW, batches of 4, linear decay)."""
    sketch_dim: int = 1024
    """Dimensions of projected gradients (less, grad_sketch); a square for grad_sketch."""
    batch_tokens: int = 2048
    """Tokens in one forward pass of scoring; at most as many rows of logits are held at once."""
    cache: bool = True
    """Keep scores in the user's cache, by model and sample, so that a sweep over strategies pays once."""

    def __post_init__(self) -> None:
        problems = Problems()
        for name, allowed in (
            *(("scope", CORESET_SCOPES), ("coverage", COVERAGES), ("embedding", EMBEDDINGS)),
            *(("dedup", DEDUP), ("optimizer", OPTIMIZERS), ("score", SCORES)),
        ):
            problems.one_of(f"coreset.{name}", vars(self)[name], allowed)
        every = self.refresh_epochs
        problems.check(every is None or every >= 1, "coreset.refresh_epochs", every, "null or at least 1")
        for name in ("loss_ratio", "dedup_similarity", "similarity_limit"):
            problems.check(0 <= vars(self)[name] <= 1, f"coreset.{name}", vars(self)[name], "in [0, 1]")
        for name in ("prune_top", "outlier_share"):
            problems.check(0 <= vars(self)[name] < 1, f"coreset.{name}", vars(self)[name], "in [0, 1)")
        for name in ("share", "warmup_share", "warmup_learning_rate"):
            problems.check(0 < vars(self)[name] <= 1, f"coreset.{name}", vars(self)[name], "in (0, 1]")
        for name in ("candidates", "length_bins", "warmup_epochs", "dev_samples", "sketch_dim"):
            problems.check(vars(self)[name] >= 1, f"coreset.{name}", vars(self)[name], "at least 1")
        for name in ("embed_dim", "batch_tokens"):
            problems.check(vars(self)[name] >= 16, f"coreset.{name}", vars(self)[name], "at least 16")
        problems.report()
