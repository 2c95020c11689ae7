"""What a run reads: references -> samples -> tokens, each sample counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from sagetune import mixing, sources
from sagetune.chat import Encoded, EncodingReport
from sagetune.config import RunConfig
from sagetune.encoding_store import encode_once
from sagetune.preferences import Pair, encode_pairs, load_pairs
from sagetune.sample import Sample
from sagetune.training_set import TrainingPool


class RunData:
    """The conversations of a run, by use: train, eval (loss), benchmark (generated actions), dev (selected for)."""

    def __init__(self, run: RunConfig, tokenizer: Callable[[], PreTrainedTokenizerBase], console: Console) -> None:
        self._run = run
        self._tokenizer = tokenizer
        self._console = console
        self._held_out: list[Encoded] | None = None
        self.counts: dict[str, Any] = {}
        """What became of the samples, by use: read, skipped, truncated, dropped."""
        self.mixture: dict[str, Any] | None = None
        """What the mixture that is trained on holds of each task, where there is one; there after `pool`."""

    def pool(self, gather: Callable[[list[Sample]], list[Sample]] | None = None) -> TrainingPool:
        """The training samples that fit. gather: turns the samples that were read into those to train on."""
        parts = self._train_parts()
        samples, skipped = self._read(parts) if not self._acts_elsewhere() else ([], 0)
        if self._run.mixture.use:
            samples, self.mixture = mixing.mixed(self._run, samples, self._tell)
        samples = samples if gather is None else gather(samples)
        encoded = self._encoded(parts, samples, skipped, "train")
        by_id = {sample["id"]: sample for sample in samples}
        pool = TrainingPool([by_id[sample.sample_id] for sample in encoded], encoded)
        if self.mixture is not None:
            mixing.count_used(self.mixture, pool.samples)
        return pool

    def _acts_elsewhere(self) -> bool:
        """Whether the tasks that are acted on are no samples."""
        return self._run.trajectories.use and self._run.trajectories.tasks is not None

    def _train_parts(self) -> list[sources.Part]:
        if self._run.mixture.use:
            return mixing.parts_of(self._run)
        if self._acts_elsewhere():
            return [sources.Part(str(self._run.trajectories.tasks), None)]
        return sources.parts_of(self._run, "train")

    def held_out(self) -> list[Encoded]:
        """The conversations that loss and token accuracy are measured on; empty without sft.eval_data."""
        if self._held_out is None:
            self._held_out = self._of("eval")
            if self._held_out:
                self.counts["eval"]["hash"] = hash_of(self._held_out)
        return self._held_out

    def dev(self) -> list[Encoded]:
        """The conversations that targeted strategies select for."""
        return self._of("dev")

    def benchmark(self) -> list[Sample]:
        """The conversations that the model acts in."""
        return self._read(sources.parts_of(self._run, "benchmark"))[0]

    def conversations(self, use: str) -> list[Sample]:
        """The samples of `use` ("train", "eval") as they are read, counted."""
        parts = sources.parts_of(self._run, use)
        samples, skipped = self._read(parts)
        named = ", ".join(part.reference for part in parts)
        self.counts[use] = {"read": len(samples), "used": len(samples), "reference": named, "skipped": skipped}
        return samples

    def load(self, reference: str, limit: int | None, *, use: str) -> list[Encoded]:
        """Read, tokenise and count the samples of a reference. Raises ValueError if none can be used."""
        parts = [sources.Part(reference, limit)]
        return self._encoded(parts, *self._read(parts), use)

    def encode(self, samples: Sequence[Sample], *, use: str) -> list[Encoded]:
        """Tokenise and count. Raises ValueError if none can be used."""
        length = self._run.sft.max_seq_length
        encoded, report = encode_once(samples, self._tokenizer(), length)
        self.counts[use] = {"read": len(samples), "used": len(encoded), **counts(report)}
        if not encoded:
            raise ValueError(
                f"none of {len(samples)} samples can be used at sft.max_seq_length={length}: {self.counts[use]}"
            )
        if len(encoded) < len(samples):
            self._console.print(f"{use}: {self.counts[use]}", markup=False)
        return encoded

    def _of(self, use: str) -> list[Encoded]:
        parts = sources.parts_of(self._run, use)
        return self._encoded(parts, *self._read(parts), use)

    def _read(self, parts: Sequence[sources.Part]) -> tuple[list[Sample], int]:
        """The samples of `parts`, and the number of records that were skipped, which are told."""
        loaded = sources.load_parts(parts, seed=self._run.data.seed, on_error=self._run.data.on_error)
        for line in loaded.skipped:
            self._console.print(f"skipped: {line}", markup=False)
        return loaded.samples, len(loaded.skipped)

    def _encoded(
        self, parts: Sequence[sources.Part], samples: Sequence[Sample], skipped: int, use: str
    ) -> list[Encoded]:
        if not parts:
            return []
        encoded = self.encode(samples, use=use)
        asked = {sample["task"] for sample in samples if parts[0].task}
        lost = asked - {sample.task for sample in encoded}
        if lost:
            field = "mixture.sources" if use == "train" and self._run.mixture.use else "continual.tasks"
            raise ValueError(
                f"{field}: no sample of {', '.join(sorted(lost))} can be used for {use} at "
                f"sft.max_seq_length={self._run.sft.max_seq_length}: raise it, or leave the task out"
            )
        self.counts[use] |= {"reference": ", ".join(part.reference for part in parts), "skipped": skipped}
        for part in parts:
            if part.task is None and part.limit == len(samples) + skipped and not sources.endless(part.reference):
                advice = f"the first {part.limit} records, as budget.{use}_samples says; null takes all"
                self._console.print(f"{part.reference}: {advice}", markup=False, soft_wrap=True)
        return encoded

    def _tell(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


class PairData:
    """The pairs of a run, by use: train, eval. Tokens come as a pair's chosen, then its rejected, and so on.

    counts: receives what became of the pairs, by use.
    """

    def __init__(
        self,
        run: RunConfig,
        tokenizer: Callable[[], PreTrainedTokenizerBase],
        console: Console,
        counts: dict[str, Any],
    ) -> None:
        self._run = run
        self._tokenizer = tokenizer
        self._console = console
        self._counts = counts
        self._held_out: list[Encoded] | None = None

    def train(self) -> list[Encoded]:
        """The pairs of sft.train_data, the first budget.train_samples of them that fit."""
        return self.load(self._run.sft.train_data, "train")

    def held_out(self) -> list[Encoded]:
        """The pairs that the model is measured on; empty without sft.eval_data."""
        if self._held_out is None:
            reference = self._run.sft.eval_data
            self._held_out = [] if reference is None else self.load(reference, "eval")
        return self._held_out

    def load(self, reference: str, use: str) -> list[Encoded]:
        """Read, tokenise and count the pairs of a reference. Raises ValueError if none can be used."""
        limit = {"train": self._run.budget.train_samples, "eval": self._run.budget.eval_samples}[use]
        loaded = load_pairs(reference, num_pairs=limit, on_error=self._run.data.on_error)
        for line in loaded.skipped:
            self._console.print(f"skipped: {line}", markup=False)
        encoded = self.encode(loaded.pairs, use)
        self._counts[use] |= {"reference": reference, "skipped": len(loaded.skipped)}
        return encoded

    def encode(self, pairs: Sequence[Pair], use: str) -> list[Encoded]:
        """Tokenise and count. Raises ValueError if none can be used."""
        length = self._run.sft.max_seq_length
        encoded, dropped = encode_pairs(pairs, self._tokenizer(), length)
        self._counts[use] = {"read": len(pairs), "used": len(encoded) // 2, **dropped}
        if not encoded:
            told = f"none of {len(pairs)} pairs can be used at sft.max_seq_length={length}: {self._counts[use]}"
            raise ValueError(told)
        if dropped:
            self._console.print(f"{use}: {self._counts[use]}", markup=False)
        return encoded


def hash_of(encoded: Sequence[Encoded]) -> str:
    """Eight digits that other tokens, or other supervised ones, do not share."""
    rows = json.dumps([(sample.input_ids, sample.labels) for sample in encoded])
    return sha256(rows.encode()).hexdigest()[:8]


def counts(report: EncodingReport) -> dict[str, int]:
    """How many samples were shortened, and how many left out for each reason."""
    reasons = Counter(f"dropped_{unfit.reason}" for unfit in report.unfit)
    return {"truncated": len(report.truncated), **reasons}
