"""AgentSFTTrainer: configuration -> samples -> tokens -> training steps -> a saved model."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sagetune import adapters, models, sources
from sagetune.batching import BatchLoader
from sagetune.chat import Encoded, EncodingReport, encode_all
from sagetune.config import AgentSFTConfig, RunConfig
from sagetune.evaluation.tokens import EvalResult, evaluate_tokens
from sagetune.interrupts import Interrupts
from sagetune.modules.callbacks import Checkpoints, ProgressBar, StepLog
from sagetune.modules.sft import SFTModule
from sagetune.report import environment, write_json
from sagetune.runfolder import RunFolder
from sagetune.sample import Sample, check_sample
from sagetune.tracking import Tracker
from sagetune.training_set import Selections, TrainingPool, select_from


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What training did."""

    final_loss: float
    """Loss of the last optimiser step, nats a supervised token."""
    steps: int
    """Optimiser steps."""
    tokens: int
    """Tokens that went through the model in training."""
    supervised_tokens: int
    """Those of them that the loss covers."""
    seconds: float
    """Training alone: no loading, no evaluation."""
    trainable_parameters: int
    run_dir: str
    """The run's folder."""
    model_dir: str
    """The trained adapter in PEFT's format, or the whole model where sft.use_lora is false."""
    data: dict[str, Any]
    """What became of the samples, by use: read, used, skipped, truncated, dropped."""
    selection: dict[str, float]
    """What selecting samples cost over all epochs: seconds, forward_tokens, reused_tokens; empty without selection."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class AgentSFTTrainer:
    """Fine-tunes a language model on agent conversations.

    config: the reference's AgentSFTConfig, or a RunConfig that adds the other groups. Raises ValueError at once for
    data that is not there; the model loads when it is first needed.
    """

    def __init__(self, config: AgentSFTConfig | RunConfig, *, console: Console | None = None) -> None:
        self.run = config if isinstance(config, RunConfig) else RunConfig(sft=config)
        sft = self.run.sft
        data = {"sft.train_data": sft.train_data, "sft.eval_data": sft.eval_data}
        sources.check_references(data | {"coreset.dev_data": self.run.coreset.dev_data})
        if self.run.trainer.accelerator == "gpu" and not torch.cuda.is_available():
            raise ValueError("trainer.accelerator must be auto or cpu: torch finds no CUDA device here, got 'gpu'")
        self.console = console or Console(stderr=True)
        self.data_counts: dict[str, Any] = {}
        """What became of the samples, by use: read, skipped, truncated, dropped."""
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._model: nn.Module | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            self._tokenizer = models.load_tokenizer(self.run.sft.base_model, self.run.model)
        return self._tokenizer

    @property
    def model(self) -> nn.Module:
        """The model as it is now; before training and loading, the untouched base model."""
        if self._model is None:
            self._model = self._base_model()
        return self._model

    def train(self) -> TrainingResult:
        """Train in a new folder of `output_dir`; the trained model is saved there and stays in `self.model`."""
        folder = RunFolder.create(self.run)
        tracker = Tracker(folder.path, self.run, resume_step=None)
        code = 1
        try:
            with Interrupts() as interrupts:
                result = self.fit(folder, tracker, interrupts)
            code = 0
        finally:
            tracker.finish(code)
        return result

    def fit(self, folder: RunFolder, tracker: Tracker, interrupts: Interrupts) -> TrainingResult:
        """Train in `folder`, from its checkpoint if there is one. Raises Interrupted when asked to stop."""
        sft = self.run.sft
        if not folder.environment.is_file():
            write_json(folder.environment, environment())
        lightning.seed_everything(self.run.seed, verbose=False)
        pool = self.pool()
        samples = pool.encoded
        selections = self._selections(pool, folder, tracker) if sft.use_coreset_selection else None
        validation = self.load(sft.eval_data, self.run.budget.eval_samples, use="eval") if sft.eval_data else []
        loader = self._loader(samples)
        if selections is not None and self.run.coreset.scope == "pool":
            loader.choose(selections.chosen(self.model.to(self.device), epoch=0, step=0))
        steps = min(loader.steps_per_epoch * sft.num_epochs, self.run.budget.max_steps or 2**62)
        self._model = None  # the untouched one goes before its successor is loaded
        self._model = self._trainable_model()
        module = SFTModule(
            self._model,
            self.run,
            total_steps=steps,
            sample_ids=[s.sample_id for s in samples],
            chooser=selections.chooser() if selections is not None else None,
        )
        log = StepLog(tracker, eval_every=self.run.trainer.eval_every_n_steps, evaluate=self._validator(validation))
        callbacks = [
            log,
            ProgressBar(self.console, log),
            Checkpoints(folder.checkpoint, self.run.trainer.checkpoint_every_n_steps, interrupts),
        ]
        if selections is not None:
            selections.follow(loader, module)
        checkpoint = str(folder.checkpoint) if folder.checkpoint.is_file() else None
        trainer = self._lightning_trainer(steps, callbacks, folder)
        trainer.fit(module, train_dataloaders=loader, ckpt_path=checkpoint, weights_only=True)
        if selections is not None:
            selections.record_rows(module, loader.epoch_of_last_batch)
        self.save_model(folder.model)
        result = self._result(module, folder, selections.costs() if selections is not None else {})
        write_json(folder.training, result.to_dict())
        return result

    def evaluate(self, data: str | Sequence[Sample]) -> EvalResult:
        """Predict the supervised tokens of held-out conversations with the model as it is now.

        data: a reference as in sft.eval_data (its first budget.eval_samples samples), or samples.
        """
        if isinstance(data, str):
            encoded = self.load(data, self.run.budget.eval_samples, use="eval")
        else:
            encoded = self._encode([self._checked(sample) for sample in data], use="eval")
        return self._evaluate(encoded)

    def save_model(self, path: str | Path) -> None:
        """Save what was trained and the tokenizer: a folder that peft.PeftModel.from_pretrained loads."""
        adapters.save_adapter(self.model, Path(path))
        self.tokenizer.save_pretrained(str(path))

    def load_model(self, path: str | Path) -> None:
        """Put the model of a folder that `save_model` wrote into `self.model`."""
        folder, self._model = Path(path), None
        if (folder / "adapter_config.json").is_file():
            self._model = adapters.load_adapter(self._base_model(), folder)
        else:
            self._model = models.load_model(str(folder), self._model_config())
        self._model.to(self.device)

    @property
    def device(self) -> torch.device:
        wants_gpu = self.run.trainer.accelerator != "cpu"
        return torch.device("cuda" if wants_gpu and torch.cuda.is_available() else "cpu")

    def load(self, reference: str, limit: int | None, *, use: str) -> list[Encoded]:
        """Read, tokenise and count the samples of a reference. Raises ValueError if none can be used."""
        return self._encoded(reference, self.read(reference, limit), limit, use=use)

    def _encoded(self, reference: str, loaded: sources.Loaded, limit: int | None, *, use: str) -> list[Encoded]:
        encoded = self._encode(loaded.samples, use=use)
        self.data_counts[use] |= {"reference": reference, "skipped": len(loaded.skipped)}
        if limit is not None and len(loaded.samples) + len(loaded.skipped) == limit and ":" not in reference:
            advice = f"budget.{use}_samples={limit} takes the first records; null takes all"
            self.console.print(f"{reference}: {advice}", markup=False, soft_wrap=True)
        return encoded

    def pool(self) -> TrainingPool:
        """The training samples that fit, as conversations and as tokens."""
        samples = self.read(self.run.sft.train_data, self.run.budget.train_samples)
        encoded = self._encoded(self.run.sft.train_data, samples, self.run.budget.train_samples, use="train")
        by_id = {sample["id"]: sample for sample in samples.samples}
        return TrainingPool([by_id[sample.sample_id] for sample in encoded], encoded)

    def select(self) -> tuple[TrainingPool, dict[str, Any]]:
        """Choose the training samples as `coreset` says, without training: the pool, and what was chosen of it."""
        pool = self.pool()
        model = self.model.to(self.device)
        return pool, select_from(self.run, pool, model, self.console, self._load_dev)

    def read(self, reference: str, limit: int | None) -> sources.Loaded:
        """The samples of a reference, at most `limit`."""
        data = self.run.data
        loaded = sources.load(reference, num_samples=limit, seed=data.seed, on_error=data.on_error)
        for line in loaded.skipped:
            self.console.print(f"skipped: {line}", markup=False)
        return loaded

    def _encode(self, samples: Sequence[Sample], *, use: str) -> list[Encoded]:
        encoded, report = encode_all(list(samples), self.tokenizer, self.run.sft.max_seq_length)
        self.data_counts[use] = {"read": len(samples), "used": len(encoded), **counts(report)}
        if not encoded:
            raise ValueError(
                f"none of {len(samples)} samples can be used at sft.max_seq_length={self.run.sft.max_seq_length}: "
                f"{self.data_counts[use]}"
            )
        if len(encoded) < len(samples):
            self.console.print(f"{use}: {self.data_counts[use]}", markup=False)
        return encoded

    @staticmethod
    def _checked(sample: Sample) -> Sample:
        check_sample(sample)
        return sample

    def _evaluate(self, encoded: Sequence[Encoded]) -> EvalResult:
        self.model.to(self.device)
        size, pad = self.run.sft.batch_size, int(self.tokenizer.pad_token_id)
        return evaluate_tokens(self.model, encoded, batch_size=size, pad_token_id=pad)

    def _validator(self, validation: Sequence[Encoded]) -> Callable[[], dict[str, float]] | None:
        if not validation:
            return None
        names = ("loss", "accuracy", "perplexity", "exact_match")

        def validate() -> dict[str, float]:
            figures = dataclasses.asdict(self._evaluate(validation))
            return {f"eval/{name}": figures[name] for name in names}

        return validate

    def _model_config(self) -> Any:
        if self.run.sft.use_lora or self.run.model.dtype != "auto":
            return self.run.model
        return dataclasses.replace(self.run.model, dtype="float32")  # bfloat16 weights would lose small updates

    def _base_model(self) -> PreTrainedModel:
        return models.load_model(self.run.sft.base_model, self._model_config())

    def _trainable_model(self) -> nn.Module:
        model = self._base_model()
        torch.manual_seed(self.run.seed)  # the adapter's initial values depend on the seed alone
        trainable = adapters.add_adapter(model, self.run.sft, self.run.adapter) if self.run.sft.use_lora else model
        return trainable.train()

    def _loader(self, samples: Sequence[Encoded]) -> BatchLoader:
        candidates = self.run.coreset.candidates if self._chooses_rows() else 1.0
        return BatchLoader(
            samples,
            batch_size=round(self.run.sft.batch_size * candidates),
            accumulate=self.run.sft.gradient_accumulation_steps,
            pad_token_id=int(self.tokenizer.pad_token_id),
            seed=self.run.seed,
            bucket_steps=self.run.data.bucket_steps,
        )

    def _selections(self, pool: TrainingPool, folder: RunFolder, tracker: Tracker) -> Selections:
        return Selections(self.run, pool, folder, tracker, self.console, self._load_dev)

    def _load_dev(self) -> list[Encoded]:
        reference = self.run.coreset.dev_data or self.run.sft.eval_data
        assert reference is not None, "checked by the configuration"
        return self.load(reference, self.run.coreset.dev_samples, use="dev")

    def _chooses_rows(self) -> bool:
        return self.run.sft.use_coreset_selection and self.run.coreset.scope == "batch"

    def _lightning_trainer(self, steps: int, callbacks: list[Any], folder: RunFolder) -> lightning.Trainer:
        for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
            logging.getLogger(name).setLevel(logging.WARNING)  # product tips and device lists
        return lightning.Trainer(
            accelerator="cuda" if self.device.type == "cuda" else "cpu",
            devices=1,
            max_steps=steps,
            max_epochs=self.run.sft.num_epochs,
            accumulate_grad_batches=self.run.sft.gradient_accumulation_steps,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=folder.path,
        )

    def _result(self, module: SFTModule, folder: RunFolder, selection: dict[str, float]) -> TrainingResult:
        rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
        last = [row for row in rows if "train/loss" in row][-1]
        return TrainingResult(
            final_loss=last["train/loss"],
            steps=last["step"],
            tokens=last["train/tokens"],
            supervised_tokens=last["train/supervised_tokens"],
            seconds=last["seconds"],
            trainable_parameters=sum(p.numel() for p in module.trained_parameters().values()),
            run_dir=str(folder.path),
            model_dir=str(folder.model),
            data=self.data_counts,
            selection=selection,
        )


def counts(report: EncodingReport) -> dict[str, int]:
    """How many samples were shortened, and how many left out for each reason."""
    reasons = Counter(f"dropped_{unfit.reason}" for unfit in report.unfit)
    return {"truncated": len(report.truncated), **reasons}
