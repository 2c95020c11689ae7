"""AgentCapabilityEvaluator: anything that acts -> a score with its interval for each capability."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from sagetune.capability.data import items_of
from sagetune.capability.items import Item, reply_of
from sagetune.capability.scores import CapabilityReport, CapabilityScore
from sagetune.config import EvaluationConfig, ModelConfig
from sagetune.config.trajectories import CollectorConfig
from sagetune.evaluation.calls import Reply, render_reply
from sagetune.evaluation.scoring.intervals import Rate, bootstrap, pass_hat_k, wilson
from sagetune.evaluation.scoring.selection import score_candidates, selection_report
from sagetune.evaluation.scoring.timing import decision_of, timing_report
from sagetune.evaluation.scoring.verdict import Scored
from sagetune.trajectories.collector import TrajectoryCollector
from sagetune.trajectories.local import LocalAgent, local_agent
from sagetune.trajectories.record import AgentTrajectory

PROMPT_TAIL = 600  # characters of a request that a report shows


@runtime_checkable
class HasModel(Protocol):
    """Something with a model in it, such as AgentSFTTrainer."""

    @property
    def model(self) -> Any: ...

    @property
    def tokenizer(self) -> Any: ...


class AgentCapabilityEvaluator:
    """Scores what an agent does, capability by capability. The reference's class.

    config: decoding and attempts. folder: receives `<capability>.jsonl`, an answer a line as it is given, from which a
    stopped evaluation goes on; None = nothing is written. who: what is measured, in words or numbers, so that the
    answers of another are never taken for its own; a model in this process is known by its weights besides.
    """

    def __init__(
        self,
        config: EvaluationConfig | None = None,
        *,
        model_config: ModelConfig | None = None,
        folder: str | Path | None = None,
        who: dict[str, Any] | None = None,
        console: Console | None = None,
    ) -> None:
        self.config = config or EvaluationConfig()
        self.model_config = model_config or ModelConfig()
        self.folder = Path(folder) if folder is not None else None
        self.who = who or {}
        self.console = console or Console(stderr=True)

    def evaluate(self, model: Any, test_sets: Mapping[str, Any]) -> CapabilityReport:
        """A score for each capability of `test_sets`.

        model: a trainer, (model, tokenizer), a folder or hub id, or an agent (an endpoint, a function, ...; see
        TrajectoryCollector). test_sets: capability -> samples, records, or a reference (see `items_of`).
        """
        agent = self._agent(model)
        who = self._who(model, agent)
        return CapabilityReport({name: self._score(agent, who, name, data) for name, data in test_sets.items()})

    def evaluate_capability(self, model: Any, cap: str, data: Any) -> CapabilityScore:
        """One capability; arguments as in `evaluate`."""
        agent = self._agent(model)
        return self._score(agent, self._who(model, agent), cap, data)

    def _who(self, model: Any, agent: Any) -> dict[str, Any]:
        named = {"model": str(model)} if isinstance(model, str | Path) else {}
        weights = {"weights": agent.identity} if self.folder is not None and isinstance(agent, LocalAgent) else {}
        return named | weights | self.who

    def _agent(self, model: Any) -> Any:
        options: dict[str, Any] = {
            "max_new_tokens": self.config.max_new_tokens,
            "temperature": self.config.temperature,
            "batch_size": self.config.batch_size,
        }
        if isinstance(model, str | Path):
            return local_agent(str(model), config=self.model_config, **options)
        if isinstance(model, tuple):
            inner, tokenizer = model
            if not isinstance(inner, torch.nn.Module) or not isinstance(tokenizer, PreTrainedTokenizerBase):
                raise ValueError(f"model: expected (model, tokenizer), got {model!r:.120}")
            return LocalAgent(inner, tokenizer, **options)
        if isinstance(model, HasModel):
            return LocalAgent(model.model, model.tokenizer, **options)
        return model

    def _score(self, agent: Any, who: dict[str, Any], capability: str, data: Any) -> CapabilityScore:
        items = items_of(capability, data, self.config.samples)
        rests_on = hashes(items, self.config)
        if self.config.how == "likelihood":
            return by_likelihood(capability, items, agent, rests_on)
        collector = TrajectoryCollector(
            agent,
            CollectorConfig(
                methods=["plain"],
                attempts=self.config.attempts,
                max_steps=self.config.max_turns,
                require_success=False,
                bad_replies=0,
                num_workers=2 * self.config.batch_size,
            ),
            path=self.folder / f"{capability}.jsonl" if self.folder is not None else None,
            details={"who": who, "hashes": rests_on},
            console=self.console,
        )
        attempts: dict[str, list[AgentTrajectory]] = defaultdict(list)
        for trajectory in collector.attempts([item.task for item in items]):
            attempts[trajectory.task_id].append(trajectory)
        return scored(capability, items, attempts, rests_on)


def scored(
    capability: str,
    items: Sequence[Item],
    attempts: Mapping[str, Sequence[AgentTrajectory]],
    rests_on: dict[str, str],
) -> CapabilityScore:
    """The score over all attempts that did not break, of which there is one at least; those that did are counted."""
    verdicts: list[tuple[Item, AgentTrajectory, Scored]] = []
    for item in items:
        whole = [trajectory for trajectory in attempts[item.task.id] if trajectory.status != "error"]
        verdicts += [(item, trajectory, item.score(trajectory)) for trajectory in whole]
    details = {
        "parse_failure_rate": sum(verdict.parse_failure for _, _, verdict in verdicts) / len(verdicts),
        "broken": sum(map(len, attempts.values())) - len(verdicts),
        "how": "generation",
        "hashes": rests_on,
        **_pass_k(verdicts, max(map(len, attempts.values()))),
        **_of_capability(capability, verdicts),
        "items": [_row(item, tried.attempt, _said(tried), verdict) for item, tried, verdict in verdicts],
    }
    return _score_of(capability, items, [(item, verdict) for item, _, verdict in verdicts], details)


def by_likelihood(capability: str, items: Sequence[Item], agent: Any, rests_on: dict[str, str]) -> CapabilityScore:
    """The score by which of the given replies the model prefers; of several equally likely ones none is chosen.

    Raises ValueError for items without a choice, and for an agent that is no local model.
    """
    if not isinstance(agent, LocalAgent):
        raise ValueError("evaluation.how must be generation for an agent that is no local model, got 'likelihood'")
    if not all(len(item.choices) > 1 for item in items):
        raise ValueError(f"evaluation.how must be generation: the items of {capability} give no replies to choose from")
    asked = [(_opening(item), item.task.make().tools, item.choices) for item in items]
    rows, verdicts = [], []
    for item, scores in zip(items, agent.preferences(asked), strict=True):
        likelihoods = {choice: score.log_likelihood for choice, score in zip(item.choices, scores, strict=True)}
        verdict = score_candidates(likelihoods, item.choices[0])
        verdicts.append((item, verdict))
        rows.append(_row(item, 0, max(item.choices, key=likelihoods.__getitem__), verdict))
    unread = sum(verdict.parse_failure for _, verdict in verdicts) / len(verdicts)
    details = {"parse_failure_rate": unread, "broken": 0, "how": "likelihood", "hashes": rests_on, "items": rows}
    return _score_of(capability, items, verdicts, details)


def _score_of(
    capability: str, items: Sequence[Item], verdicts: Sequence[tuple[Item, Scored]], details: dict[str, Any]
) -> CapabilityScore:
    """The score with what every way of measuring tells."""
    rate = _rate(verdicts)
    assert rate.value is not None
    common = {
        "interval": [rate.low, rate.high],
        "chance": chance(capability, items),
        "by_family": _families(verdicts),
        "figures": _means([verdict for _, verdict in verdicts]),
    }
    return CapabilityScore(capability, rate.value, len({item.id for item, _ in verdicts}), common | details)


def _pass_k(verdicts: Sequence[tuple[Item, AgentTrajectory, Scored]], attempts: int) -> dict[str, Any]:
    """pass^k for k up to the number of attempts, over the items of which none broke; nothing for one attempt."""
    if attempts == 1:
        return {}
    solved: dict[str, list[bool]] = defaultdict(list)
    for item, _, verdict in verdicts:
        solved[item.id].append(verdict.correct)
    whole = [(sum(tries), attempts) for tries in solved.values() if len(tries) == attempts]
    return {"pass_k": {str(k): pass_hat_k(whole, k) for k in range(1, attempts + 1)} if whole else {}}


def hashes(items: Sequence[Item], config: EvaluationConfig) -> dict[str, str]:
    """What a figure rests on, in 12 hexadecimal digits each: the prompts, the gold answers, and the decoding."""
    prompts = [[*_opening(item), item.task.make().tools] for item in items]
    golds = [[item.id, item.gold] for item in items]
    decoding = [config.max_new_tokens, config.temperature, config.attempts, config.max_turns]
    named = {"prompts": prompts, "data": golds, "decoding": decoding}
    return {
        name: hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:12]
        for name, value in named.items()
    }


def chance(capability: str, items: Sequence[Item]) -> float | None:
    """The score of blind choice, where there is a choice: of one decision for all, or between the given replies."""
    if capability == "timing":
        calling = sum(item.should_call is True for item in items) / len(items)
        return max(calling, 1 - calling)
    if items and all(item.choices for item in items):
        return sum(1 / len(item.choices) for item in items) / len(items)
    return None


def _rate(verdicts: Sequence[tuple[Item, Scored]]) -> Rate:
    """The mean over items of each one's mean over its attempts, which are no further items: they narrow no interval."""
    by_item: dict[str, list[float]] = defaultdict(list)
    for item, verdict in verdicts:
        by_item[item.id].append(verdict.score)
    scores = [sum(found) / len(found) for found in by_item.values()]
    if all(score in (0.0, 1.0) for score in scores):
        return wilson(int(sum(scores)), len(scores))
    return bootstrap(scores)


