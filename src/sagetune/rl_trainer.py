"""AgentRLTrainer: training beyond imitation, on preferences (DPO) or on rewards (PPO, GRPO)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console
from torch import nn
from transformers import PreTrainedTokenizerBase

from sagetune.config import AgentSFTConfig, RLTrainingConfig, RunConfig
from sagetune.config.trajectories import AgentConfig
from sagetune.evaluation.pairs import PreferenceResult
from sagetune.files import write_json
from sagetune.fitting import Place
from sagetune.interrupts import Interrupts
from sagetune.measuring import Stopwatch
from sagetune.preference_training import PreferenceTraining
from sagetune.preferences import Pair
from sagetune.report import record_environment
from sagetune.rollout_training import RolloutResult, RolloutTraining
from sagetune.rollouts.rewards import RewardFunction
from sagetune.run_data import RunData
from sagetune.runfolder import RunFolder
from sagetune.sample import Sample
from sagetune.tracking import Tracker
from sagetune.trainer import AgentSFTTrainer, TrainingResult, train_in_new_folder, training_result
from sagetune.trajectories.local import LocalAgent


class AgentRLTrainer:
    """Trains an agent beyond imitation.

    sft_config: model, data and optimisation, as AgentSFTTrainer takes them. rl_config: the reference's
    RLTrainingConfig; None = the one in a RunConfig. Training starts from the base model, or from the adapter that
    `adapter.start_from` names.

    dpo: train_data and eval_data hold pairs or runs of `sagetune.preferences`, and batch_size counts pairs. ppo, grpo:
    the model acts on the tasks of train_data, and batch_size counts rollouts. They are rewarded by reward_fn, a
    function Rollout -> float, else by the model at rl.reward_model, else by the checker of the embedded world's tasks.

    Raises ValueError at once for data that is not there, and for data that nothing judges.
    """

    def __init__(
        self,
        sft_config: AgentSFTConfig | RunConfig,
        rl_config: RLTrainingConfig | None = None,
        *,
        reward_fn: RewardFunction | None = None,
        console: Console | None = None,
    ) -> None:
        run = sft_config if isinstance(sft_config, RunConfig) else RunConfig(sft=sft_config)
        self.run = run if rl_config is None else dataclasses.replace(run, rl=rl_config)
        if self.run.rl is None:
            raise ValueError("rl_config must be an RLTrainingConfig unless sft_config is a RunConfig with rl, got None")
        self.rl = self.run.rl
        self._sft = AgentSFTTrainer(self.run, console=console)
        self.console = self._sft.console
        self._training: PreferenceTraining | RolloutTraining
        if self.rl.algorithm == "dpo":
            if reward_fn is not None:
                raise ValueError("reward_fn must be None for dpo, which learns from pairs, not from rewards")
            self._training = PreferenceTraining(self._sft, self.rl)
        else:
            self._training = RolloutTraining(self._sft, self.rl, reward_fn)

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
        clock = Stopwatch()
        record_environment(folder)
        lightning.seed_everything(self.run.seed, verbose=False)
        clock.lap("other")
        trained = self._training.fit(Place(folder, tracker, interrupts, self.console, self.device, clock))
        self.save_model(folder.model)
        result = training_result(folder, trained, self.data.counts, clock.seconds, {})
        write_json(folder.training, result.to_dict())
        return result

    def measure(self, when: str) -> dict[str, Any]:
        """Figures of the model as it is on all that the run holds out; `when` is for the progress display.

        Beside those of AgentSFTTrainer: "preferences", a PreferenceResult, of dpo; "rollouts", a RolloutResult on the
        tasks of evaluation.data, of ppo and grpo.
        """
        return self._training.measure(when)

    def evaluate(self, data: str | Sequence[Pair] | Sequence[Sample]) -> PreferenceResult | RolloutResult:
        """What the model as it is now makes of held-out data: a reference as in sft.eval_data, or its content.

        dpo: pairs (of a reference the first budget.eval_samples), compared against the model that training starts from.
        ppo, grpo: samples, whose tasks are acted on once each, greedily.
        """
        return self._training.evaluate(data)  # type: ignore[arg-type]

    def save_model(self, path: str | Path) -> None:
        """Save what was trained and the tokenizer: a folder that peft.PeftModel.from_pretrained loads."""
        self._sft.save_model(path)

    def load_model(self, path: str | Path) -> None:
        """Put the model of a folder that `save_model` wrote into `self.model`."""
        self._training.model_changed()
        self._sft.load_model(path)

    def local_agent(self, config: AgentConfig) -> LocalAgent:
        """The agent that acts by a model: `self.model`, or the one that config names."""
        return self._sft.local_agent(config)


def trainer_of(run: RunConfig, console: Console) -> AgentSFTTrainer | AgentRLTrainer:
    """The trainer that the run's objective asks for."""
    return AgentSFTTrainer(run, console=console) if run.rl is None else AgentRLTrainer(run, console=console)
