"""Replay inside the training step: mix earlier samples in, weigh them, remember the new ones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sagetune.batching import Batch
from sagetune.chat import IGNORE_INDEX
from sagetune.config import RunConfig
from sagetune.losses import SupervisedLogits, TokenLosses, row_means
from sagetune.replay.distill import beliefs_of, dark_loss
from sagetune.replay.interference import interference
from sagetune.replay.learner import TASK_COLUMN, Mixed, OnlineContinualLearner
from sagetune.replay.rows import WEIGHTS


class Replayer:
    """What a run replays, and the record of it.

    tasks: the task number of each training sample, by sample_index. open_step: tells the samples of the whole optimiser
    step that is open, none of which is replayed in it.
    """

    def __init__(
        self,
        run: RunConfig,
        tasks: Sequence[int],
        pad_token_id: int,
        open_step: Callable[[], Sequence[int]] = tuple,
    ) -> None:
        sft, options = run.sft, run.continual
        self.options = options
        self.learner = OnlineContinualLearner(
            sft.continual_buffer_size,
            sft.continual_replay_ratio,
            options.strategy,
            draw=options.draw,
            mode=options.mode,
            pad_token_id=pad_token_id,
            seed=run.seed,
            candidates=options.candidates,
        )
        self._tasks = torch.tensor(tasks, dtype=torch.int64)
        self._open_step = open_step
        self._learning_rate = sft.learning_rate
        self.replayed: Counter[int] = Counter()
        """How often each sample was replayed, by sample_index."""
        self.pairs: Counter[tuple[int, int]] = Counter()
        """Replayed rows by (task of the current rows, task of the replayed row), in batches of one task."""
        self.seconds = 0.0
        self.extra_tokens = 0
        """Tokens that went through the model to choose what to replay, those of a backward pass counted three times."""
        self.own_answers = 0
        """Kept samples whose answer is the model's own."""
        self.current: Mixed | None = None

    def mix(self, model: nn.Module, batch: Batch, exclude: Iterable[int]) -> Batch:
        """The rows to train on: the batch and what is replayed. exclude: what the open step has trained on already."""
        started = time.perf_counter()
        named = self.named(batch)

        def rank(candidates: dict[str, Any]) -> Tensor:
            tokens = int(batch["attention_mask"].sum()), int(candidates["attention_mask"].sum())
            self.extra_tokens += 3 * tokens[0] + 2 * tokens[1]
            return interference(model, batch, candidates, self._learning_rate)

        mixed = self.learner.mix(named, exclude=[*exclude, *self._open_step()], interference=rank)
        self._record(mixed, named)
        if mixed.replayed and self.options.weight != 1:
            weights = mixed.batch.get(WEIGHTS, (mixed.batch["labels"] != IGNORE_INDEX).float())
            scale = torch.ones(len(weights), 1, device=weights.device)
            scale[len(mixed.current) :] = self.options.weight
            mixed.batch[WEIGHTS] = weights * scale
        self.current = mixed
        self.seconds += time.perf_counter() - started
        return cast(Batch, {name: column for name, column in mixed.batch.items() if name != TASK_COLUMN})

    def dark(self, found: SupervisedLogits) -> Tensor | float:
        """The distillation term of the step's loss, to be added to its sum over tokens."""
        mixed = self.current
        if not self.options.distill or mixed is None or not mixed.replayed:
            return 0.0
        return self.options.distill * dark_loss(found, mixed.replayed, len(mixed.current))

    def remember(self, batch: Batch, found: SupervisedLogits, losses: TokenLosses) -> None:
        """Offer the batch, as it was before mixing, to the buffer. Of rows that were dropped nothing is believed."""
        started = time.perf_counter()
        assert self.current is not None
        current = self.current.current
        figures, beliefs = None, None
        if self.options.strategy == "loss":
            means = row_means(losses, len(self.current.batch["labels"])).detach().tolist()
            known = dict(zip(current, means, strict=False))
            # A dropped row was not run: it weighs as the mean of those that were.
            figures = [known.get(row, sum(means) / len(means)) for row in range(len(batch["labels"]))]
        if self.options.distill:
            kept = dict(zip(current, beliefs_of(found, len(current), self.options.distill_top_k), strict=True))
            beliefs = [kept.get(row, {}) for row in range(len(batch["labels"]))]
        self.learner.update(self.named(batch), figures, beliefs)
        self.current = None
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        pairs = [[*pair, count] for pair, count in self.pairs.items()]
        counters = {name: vars(self)[name] for name in ("seconds", "extra_tokens", "own_answers")} | {"pairs": pairs}
        return {"learner": self.learner.state_dict(), "replayed": dict(self.replayed), **counters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.replayed = Counter(state["replayed"])
        self.pairs = Counter({(current, old): count for current, old, count in state["pairs"]})
        self.seconds, self.extra_tokens = state["seconds"], state["extra_tokens"]
        self.own_answers = state["own_answers"]

    def record(self, sample_ids: Sequence[str], task_names: Sequence[str]) -> dict[str, Any]:
        """The content of replay.json: what was replayed, what is kept, and what it cost."""
        kept = self.learner
        by_task = Counter(task_names[group] for group in kept.groups)
        return {
            "rows": sum(self.replayed.values()),
            "seconds": self.seconds,
            "forward_tokens": self.extra_tokens,
            "own_answers": self.own_answers,
            "buffer": {"samples": len(kept), "bytes": kept.num_bytes, "tasks": dict(sorted(by_task.items()))},
            "pairs": [[task_names[now], task_names[old], count] for (now, old), count in sorted(self.pairs.items())],
            "replayed": {sample_ids[index]: count for index, count in sorted(self.replayed.items())},
            "kept": sorted(sample_ids[index] for index in kept.ids),
        }

    def named(self, batch: Batch) -> dict[str, Any]:
        """The batch with the task of each row."""
        return {**batch, TASK_COLUMN: self._tasks[batch["sample_index"].cpu()]}

    def _record(self, mixed: Mixed, given: dict[str, Any]) -> None:
        indices, tasks = (mixed.batch[name][len(mixed.current) :].tolist() for name in ("sample_index", TASK_COLUMN))
        self.replayed.update(indices)
        now = given[TASK_COLUMN].unique().tolist()
        if len(now) == 1:
            self.pairs.update((now[0], task) for task in tasks)
