"""The model's own solutions of the world's tasks that its checker passes: on-policy replay (arXiv:2605.29495)."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sagetune.config import EvaluationConfig
from sagetune.config.trajectories import CollectorConfig
from sagetune.sample import Sample
from sagetune.trajectories.collector import TrajectoryCollector
from sagetune.trajectories.local import LocalAgent


def own_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    config: EvaluationConfig,
    console: Console,
) -> list[Sample]:
    """The samples with the model's own messages in place of the expert's, without those that it does not solve.

    samples: of the embedded world. The model acts greedily, with its tools.
    """
    agent = LocalAgent(model, tokenizer, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)
    options = CollectorConfig(methods=["plain"], bad_replies=0, num_workers=max(1, len(samples)))
    solved = TrajectoryCollector(agent, options, console=console).collect(samples)
    messages = {trajectory.task_id: trajectory.messages for trajectory in solved}
    return [{**sample, "messages": messages[sample["id"]]} for sample in samples if sample["id"] in messages]
