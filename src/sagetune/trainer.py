"""AgentSFTTrainer: configuration -> samples -> tokens -> training steps -> a saved model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
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
from sagetune.between_tasks import BetweenTasks
from sagetune.chat import Encoded
from sagetune.config import AgentSFTConfig, RunConfig
from sagetune.config.trajectories import AgentConfig
from sagetune.evaluation.tokens import EvalResult, evaluate_tokens
from sagetune.files import write_json
from sagetune.fitting import Place, fit_module
from sagetune.interrupts import Interrupts
from sagetune.measuring import Stopwatch, measure
from sagetune.modules.sft import SFTModule
from sagetune.replay.step import Replayer
from sagetune.report import record_environment
from sagetune.run_data import RunData
from sagetune.runfolder import RunFolder
from sagetune.sample import Sample, check_sample
from sagetune.stream import StreamLoader, micro_batches, plan_passes
from sagetune.tracking import Tracker
from sagetune.training_set import Selections, TrainingPool, select_from, steps_of_pool, steps_of_stream, target_sizes
from sagetune.trajectories.local import LocalAgent, local_agent
from sagetune.trajectories.stage import gathered

NOTHING_REPLAYED = (
    "continual: not one sample was replayed: the run was too short for sft.continual_replay_ratio, or every earlier "
    "sample was in the step already; more steps or a higher ratio make it replay"
)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What training did."""

    final_loss: float
    """Loss of the last optimiser step: nats a supervised token, or of DPO the loss of a pair."""
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
    startup: dict[str, float]
    """Seconds before the first optimiser step, of the last stretch if there were several: data (read, collected, mixed,
    tokenised), model (loaded, adapter added), other (choosing samples, setting up)."""
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
        sources.check_run(self.run)
        start = self.run.adapter.start_from
        self.start = adapters.find_adapter(start, self.run.sft) if start is not None else None
        """The adapter that training starts from; None = a fresh one."""
        if self.run.trainer.accelerator == "gpu" and not torch.cuda.is_available():
            raise ValueError("trainer.accelerator must be auto or cpu: torch finds no CUDA device here, got 'gpu'")
        self.console = console or Console(stderr=True)
        self.data = RunData(self.run, lambda: self.tokenizer, self.console)
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._model: nn.Module | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            self._tokenizer = models.load_tokenizer(self.run.sft.base_model, self.run.model)
        return self._tokenizer

    @property
    def model(self) -> nn.Module:
        """The model as it is now; before training and loading, the one that training starts from."""
        if self._model is None:
            self._model = self.starting_model()
        return self._model

    def starting_model(self) -> nn.Module:
        """The model that training starts from, loaded anew: the base model, with adapter.start_from if there is one."""
        base = self._base_model()
        return base if self.start is None else adapters.load_adapter(base, self.start)

    def make_trainable(self) -> nn.Module:
        """Load the model that is trained in place of `model`, which goes first, and return it."""
        self._model = None
        self._model = self.trainable_model()
        return self._model

    def trainable_model(self) -> nn.Module:
        """The model that training starts from, ready for it: a fresh adapter, the given one, or all its weights."""
        model = self._base_model()
        if self.start is not None:
            return adapters.load_adapter(model, self.start, trainable=True).train()
        torch.manual_seed(self.run.seed)  # the adapter's initial values depend on the seed alone
        trainable = adapters.add_adapter(model, self.run.sft, self.run.adapter) if self.run.sft.use_lora else model
        return trainable.train()

    def train(self) -> TrainingResult:
        """Train in a new folder of `output_dir`; the trained model is saved there and stays in `self.model`."""
        return train_in_new_folder(self.run, self.fit)

    def fit(self, folder: RunFolder, tracker: Tracker, interrupts: Interrupts) -> TrainingResult:
        """Train in `folder`, from its checkpoint if there is one. Raises Interrupted when asked to stop."""
        sft, clock = self.run.sft, Stopwatch()
        record_environment(folder)
        lightning.seed_everything(self.run.seed, verbose=False)
        clock.lap("other")
        pool = self.data.pool(self._gatherer(folder))
        if self.data.mixture is not None:
            write_json(folder.mixture, self.data.mixture)
        selections = self._selections(pool, folder, tracker) if sft.use_coreset_selection else None
        validation = self.data.held_out()
        clock.lap("data")
        loader, task_steps = self._loader(pool, selections)
        clock.lap("other")
        module = SFTModule(
            self.make_trainable(),
            self.run,
            task_steps=task_steps,
            sample_ids=[sample.sample_id for sample in pool.encoded],
            chooser=selections.chooser() if selections is not None else None,
            replayer=self._replayer(pool, loader) if sft.use_online_continual else None,
        )
        clock.lap("model")
        if isinstance(loader, StreamLoader):
            between = BetweenTasks(pool, folder, tracker, self.measure, selections, self.console)
            between.attend(loader, module, self.tokenizer)
        elif selections is not None:
            selections.follow(loader, module)
        fit_module(
            module,
            loader,
            self.run,
            place=Place(folder, tracker, interrupts, self.console, self.device, clock),
            accumulate=loader.accumulate,
            evaluate=self._validator(validation),
            epochs=loader.num_epochs if isinstance(loader, StreamLoader) else None,
        )
        if selections is not None:
            last = loader.pass_of_last_batch if isinstance(loader, StreamLoader) else loader.epoch_of_last_batch
            selections.record_rows(module, last)
        self.save_model(folder.model)
        if module.replayer is not None:
            write_json(folder.replay, module.replayer.record(module.sample_ids, list(pool.tasks())))
            if not module.replayer.replayed:
                self.console.print(NOTHING_REPLAYED, markup=False, soft_wrap=True)
        costs = selections.costs() if selections is not None else {}
        result = training_result(folder, module.trained_parameters(), self.data.counts, clock.seconds, costs)
        write_json(folder.training, result.to_dict())
        return result

    def measure(self, when: str) -> dict[str, Any]:
        """Figures of the model as it is on all that the run holds out; `when` is for the progress display."""
        model = self.model.to(self.device)
        return measure(self.run, model, self.tokenizer, self.data.held_out(), self.data.benchmark(), self.console, when)

    def evaluate(self, data: str | Sequence[Sample]) -> EvalResult:
        """Predict the supervised tokens of held-out conversations with the model as it is now.

        data: a reference as in sft.eval_data (its first budget.eval_samples samples), or samples.
        """
        if isinstance(data, str):
            encoded = self.data.load(data, self.run.budget.eval_samples, use="eval")
        else:
            encoded = self.data.encode([self._checked(sample) for sample in data], use="eval")
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

    def select(self) -> tuple[TrainingPool, dict[str, Any]]:
        """Choose the training samples as `coreset` says, without training: the pool, and what was chosen of it."""
        pool = self.data.pool()
        model = self.model.to(self.device)
        return pool, select_from(self.run, pool, model, self.console, self.data.dev)

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

    def _loader(
        self, pool: TrainingPool, selections: Selections | None
    ) -> tuple[BatchLoader | StreamLoader, Sequence[int]]:
        """What serves the batches, and the optimiser steps of each task; without a stream there is one."""
        sft = self.run.sft
        candidates = self.run.coreset.candidates if self._chooses_rows() else 1.0
        rows, pad = round(sft.batch_size * candidates), int(self.tokenizer.pad_token_id)
        from_pool = selections is not None and self.run.coreset.scope == "pool"
        if self.run.data.stream == "sequential":
            tasks = list(pool.tasks().values())
            sizes = [len(task) for task in tasks]
            sizes = target_sizes(self.run, sizes) if from_pool else sizes
            steps = steps_of_stream(self.run, pool.encoded)
            passes = plan_passes(sizes, rows * sft.gradient_accumulation_steps, sft.num_epochs, steps)
            accumulate = micro_batches(sizes, passes, rows)
            self._tell_stream(sizes, max(-(-sizes[part.task] // part.num_steps) for part in passes), accumulate, rows)
            stream = StreamLoader(
                pool.encoded, tasks, passes, accumulate=accumulate, pad_token_id=pad, seed=self.run.seed
            )
            return stream, stream.task_steps
        loader = BatchLoader(
            pool.encoded,
            batch_size=rows,
            accumulate=sft.gradient_accumulation_steps,
            pad_token_id=pad,
            seed=self.run.seed,
            bucket_steps=self.run.data.bucket_steps,
        )
        if selections is not None and from_pool:
            loader.choose(selections.chosen(self.model.to(self.device), epoch=0, step=0))
        return loader, [steps_of_pool(self.run, loader)]

    def _tell_stream(self, sizes: Sequence[int], largest_step: int, accumulate: int, rows: int) -> None:
        """Say what a user may not expect of a stream."""
        if largest_step > accumulate * rows:
            few = f"the smallest task of the stream has {min(sizes)} samples, so a step has {accumulate} micro-batches"
            self.console.print(f"{few} of up to {-(-largest_step // accumulate)} rows", markup=False)
        if len(sizes) == 1:
            self.console.print("the stream has one task: nothing is learnt after it that could make it forget")

    def _replayer(self, pool: TrainingPool, loader: BatchLoader | StreamLoader) -> Replayer:
        if self.run.continual.targets == "self":
            foreign = {sample["task"] for sample in pool.samples if sample["source"] != "world"}
            if foreign:
                raise ValueError(
                    f"continual.targets=self needs tasks of the embedded world, which has a checker; {sorted(foreign)} "
                    "are not: use gold"
                )
        numbers = {place: number for number, places in enumerate(pool.tasks().values()) for place in places}
        tasks = [numbers[place] for place in range(len(pool.encoded))]
        return Replayer(self.run, tasks, int(self.tokenizer.pad_token_id), lambda: loader.open_step)

    def _gatherer(self, folder: RunFolder) -> Callable[[list[Sample]], list[Sample]] | None:
        """What turns the training tasks into trajectories to train on, where the method does that."""
        if not self.run.trajectories.use:
            return None

        def gather(samples: list[Sample]) -> list[Sample]:
            paths = (folder.trajectories, folder.gathering)
            return gathered(self.run, samples, *paths, self.local_agent, self.console)

        return gather

    def local_agent(self, config: AgentConfig) -> LocalAgent:
        """The agent that acts by a model: `self.model`, or the one that config names."""
        options: dict[str, Any] = {
            "max_new_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "batch_size": self.run.evaluation.batch_size,
            "seed": self.run.trajectories.collector.seed,
        }
        if config.model is not None:
            return local_agent(
                config.model, base_model=self.run.sft.base_model, config=self.run.model, device=self.device, **options
            )
        return LocalAgent(self.model.to(self.device), self.tokenizer, **options)

    def _selections(self, pool: TrainingPool, folder: RunFolder, tracker: Tracker) -> Selections:
        return Selections(self.run, pool, folder, tracker, self.console, self.data.dev)

    def _chooses_rows(self) -> bool:
        return self.run.sft.use_coreset_selection and self.run.coreset.scope == "batch"


def train_in_new_folder(
    run: RunConfig, fit: Callable[[RunFolder, Tracker, Interrupts], TrainingResult]
) -> TrainingResult:
    """What `fit` returns, given a new folder of the run's, its log, and signals that wait until it can save."""
    folder = RunFolder.create(run)
    tracker, code = Tracker(folder.path, run, resume_step=None), 1
    try:
        with Interrupts() as interrupts:
            result = fit(folder, tracker, interrupts)
        code = 0
    finally:
        tracker.finish(code)
    return result


def training_result(
    folder: RunFolder,
    trained: Mapping[str, nn.Parameter],
    data: dict[str, Any],
    startup: dict[str, float],
    selection: dict[str, float],
) -> TrainingResult:
    """What the log of a run that has trained to its end tells."""
    last = [row for line in folder.metrics.read_text().splitlines() if "train/loss" in (row := json.loads(line))][-1]
    return TrainingResult(
        final_loss=last["train/loss"],
        steps=last["step"],
        tokens=last["train/tokens"],
        supervised_tokens=last["train/supervised_tokens"],
        seconds=last["seconds"],
        trainable_parameters=sum(parameter.numel() for parameter in trained.values()),
        run_dir=str(folder.path),
        model_dir=str(folder.model),
        data=data,
        startup=startup,
        selection=selection,
    )
