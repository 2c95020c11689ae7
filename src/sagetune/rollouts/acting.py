"""Tasks -> rollouts: the policy acts on all of them together, each draw from a seed of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from torch import nn
from transformers import PreTrainedTokenizerBase

from sagetune.config import RunConfig
from sagetune.config.trajectories import CollectorConfig
from sagetune.rollouts.rollout import Rollout
from sagetune.sample import Sample
from sagetune.trajectories.agents import Agent
from sagetune.trajectories.collector import CollectionBroken, TrajectoryCollector
from sagetune.trajectories.environment import AgentTask, one_reply
from sagetune.trajectories.episode import BadReply, Episode
from sagetune.trajectories.local import Drawn, LocalAgent
from sagetune.trajectories.record import AgentTrajectory
from sagetune.trajectories.runs import Key
from sagetune.trajectories.tasks import as_task

TOO_LONG = "raise sft.max_seq_length or leave the task out"


def task_of(sample: Sample, *, judged: bool) -> AgentTask:
    """The task behind a sample: of the embedded world with its checker, else one reply.

    judged: whether a reward of its own judges what has no checker. Raises ValueError for a sample that nothing judges.
    """
    if sample["source"] == "world":
        return as_task(sample)
    if not judged:
        raise ValueError(
            f"sample {sample['id']!r}: nothing judges what is done there: only tasks of the embedded world "
            f"(agent_sft:<split>, agent_benchmark:<family>:<split>) have a checker; set rl.reward_model, or give "
            f"AgentRLTrainer a reward_fn"
        )
    messages = sample["messages"]
    first = next(place for place, message in enumerate(messages) if message["role"] == "assistant")
    return one_reply(sample["id"], sample["task"], messages[:first], sample["tools"], messages[first])


class Recorder:
    """A local agent whose draws are kept, by the key of the attempt."""

    def __init__(self, agent: LocalAgent) -> None:
        self._agent = agent
        self.drawn: dict[Key, list[Drawn]] = {}

    def start(self, episode: Episode) -> Agent:
        key = (episode.task.id, episode.method, episode.seed, episode.attempt)
        self.drawn[key] = []
        return self._agent.start(episode, self.drawn[key])

    def rollout(self, trajectory: AgentTrajectory) -> Rollout:
        turns = self.drawn[trajectory.key]
        if not turns:
            raise ValueError(f"task {trajectory.task_id}: {trajectory.error}: {TOO_LONG}")
        replies = [self._agent.text(turn) for turn in turns]
        return Rollout(trajectory, turns, replies, cut_off=bool(trajectory.cut_off))


def check_fit(model: nn.Module, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[AgentTask], run: RunConfig) -> None:
    """Raise ValueError, naming the first, for tasks whose prompt leaves no room for a reply: an update that comes to
    one of them could only end the run.
    """
    agent, unfit = _agent(model, tokenizer, run, temperature=0.0), []
    for task in tasks:
        environment = task.make()
        try:
            agent.prompt(environment.reset(), environment.tools)
        except BadReply as bad:
            unfit.append(f"task {task.id}: {bad}")
        finally:
            environment.close()
    if unfit:
        many = f"{len(unfit)} of {len(tasks)} tasks do not fit, the first: " if len(unfit) > 1 else ""
        raise ValueError(f"{many}{unfit[0]}: {TOO_LONG}")


def act(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[AgentTask],
    run: RunConfig,
    samples: int,
    update: int,
    temperature: float,
) -> list[Rollout]:
    """`samples` attempts at each task, those of one task together, in the order of `tasks`.

    What is drawn follows from (run.seed, update, task, sample, turn) and the model alone, whatever runs beside it. The
    clock has no part: an attempt has all the time it wants. Raises CollectionBroken where an environment breaks, and
    ValueError for a task whose prompt does not fit.
    """
    options = CollectorConfig(
        max_steps=run.rollout.max_turns,
        methods=["plain"],
        attempts=samples,
        seed=update,
        num_workers=len(tasks) * samples,
        bad_replies=0,
        step_timeout=math.inf,
        task_timeout=math.inf,
    )
    recorder = Recorder(_agent(model, tokenizer, run, temperature))
    quiet = Console(quiet=True, force_terminal=False)
    found = TrajectoryCollector(recorder, options, name="policy", console=quiet).attempts(tasks)
    broken = next((trajectory for trajectory in found if trajectory.status == "error"), None)
    if broken is not None:
        raise CollectionBroken(f"an attempt at task {broken.task_id} broke: {broken.error}")
    return [recorder.rollout(trajectory) for trajectory in found]


def _agent(model: nn.Module, tokenizer: PreTrainedTokenizerBase, run: RunConfig, temperature: float) -> LocalAgent:
    return LocalAgent(
        model,
        tokenizer,
        max_new_tokens=run.rollout.max_new_tokens,
        temperature=temperature,
        batch_size=run.evaluation.batch_size,
        seed=run.seed,
        max_length=run.sft.max_seq_length,
    )
