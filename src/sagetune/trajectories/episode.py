"""One attempt of an agent at a task: the conversation as it grows, and the calls that it leads to."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from sagetune.sample import FunctionCall, Message, ToolCall
from sagetune.trajectories.environment import AgentTask, StepResult
from sagetune.trajectories.record import AgentTrajectory, steps_of

RETRY = "That did not solve the task. Say in one sentence what went wrong, then start anew."
"""What the user says after a failed attempt. It stays in the trajectory: without it the next attempt makes no sense."""
CUT_MARK = " ... [{} characters left out]"


class OutOfSteps(Exception):
    """An agent that runs its own loop has taken all the steps that it may."""


class BadReply(ValueError):
    """The agent wrote something that cannot be run. text: what it wrote; it cost tokens all the same."""

    def __init__(self, reason: str, text: str = "", *, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        super().__init__(reason)
        self.text = text
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens


class CutOff(BadReply):
    """The reply was longer than one may be; text: as far as it went."""


class Episode:
    """An attempt. `messages` is its conversation so far; the agent sees it behind the attempts that failed before.

    max_steps: messages of the agent at most, None = any number; `call` minds it. limit: characters of an observation
    that are kept; the rest is replaced by a mark. previous: the failed attempt that came before, for reflexion.
    system_prompt: what the agent is told beside its method's words; see `sagetune.trajectories.prompting.view`.
    """

    def __init__(
        self,
        task: AgentTask,
        method: str,
        *,
        agent: str = "",
        seed: int = 0,
        attempt: int = 0,
        max_steps: int | None = None,
        limit: int = 4_000,
        previous: AgentTrajectory | None = None,
        system_prompt: str | None = None,
    ) -> None:
        self.task = task
        self.method = method
        self.agent = agent
        self.seed = seed
        self.attempt = attempt
        self.max_steps = max_steps
        self.previous = previous
        self.system_prompt = system_prompt
        self.figures: dict[str, float] = {"seconds": 0.0, "retries": 0, "refused_calls": 0}
        self.cut_off = ""
        """The reply that ended the attempt because it was too long."""
        self.num_turns = 0
        """Messages of the agent so far."""
        self._limit = limit
        self._rewards: list[float] = []
        self._cut: dict[str, str] = {}
        self._over = False
        self._lock = threading.Lock()  # an agent with a loop of its own acts in a thread
        self._started = time.perf_counter()
        self._environment = task.make()
        self.messages: list[Message] = list(self._environment.reset())
        self._opening = len(self.messages)
        self._before = _told(previous) if previous is not None else []

    @property
    def tools(self) -> list[dict[str, Any]]:
        return self._environment.tools

    @property
    def own_from(self) -> int:
        """Place in `conversation` from which it is this attempt's own."""
        return len(self._before) or self._opening

    @property
    def conversation(self) -> list[Message]:
        """The failed attempts before this one, if there are any, and this one."""
        return [*self._before, *self.messages[self._opening :]] if self._before else list(self.messages)

    def take(self, message: Message) -> bool:
        """Add the agent's message and what its calls, or else the user, answer; whether the episode goes on."""
        calls = message.get("tool_calls", [])
        numbered = [self._numbered(number, call["function"]) for number, call in enumerate(calls)]
        said: Message = {"role": "assistant", "content": message["content"]}
        self._add({**said, "tool_calls": numbered} if numbered else said)
        if not numbered:
            self._rewards.append(0.0)
            return self._go_on(self._environment.reply(message["content"]))
        return not any([self._run(call).done for call in numbered])  # all calls of a message run

    def call(self, name: str, arguments: dict[str, Any], thought: str = "") -> StepResult:
        """`take` for an agent that runs its own loop: one call. Raises OutOfSteps where max_steps are used up."""
        if self.max_steps is not None and self.num_turns >= self.max_steps:
            raise OutOfSteps(f"the task is not over after {self.max_steps} steps")
        call = self._numbered(0, {"name": name, "arguments": arguments})
        self._add({"role": "assistant", "content": thought, "tool_calls": [call]})
        return self._run(call)

    def count(self, **figures: float) -> None:
        """Add to the costs."""
        for name, value in figures.items():
            self.figures[name] = self.figures.get(name, 0) + value

    def end(self, status: str, error: str = "") -> AgentTrajectory:
        """Close the environment; the record. Only an attempt that ended by itself is scored, 1 is a success."""
        with self._lock:
            self._over = True
        score, status, error = self._judged(status, error)
        self.figures["seconds"] = round(time.perf_counter() - self._started, 4)
        steps = steps_of(self.messages)
        for step, reward in zip(steps, itertools.chain(self._rewards, itertools.repeat(0.0)), strict=False):
            step.reward = reward  # a call that broke earned nothing
        if steps:
            steps[-1].reward += score
        return AgentTrajectory(
            self.task.id,
            self.task.instruction,
            steps,
            success=status == "finished" and score >= 1,
            total_reward=sum(step.reward for step in steps),
            method=self.method,
            agent=self.agent,
            family=self.task.family,
            seed=self.seed,
            attempt=self.attempt,
            status=status,
            error=error,
            cut_off=self.cut_off,
            messages=self.conversation,
            own_from=self.own_from,
            tools=self.tools,
            figures=self.figures,
        )

    def _judged(self, status: str, error: str) -> tuple[float, str, str]:
        """Score, status and reason; an environment that cannot judge or close breaks the attempt."""
        try:
            score = self._environment.score(self._whole()) if status == "finished" else 0.0
            self._environment.close()
        except Exception as broken:  # the infrastructure's, as in the collector
            return 0.0, "error", described(broken)
        return score, status, error

    def _add(self, message: Message) -> None:
        """Add a message, unless the attempt is over: an agent with its own loop can outlive its time in its thread."""
        with self._lock:
            if self._over:
                raise RuntimeError(f"the attempt at {self.task.id} is over")
            self.messages.append(message)
            self.num_turns += message["role"] == "assistant"

    def _whole(self) -> list[Message]:
        """The messages with their observations uncut: an environment may compare them with its own."""
        return [
            {**message, "content": self._cut.get(message.get("tool_call_id", ""), message["content"])}
            for message in self.messages
        ]

    def _go_on(self, answer: str | None) -> bool:
        if answer is not None:
            self._add({"role": "user", "content": answer})
        return answer is not None

    def _numbered(self, place: int, function: FunctionCall) -> ToolCall:
        number = sum(len(message.get("tool_calls", [])) for message in self.conversation) + place + 1
        return {"id": f"call_{number}", "type": "function", "function": function}

    def _run(self, call: ToolCall) -> StepResult:
        result = self._environment.step(call)
        name = call["function"]["name"]
        # Half a surrogate pair can be in what a tool returns, and in no file.
        seen = shortened(result.observation, self._limit).encode("utf-8", "replace").decode()
        if seen != result.observation:
            self._cut[call["id"]] = result.observation
        self._add({"role": "tool", "content": seen, "tool_call_id": call["id"], "name": name})
        self._rewards.append(result.reward)
        self.figures["refused_calls"] += result.failed
        return result


def _told(previous: AgentTrajectory) -> list[Message]:
    """A failed attempt as the beginning of the next one: seen, not learnt from."""
    turns: list[Message] = [
        {**message, "loss": False} if message["role"] == "assistant" else message for message in previous.messages
    ]
    return [*turns, {"role": "user", "content": RETRY}]


def described(error: BaseException) -> str:
    """What a record says of an exception."""
    return f"{type(error).__name__}: {error}"


def shortened(observation: str, limit: int) -> str:
    """At most `limit` characters of it, and then a mark that says how many are missing."""
    if len(observation) <= limit:
        return observation
    return observation[:limit] + CUT_MARK.format(len(observation) - limit)
