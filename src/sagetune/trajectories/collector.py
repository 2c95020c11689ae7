"""TrajectoryCollector: an agent acts on tasks; an attempt is on disk as soon as it is over. The reference's class.

All attempts run in one asyncio loop, `num_workers` at a time. An attempt is known by (task, prompting method, seed,
attempt): a rerun with the same file makes only those that are missing, or that the infrastructure broke.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from sagetune.config.trajectories import CollectorConfig
from sagetune.progress import progress_stage
from sagetune.sample import Message
from sagetune.trajectories.agents import Agent, Runner, Said, TaskAgent, as_agent
from sagetune.trajectories.environment import AgentTask, TaskError
from sagetune.trajectories.episode import BadReply, CutOff, Episode, OutOfSteps, described
from sagetune.trajectories.prompting import view
from sagetune.trajectories.record import AgentTrajectory
from sagetune.trajectories.runs import Key, RunFile
from sagetune.trajectories.tasks import as_task
from sagetune.trajectories.threads import in_thread

REFLEXION_ATTEMPTS = 2


class CollectionBroken(RuntimeError):
    """The infrastructure breaks every attempt."""


class LateAnswer(Exception):
    """An agent took too long for one answer."""


class Progress:
    """How a collection goes. solved: successes so far; broken_only: attempts that broke while none did not."""

    def __init__(self, solved: int) -> None:
        self.solved = solved
        self.broken_only = 0
        self._went_well = bool(solved)

    def add(self, trajectory: AgentTrajectory) -> None:
        self.solved += trajectory.success
        self._went_well |= trajectory.status != "error"
        self.broken_only = 0 if self._went_well else self.broken_only + 1


@dataclass(frozen=True, slots=True)
class Chain:
    """Attempts of one method at one task, one after another until one succeeds."""

    task: AgentTask
    method: str
    attempts: tuple[int, ...]


class TrajectoryCollector:
    """Lets an agent act on tasks.

    agent: an object with `act(messages, tools) -> assistant message`, a function, one of ours (ExpertAgent, ...), or an
    agent of smolagents or LangChain; anything else is refused with ValueError. path: a JSONL file that receives every
    attempt, failures too, and from which a stopped collection goes on. name: what the agent is called there; details:
    what else makes it this agent, so that a file is not gone on with by another.
    """

    def __init__(
        self,
        agent: Any,
        config: CollectorConfig | None = None,
        *,
        path: str | Path | None = None,
        name: str | None = None,
        details: dict[str, Any] | None = None,
        console: Console | None = None,
    ) -> None:
        self.agent = as_agent(agent)
        self.config = config or CollectorConfig()
        self.path = Path(path) if path is not None else None
        self.name = name or type(agent).__name__
        self.details = details or {}
        self.console = console or Console(stderr=True)

    def collect(self, tasks: Sequence[Any]) -> list[AgentTrajectory]:
        """The attempts at `tasks`, in their order; with require_success the successful ones.

        tasks: AgentTask, a task or sample of the embedded world, or a dict with instruction and answer. Raises
        ValueError for a bad task, and CollectionBroken if the infrastructure broke every attempt.
        """
        found = self.attempts(tasks)
        return [trajectory for trajectory in found if trajectory.success or not self.config.require_success]

    def attempts(self, tasks: Sequence[Any]) -> list[AgentTrajectory]:
        """`collect`, with the failures."""
        found = self._run(self.plan([as_task(task) for task in tasks]))
        broken = [trajectory for trajectory in found if trajectory.status == "error"]
        if broken:
            self.console.print(f"{len(broken)} attempts broke, the first: {broken[0].error}", markup=False)
        if found and len(broken) == len(found):
            raise CollectionBroken(f"all {len(found)} attempts broke; the first: {broken[0].error}")
        return found if self.config.save_intermediate else [without_observations(trajectory) for trajectory in found]

    def collect_single(self, task: Any) -> AgentTrajectory:
        """One attempt at one task by the first method, successful or not. Nothing is written."""
        return _in_loop(self._attempt(as_task(task), self.config.methods[0], 0, None))

    def plan(self, tasks: Sequence[AgentTask]) -> list[Chain]:
        """What is to be attempted. Raises ValueError if two tasks have one id."""
        twice = [name for name, num in Counter(task.id for task in tasks).items() if num > 1]
        if twice:
            raise ValueError(f"tasks: ids must differ, {len(twice)} occur more than once, such as {twice[0]!r}")
        return list(self._chains(tasks))

    def _chains(self, tasks: Sequence[AgentTask]) -> Iterator[Chain]:
        methods = self.config.methods
        for place, task in enumerate(tasks):
            for method in methods if self.config.spread == "all" else [methods[place % len(methods)]]:
                if method == "reflexion":
                    yield Chain(task, method, tuple(range(max(REFLEXION_ATTEMPTS, self.config.attempts))))
                else:
                    yield from (Chain(task, method, (attempt,)) for attempt in range(self.config.attempts))

    def _run(self, chains: Sequence[Chain]) -> list[AgentTrajectory]:
        with RunFile(self.path, self.setup()) if self.path else nullcontext() as file:
            done = file.done if file is not None else {}
            progress = Progress(sum(trajectory.success for trajectory in done.values()))
            with progress_stage(self.console, "collecting", len(chains)) as advance:

                def tell(trajectory: AgentTrajectory) -> None:
                    progress.add(trajectory)
                    if file is not None:
                        file.write(trajectory)
                    if progress.broken_only == self.config.num_workers < len(chains):
                        raise CollectionBroken(f"the first {progress.broken_only} attempts broke: {trajectory.error}")

                return _in_loop(
                    self._all(chains, done, tell, lambda: advance(1, f"collecting, {progress.solved} solved"))
                )

    def setup(self) -> dict[str, Any]:
        """What attempts in one file have in common."""
        limits = ("max_steps", "bad_replies", "max_observation", "reflect_after", "system_prompt")
        return {"agent": self.name, **self.details, **{name: vars(self.config)[name] for name in limits}}

    async def _all(
        self,
        chains: Sequence[Chain],
        done: dict[Key, AgentTrajectory],
        tell: Callable[[AgentTrajectory], None],
        finished: Callable[[], None],
    ) -> list[AgentTrajectory]:
        found: list[list[AgentTrajectory]] = [[] for _ in chains]
        waiting = iter(enumerate(chains))

        async def worker() -> None:
            for place, chain in waiting:  # the workers share the one iterator
                async for trajectory in self._chain(chain, done):
                    found[place].append(trajectory)
                    if trajectory.key not in done:
                        tell(trajectory)
                finished()

        await asyncio.gather(*(worker() for _ in range(min(self.config.num_workers, len(chains)))))
        return list(itertools.chain.from_iterable(found))

    async def _chain(self, chain: Chain, done: dict[Key, AgentTrajectory]) -> AsyncIterator[AgentTrajectory]:
        previous = None
        for attempt in chain.attempts:
            trajectory = done.get((chain.task.id, chain.method, self.config.seed, attempt))
            if trajectory is None:
                trajectory = await self._attempt(chain.task, chain.method, attempt, previous)
            elif trajectory.instruction != chain.task.instruction:
                raise TaskError(f"{self.path}: task {chain.task.id!r} asks something else there: give another file")
            yield trajectory
            if trajectory.success or trajectory.status == "error":
                return
            previous = trajectory

    async def _attempt(
        self, task: AgentTask, method: str, attempt: int, previous: AgentTrajectory | None
    ) -> AgentTrajectory:
        episode, time_limit = None, asyncio.timeout(self.config.task_timeout)
        # Whatever breaks here, but a user's mistake, is the infrastructure: recorded, and told by `attempts`.
        try:
            async with time_limit:
                episode = self._begin(task, method, attempt, previous)
                agent = self.agent.start(episode) if isinstance(self.agent, TaskAgent) else self.agent
                status, reason = await self._play(agent, episode)
        except TaskError:
            raise
        except LateAnswer as late:
            status, reason = "timeout", str(late)
        except TimeoutError as error:
            in_time = not time_limit.expired()
            limit = f"not done within {self.config.task_timeout:g} s"
            status, reason = ("error", described(error)) if in_time else ("timeout", limit)
        except Exception as error:
            status, reason = "error", described(error)
        if episode is not None:
            return episode.end(status, reason)
        return AgentTrajectory(
            task.id,
            task.instruction,
            [],
            method=method,
            agent=self.name,
            family=task.family,
            seed=self.config.seed,
            attempt=attempt,
            status=status,
            error=reason,
        )

    def _begin(self, task: AgentTask, method: str, attempt: int, previous: AgentTrajectory | None) -> Episode:
        return Episode(
            task,
            method,
            agent=self.name,
            seed=self.config.seed,
            attempt=attempt,
            max_steps=self.config.max_steps,
            limit=self.config.max_observation,
            previous=previous,
            system_prompt=self.config.system_prompt,
        )

    async def _play(self, agent: Agent | Runner, episode: Episode) -> tuple[str, str]:
        """Status and reason of the end."""
        try:
            if isinstance(agent, Runner):
                await in_thread(agent.run_episode, episode)
                return "finished", ""
            for _ in range(self.config.max_steps):
                if not episode.take(await self._reply(agent, episode)):
                    return "finished", ""
        except BadReply as bad:
            episode.cut_off = bad.text if isinstance(bad, CutOff) else ""
            return "bad_reply", f"{bad}: {bad.text!r:.200}" if bad.text else str(bad)
        except OutOfSteps as stop:
            return "max_steps", str(stop)
        return "max_steps", f"not done in {self.config.max_steps} steps"

    async def _reply(self, agent: Agent, episode: Episode) -> Message:
        """The agent's next message; one that cannot be run is asked for again while the attempt's budget lasts."""
        shown = view(episode, self.config.reflect_after)
        while True:
            try:
                said = checked(await self._ask(agent, shown, episode.tools))
                episode.count(prompt_tokens=said.prompt_tokens, completion_tokens=said.completion_tokens)
                return said.message
            except BadReply as bad:
                episode.count(prompt_tokens=bad.prompt_tokens, completion_tokens=bad.completion_tokens)
                if episode.figures["retries"] == self.config.bad_replies:
                    raise
                episode.count(retries=1)

    async def _ask(self, agent: Agent, messages: list[Message], tools: list[dict[str, Any]]) -> Any:
        """Sync agents answer in a thread, so that they neither hold up the others nor outlast their time."""
        time_limit = asyncio.timeout(self.config.step_timeout)
        try:
            async with time_limit:
                if inspect.iscoroutinefunction(agent.act):
                    return await agent.act(messages, tools)
                return await in_thread(agent.act, messages, tools)
        except TimeoutError as error:
            if not time_limit.expired():
                raise  # the agent's own, such as a socket's
            raise LateAnswer(f"no answer within {self.config.step_timeout:g} s") from error


def checked(said: Any) -> Said:
    """What an agent returned. Raises BadReply for anything but a message that can be run and written down."""
    answer = said if isinstance(said, Said) else Said(said)
    costs = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    given: Any = answer.message
    if isinstance(given, str):
        given = {"role": "assistant", "content": given}
    if not isinstance(given, dict) or given.get("role") != "assistant":
        raise BadReply("an agent must return an assistant message or its text", repr(given), **costs)
    content, calls = given.get("content") or "", given.get("tool_calls") or []
    fault = _fault(content, calls)
    if fault:
        raise BadReply(fault, repr(given), **costs)
    message: Message = {"role": "assistant", "content": content}
    return Said({**message, "tool_calls": calls} if calls else message, **costs)


def _fault(content: Any, calls: Any) -> str:
    """What is wrong with the parts of a message, or ""."""
    if not isinstance(content, str) or not isinstance(calls, list):
        return "content must be text, and tool_calls a list"
    if not content and not calls:
        return "the answer is empty"
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            return "a tool call needs a function with a name"
        if not isinstance(function.get("arguments"), dict):
            return "a tool call needs an object of arguments"
    try:
        json.dumps([content, calls], ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:  # a set, NaN, half a surrogate pair
        return f"the answer is not JSON: {error}"
    return ""


def without_observations(trajectory: AgentTrajectory) -> AgentTrajectory:
    """The trajectory with empty observations."""
    steps = [replace(step, observation="") for step in trajectory.steps]
    messages: list[Message] = [
        {**message, "content": ""} if message["role"] == "tool" else message for message in trajectory.messages
    ]
    return replace(trajectory, steps=steps, messages=messages)


def _in_loop(work: Any) -> Any:
    """Run a coroutine to its end, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
