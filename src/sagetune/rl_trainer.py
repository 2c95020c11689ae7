"""AgentRLTrainer: pairs -> tokens -> the reference's log-probabilities -> training steps -> a saved model."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import LambdaCallback
from rich.console import Console
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sagetune.batching import BatchLoader
from sagetune.chat import Encoded
from sagetune.config import AgentSFTConfig, RLTrainingConfig, RunConfig
from sagetune.config.trajectories import AgentConfig
from sagetune.evaluation.pairs import PreferenceResult, compare, sequence_logps
from sagetune.files import write_json
from sagetune.interrupts import Interrupts
from sagetune.measuring import Stopwatch, measure
from sagetune.modules.callbacks import Checkpoints, ProgressBar, StepLog
from sagetune.modules.preference import PreferenceModule
from sagetune.preferences import Pair
from sagetune.report import environment
from sagetune.run_data import PairData, RunData
from sagetune.runfolder import RunFolder
from sagetune.tracking import Tracker
from sagetune.trainer import AgentSFTTrainer, TrainingResult, lightning_trainer, train_in_new_folder, training_result
from sagetune.trajectories.local import LocalAgent

LOGGED = {
    "loss": "eval/loss",
    "accuracy": "eval/rewards/accuracies",
    "margin": "eval/rewards/margins",
    "chosen_reward": "eval/rewards/chosen",
    "rejected_reward": "eval/rewards/rejected",
    "chosen_logp": "eval/logps/chosen",
    "rejected_logp": "eval/logps/rejected",
}


class AgentRLTrainer:
    """Trains an agent beyond imitation: on pairs of a better and a worse conversation (DPO).

    sft_config: model, data and optimisation, as AgentSFTTrainer takes them; batch_size counts pairs. train_data and
    eval_data hold pairs or runs of `sagetune.preferences`. rl_config: the reference's RLTrainingConfig; None = the one
    in a RunConfig. Training starts from the base model, or from the adapter that `adapter.start_from` names.
    Raises ValueError at once for data that is not there and for an algorithm that cannot be trained with.
    """

    def __init__(
        self,
        sft_config: AgentSFTConfig | RunConfig,
        rl_config: RLTrainingConfig | None = None,
        *,
        console: Console | None = None,
    ) -> None:
        run = sft_config if isinstance(sft_config, RunConfig) else RunConfig(sft=sft_config)
        self.run = run if rl_config is None else dataclasses.replace(run, rl=rl_config)
        if self.run.rl is None:
            raise ValueError("rl_config must be an RLTrainingConfig unless sft_config is a RunConfig with rl, got None")
        self.rl = self.run.rl
        self._sft = AgentSFTTrainer(self.run, console=console)
        self.console = self._sft.console
        self.pairs = PairData(self.run, lambda: self.tokenizer, self.console, self.data.counts)
        self._references: dict[str, Tensor] = {}
        self._is_reference = True
        """Whether `model` is still the one that training starts from, or gives the same probabilities."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._sft.tokenizer

    @property
    def model(self) -> nn.Module:
        """The model as it is now; before training and loading, the one that training starts from."""
        return self._sft.model

    @property
    def device(self) -> torch.device:
        return self._sft.device

    @property
    def data(self) -> RunData:
        """The conversations that the model acts in, and what became of all data, by use."""
        return self._sft.data

    def train(self) -> TrainingResult:
        """Train in a new folder of `output_dir`; the trained model is saved there and stays in `self.model`."""
        return train_in_new_folder(self.run, self.fit)

    def fit(self, folder: RunFolder, tracker: Tracker, interrupts: Interrupts) -> TrainingResult:
        """Train in `folder`, from its checkpoint if there is one. Raises Interrupted when asked to stop."""
        run, sft, clock = self.run, self.run.sft, Stopwatch()
        if not folder.environment.is_file():
            write_json(folder.environment, environment())
        lightning.seed_everything(run.seed, verbose=False)
        clock.lap("other")
        pairs, held_out = self.pairs.train(), self.pairs.held_out()
        clock.lap("data")
        model = self._sft.make_trainable().to(self.device)
        clock.lap("model")
        self._is_reference = True
        known = self._ask_reference(folder.reference, {"train": pairs, "eval": held_out})
        self._is_reference = False
        loader = BatchLoader(
            pairs,
            batch_size=sft.batch_size,
            accumulate=sft.gradient_accumulation_steps,
            pad_token_id=int(self.tokenizer.pad_token_id),
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
        log = StepLog(tracker, eval_every=run.trainer.eval_every_n_steps, evaluate=self._validator(held_out))
        saves = Checkpoints(folder.checkpoint, run.trainer.checkpoint_every_n_steps, interrupts)
        began = LambdaCallback(on_train_start=lambda *_: clock.lap("other"))
        callbacks = [log, ProgressBar(self.console, log), saves, began]
        trainer = lightning_trainer(run, self.device, module.total_steps, loader.accumulate, callbacks, folder)
        checkpoint = str(folder.checkpoint) if folder.checkpoint.is_file() else None
        trainer.fit(module, train_dataloaders=loader, ckpt_path=checkpoint, weights_only=True)
        self.save_model(folder.model)
        result = training_result(folder, module.trained_parameters(), self.data.counts, clock.seconds, {})
        write_json(folder.training, result.to_dict())
        return result

    def measure(self, when: str) -> dict[str, Any]:
        """Figures of the model as it is on all that the run holds out; `when` is for the progress display.

        "tokens" are those of the held-out pairs' chosen sides, "preferences" a PreferenceResult.
        """
        model, pairs = self.model.to(self.device), self.pairs.held_out()
        found = measure(self.run, model, self.tokenizer, pairs[::2], self.data.benchmark(), self.console, when)
        started = time.perf_counter()
        found["preferences"] = dataclasses.asdict(self._evaluate(pairs, "eval")) if pairs else None
        found["seconds"]["preferences"] = time.perf_counter() - started
        return found

    def evaluate(self, data: str | Sequence[Pair]) -> PreferenceResult:
        """Compare held-out pairs with the model as it is now, against the one that training starts from.

        data: a reference as in sft.eval_data (its first budget.eval_samples pairs), or pairs.
        """
        pairs = self.pairs.load(data, "eval") if isinstance(data, str) else self.pairs.encode(data, "eval")
        return self._evaluate(pairs, None)

    def save_model(self, path: str | Path) -> None:
        """Save what was trained and the tokenizer: a folder that peft.PeftModel.from_pretrained loads."""
        self._sft.save_model(path)

    def load_model(self, path: str | Path) -> None:
        """Put the model of a folder that `save_model` wrote into `self.model`."""
        self._is_reference = False
        self._sft.load_model(path)

    def local_agent(self, config: AgentConfig) -> LocalAgent:
        """The agent that acts by a model: `self.model`, or the one that config names."""
        return self._sft.local_agent(config)

    def _evaluate(self, pairs: Sequence[Encoded], use: str | None) -> PreferenceResult:
        logps, counts = self._logps(self.model.to(self.device), pairs)
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
        rows, pad = 2 * self.run.sft.batch_size, int(self.tokenizer.pad_token_id)
        return sequence_logps(model, samples, batch_size=rows, pad_token_id=pad)

    def _reference(self, pairs: Sequence[Encoded], use: str | None) -> Tensor:
        """What the reference makes of the pairs, float32 (rows,); kept where `use` names them."""
        if use in self._references:
            return self._references[use]
        model = self.model if self._is_reference else self._sft.starting_model()
        logps, _ = self._logps(model.to(self.device), pairs)
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


def trainer_of(run: RunConfig, console: Console) -> AgentSFTTrainer | AgentRLTrainer:
    """The trainer that the run's objective asks for."""
    return AgentSFTTrainer(run, console=console) if run.rl is None else AgentRLTrainer(run, console=console)
