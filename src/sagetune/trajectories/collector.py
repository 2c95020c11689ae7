"""TrajectoryCollector: an agent acts on tasks; an attempt is on disk as soon as it is over. The reference's class.

All attempts run in one asyncio loop, `num_workers` at a time. An attempt is known by (task, prompting method, seed,
attempt): a rerun with the same file makes only those that are missing, or that the infrastructure broke.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from sagetune.config.trajectories import CollectorConfig
from sagetune.progress import progress_stage
from sagetune.sample import Message
from sagetune.trajectories.agents import Agent, Runner, Said, TaskAgent, as_agent
from sagetune.trajectories.environment import AgentTask
from sagetune.trajectories.episode import BadReply, Episode, OutOfSteps
from sagetune.trajectories.prompting import view
from sagetune.trajectories.record import AgentTrajectory
from sagetune.trajectories.runs import RunFile
from sagetune.trajectories.tasks import as_task

REFLEXION_ATTEMPTS = 2


class LateAnswer(Exception):
    """An agent took too long for one answer."""


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
    attempt, failures too, and from which a stopped collection goes on. name: what the agent is called there.
    """

    def __init__(
        self,
        agent: Any,
        config: CollectorConfig | None = None,
        *,
        path: str | Path | None = None,
        name: str | None = None,
        console: Console | None = None,
    ) -> None:
        self.agent = as_agent(agent)
        self.config = config or CollectorConfig()
        self.path = Path(path) if path is not None else None
        self.name = name or type(agent).__name__
        self.console = console or Console(stderr=True)

    def collect(self, tasks: Sequence[Any]) -> list[AgentTrajectory]:
        """The attempts at `tasks`, in their order; with require_success the successful ones.

        tasks: AgentTask, a task or sample of the embedded world, or a dict with instruction and answer. Raises
        ValueError for a bad task, and RuntimeError if the infrastructure broke every attempt.
        """
        found = self.attempts(tasks)
        kept = [trajectory for trajectory in found if trajectory.success or not self.config.require_success]
        return kept if self.config.save_intermediate else [without_observations(trajectory) for trajectory in kept]

    def attempts(self, tasks: Sequence[Any]) -> list[AgentTrajectory]:
        """`collect`, with the failures."""
        found = self._run(self.plan([as_task(task) for task in tasks]))
        broken = [trajectory for trajectory in found if trajectory.status == "error"]
        if broken:
            self.console.print(f"{len(broken)} attempts broke, the first: {broken[0].error}", markup=False)
        if found and len(broken) == len(found):
            raise RuntimeError(f"all {len(found)} attempts broke; the first: {broken[0].error}")
        return found

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
        with RunFile(self.path, self.name, self.config.seed) if self.path else nullcontext() as file:
            done = dict(file.done) if file is not None else {}
            successes = sum(trajectory.success for trajectory in done.values())

            def write(trajectory: AgentTrajectory) -> None:
                nonlocal successes
                successes += trajectory.success
                if file is not None:
                    shown = trajectory if self.config.save_intermediate else without_observations(trajectory)
                    file.write(shown)

            with progress_stage(self.console, "collecting", len(chains)) as advance:

                def finished() -> None:
                    advance(1, f"collecting, {successes} solved")

                return _in_loop(self._all(chains, done, write, finished))

    async def _all(
        self,
        chains: Sequence[Chain],
        done: dict[tuple[str, str, int, int], AgentTrajectory],
        write: Callable[[AgentTrajectory], None],
        finished: Callable[[], None],
    ) -> list[AgentTrajectory]:
        found: list[list[AgentTrajectory]] = [[] for _ in chains]
        waiting = iter(enumerate(chains))

        async def worker() -> None:
            for place, chain in waiting:  # the workers share the one iterator
                async for trajectory in self._chain(chain, done):
                    found[place].append(trajectory)
                    if trajectory.key not in done:
                        write(trajectory)
                finished()

        await asyncio.gather(*(worker() for _ in range(min(self.config.num_workers, len(chains)))))
        return list(itertools.chain.from_iterable(found))

    async def _chain(
        self, chain: Chain, done: dict[tuple[str, str, int, int], AgentTrajectory]
    ) -> AsyncIterator[AgentTrajectory]:
        previous = None
        for attempt in chain.attempts:
            trajectory = done.get((chain.task.id, chain.method, self.config.seed, attempt))
            if trajectory is None:
                trajectory = await self._attempt(chain.task, chain.method, attempt, previous)
            yield trajectory
            if trajectory.success or trajectory.status == "error":
                return
            previous = trajectory

    async def _attempt(
        self, task: AgentTask, method: str, attempt: int, previous: AgentTrajectory | None
    ) -> AgentTrajectory:
        def begin() -> Episode:
            return Episode(
                task,
                method,
                agent=self.name,
                seed=self.config.seed,
                attempt=attempt,
                max_steps=self.config.max_steps,
                limit=self.config.max_observation,
                previous=previous,
            )

        # Whatever breaks from here on, but a user's mistake, is the infrastructure: recorded, and told by `attempts`.
        try:
            episode = begin()
        except ValueError:
            raise
        except Exception as error:
            return AgentTrajectory(
                task.id,
                task.instruction,
                [],
                method=method,
                agent=self.name,
                family=task.family,
                seed=self.config.seed,
                attempt=attempt,
                status="error",
                error=f"{type(error).__name__}: {error}",
            )
        agent = self.agent.start(episode) if isinstance(self.agent, TaskAgent) else self.agent
        try:
            async with asyncio.timeout(self.config.task_timeout):
                status, reason = await self._play(agent, episode)
            return episode.end(status, reason)
        except LateAnswer as late:
            return episode.end("timeout", str(late))
        except TimeoutError:
            return episode.end("timeout", f"not done within {self.config.task_timeout:g} s")
        except Exception as error:
            return episode.end("error", f"{type(error).__name__}: {error}")

    async def _play(self, agent: Agent | Runner, episode: Episode) -> tuple[str, str]:
        """Status and reason of the end."""
        try:
            if isinstance(agent, Runner):
                await asyncio.to_thread(agent.run_episode, episode)
                return "finished", ""
            for _ in range(self.config.max_steps):
                if not episode.take(await self._reply(agent, episode)):
                    return "finished", ""
        except BadReply as bad:
            return "bad_reply", f"{bad}: {bad.text!r:.200}" if bad.text else str(bad)
        except OutOfSteps:
            pass
        return "max_steps", f"not done in {self.config.max_steps} steps"

    async def _reply(self, agent: Agent, episode: Episode) -> Message:
        """The agent's next message; one that cannot be run is asked for again while the attempt's budget lasts."""
        shown = view(episode, self.config.system_prompt, self.config.reflect_after)
        while True:
            try:
                said = await self._ask(agent, shown, episode.tools)
                break
            except BadReply as bad:
                episode.count(prompt_tokens=bad.prompt_tokens, completion_tokens=bad.completion_tokens)
                if episode.figures["retries"] == self.config.bad_replies:
                    raise
                episode.count(retries=1)
        if not isinstance(said, Said):
            return said
        episode.count(prompt_tokens=said.prompt_tokens, completion_tokens=said.completion_tokens)
        return said.message

    async def _ask(self, agent: Agent, messages: list[Message], tools: list[dict[str, Any]]) -> Message | Said:
        """Sync agents answer in a thread, so that they neither hold up the others nor outlast their time."""
        if inspect.iscoroutinefunction(agent.act):
            answer: Awaitable[Any] = agent.act(messages, tools)
        else:
            answer = asyncio.to_thread(agent.act, messages, tools)
        try:
            return checked(await asyncio.wait_for(answer, self.config.step_timeout))
        except TimeoutError as late:
            raise LateAnswer(f"no answer within {self.config.step_timeout:g} s") from late


def checked(said: Any) -> Message | Said:
    """What an agent returned, as a message. Raises BadReply for anything that is none."""
    if isinstance(said, Said):
        return said
    if isinstance(said, str):
        said = {"role": "assistant", "content": said}
    if not isinstance(said, dict) or said.get("role") != "assistant":
        raise BadReply("an agent must return an assistant message or its text", repr(said))
    content = said.get("content") or ""
    calls = said.get("tool_calls") or []
    if not content and not calls:
        raise BadReply("the answer is empty")
    for call in calls:
        function = call.get("function", {}) if isinstance(call, dict) else {}
        if not isinstance(function.get("name"), str) or not isinstance(function.get("arguments"), dict):
            raise BadReply("a tool call needs a name and an object of arguments", repr(call))
    message: Message = {"role": "assistant", "content": content}
    return {**message, "tool_calls": calls} if calls else message


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
