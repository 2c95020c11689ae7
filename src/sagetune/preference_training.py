"""Training on preferences: pairs -> tokens -> the reference's log-probabilities -> training steps."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sagetune.batching import BatchLoader
from sagetune.chat import Encoded
from sagetune.config import RLTrainingConfig
from sagetune.evaluation.pairs import PreferenceResult, compare, sequence_logps
from sagetune.files import write_json
from sagetune.fitting import Place, fit_module
from sagetune.measuring import measure
from sagetune.modules.preference import PreferenceModule
from sagetune.preferences import Pair
from sagetune.run_data import PairData
from sagetune.trainer import AgentSFTTrainer

LOGGED = {
    "loss": "eval/loss",
    "accuracy": "eval/rewards/accuracies",
    "margin": "eval/rewards/margins",
    "chosen_reward": "eval/rewards/chosen",
    "rejected_reward": "eval/rewards/rejected",
    "chosen_logp": "eval/logps/chosen",
    "rejected_logp": "eval/logps/rejected",
}


class PreferenceTraining:
    """What AgentRLTrainer does with rl.algorithm=dpo. sft: holds the model, the tokenizer and the data."""

    def __init__(self, sft: AgentSFTTrainer, rl: RLTrainingConfig) -> None:
        self.run, self.rl = sft.run, rl
        self._sft = sft
        self.pairs = PairData(sft.run, lambda: sft.tokenizer, sft.console, sft.data.counts)
        self._references: dict[str, Tensor] = {}
        self._is_reference = True
        """Whether the model is still the one that training starts from, or gives the same probabilities."""

    def fit(self, place: Place) -> dict[str, nn.Parameter]:
        """Train the model; returns what was trained."""
        run, sft = self.run, self.run.sft
        pairs, held_out = self.pairs.train(), self.pairs.held_out()
        place.clock.lap("data")
        model = self._sft.make_trainable().to(place.device)
        place.clock.lap("model")
        self._is_reference = True
        known = self._ask_reference(place.folder.reference, {"train": pairs, "eval": held_out})
        self._is_reference = False
        loader = BatchLoader(
            pairs,
            batch_size=sft.batch_size,
            accumulate=sft.gradient_accumulation_steps,
            pad_token_id=int(self._sft.tokenizer.pad_token_id),
            seed=run.seed,
            bucket_steps=run.data.bucket_steps,
            group_size=2,
        )
        module = PreferenceModule(
            model,
            run,
            self.rl,
            total_steps=min(loader.steps_per_epoch * sft.num_epochs, run.budget.max_steps or 2**62),
            sample_ids=[sample.sample_id for sample in pairs],
            reference=known.get("train"),
        )
        validator = self._validator(held_out)
        fit_module(module, loader, run, place=place, accumulate=loader.accumulate, evaluate=validator)
        return module.trained_parameters()

    def measure(self, when: str) -> dict[str, Any]:
        """`tokens` are those of the held-out pairs' chosen sides, `preferences` a PreferenceResult."""
        sft, pairs = self._sft, self.pairs.held_out()
        model = sft.model.to(sft.device)
        found = measure(self.run, model, sft.tokenizer, pairs[::2], sft.data.benchmark(), sft.console, when)
        started = time.perf_counter()
        found["preferences"] = dataclasses.asdict(self._evaluate(pairs, "eval")) if pairs else None
        found["seconds"]["preferences"] = time.perf_counter() - started
        return found

    def evaluate(self, data: str | Sequence[Pair]) -> PreferenceResult:
        """Compare held-out pairs with the model as it is now, against the one that training starts from."""
        pairs = self.pairs.load(data, "eval") if isinstance(data, str) else self.pairs.encode(data, "eval")
        return self._evaluate(pairs, None)

    def model_changed(self) -> None:
        """The model is another one than training starts from."""
        self._is_reference = False

    def _evaluate(self, pairs: Sequence[Encoded], use: str | None) -> PreferenceResult:
        logps, counts = self._logps(self._sft.model.to(self._sft.device), pairs)
        if self._is_reference and use is not None:
            self._references.setdefault(use, logps)
        reference = logps if self._is_reference else self._reference(pairs, use)
        return compare(logps, counts, reference, self.rl, self.run.dpo)

    def _validator(self, held_out: Sequence[Encoded]) -> Callable[[], dict[str, float]] | None:
        if not held_out:
            return None

        def validate() -> dict[str, float]:
            figures = dataclasses.asdict(self._evaluate(held_out, "eval"))
            return {logged: figures[name] for name, logged in LOGGED.items()}

        return validate

    def _logps(self, model: nn.Module, samples: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        rows, pad = 2 * self.run.sft.batch_size, int(self._sft.tokenizer.pad_token_id)
        return sequence_logps(model, samples, batch_size=rows, pad_token_id=pad)

    def _reference(self, pairs: Sequence[Encoded], use: str | None) -> Tensor:
        """What the reference makes of the pairs, float32 (rows,); kept where `use` names them."""
        if use in self._references:
            return self._references[use]
        model = self._sft.model if self._is_reference else self._sft.starting_model()
        logps, _ = self._logps(model.to(self._sft.device), pairs)
        if use is not None:
            self._references[use] = logps
        return logps

    def _ask_reference(self, path: Path, samples: dict[str, list[Encoded]]) -> dict[str, Tensor]:
        """The reference's log-probabilities that training needs, by use; they are in the file `path` before it begins.

        A run that goes on reads them there. Raises ValueError if the file is about other pairs.
        """
        asked = {use: rows for use, rows in samples.items() if rows and (use != "train" or self._precomputes())}
        if path.is_file():
            stored = json.loads(path.read_text())
            for use, rows in asked.items():
                if stored[use]["ids"] != [sample.sample_id for sample in rows]:
                    raise ValueError(f"sft.{use}_data holds other pairs than when the run began: see {path}")
                self._references[use] = torch.tensor(stored[use]["logps"])
        else:
            found = {use: self._reference(rows, use).tolist() for use, rows in asked.items()}
            ids = {use: [sample.sample_id for sample in rows] for use, rows in asked.items()}
            write_json(path, {use: {"ids": ids[use], "logps": found[use]} for use in asked})
        return {use: self._references[use] for use in asked}

    def _precomputes(self) -> bool:
        return self.run.dpo.reference == "precomputed"