def _means(verdicts: Sequence[Scored]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        for name, value in verdict.figures.items():
            values[name].append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def _of_capability(capability: str, verdicts: Sequence[tuple[Item, AgentTrajectory, Scored]]) -> dict[str, Any]:
    """The details that timing and tool selection have of their own, over each item's first attempt."""
    first = {item.id: (item, trajectory, verdict) for item, trajectory, verdict in reversed(verdicts)}
    if capability == "timing":
        decisions = []
        for item, trajectory, _ in first.values():
            names = [tool["function"]["name"] for tool in trajectory.tools]
            assert item.should_call is not None
            decisions.append((item.should_call, decision_of(reply_of(trajectory), item.task.instruction, names)))
        return {"timing": asdict(timing_report(decisions))}
    if capability == "tool_selection":
        return {"selection": asdict(selection_report([verdict for _, _, verdict in first.values()]))}
    return {}


def _families(verdicts: Sequence[tuple[Item, Scored]]) -> dict[str, Any]:
    groups: dict[str, list[tuple[Item, Scored]]] = defaultdict(list)
    for item, verdict in verdicts:
        groups[item.family].append((item, verdict))
    return {name: asdict(_rate(group)) for name, group in sorted(groups.items())}


def _row(item: Item, attempt: int, said: str, verdict: Scored) -> dict[str, Any]:
    return {
        "id": item.id,
        "family": item.family,
        "attempt": attempt,
        "prompt": item.task.instruction[-PROMPT_TAIL:],
        "gold": item.gold,
        "said": said,
        "score": verdict.score,
        "correct": verdict.correct,
        "parse_failure": verdict.parse_failure,
        "reason": verdict.reason,
    }


def _said(trajectory: AgentTrajectory) -> str:
    reply: Reply = reply_of(trajectory)
    if reply.error is not None:
        return reply.error
    turns = [message for message in trajectory.messages[trajectory.own_from :] if message["role"] == "assistant"]
    return "\n".join(render_reply(turn) for turn in turns)


def _opening(item: Item) -> list[Any]:
    return list(item.task.make().reset())
