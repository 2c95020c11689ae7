"""One attempt of an agent at a task: the conversation as it grows, and the calls that it leads to."""

from __future__ import annotations

import time
from typing import Any

from sagetune.sample import FunctionCall, Message, ToolCall
from sagetune.trajectories.environment import AgentTask, StepResult
from sagetune.trajectories.record import AgentTrajectory, steps_of

CUT_MARK = " ... [{} characters left out]"


class BadReply(ValueError):
    """The agent wrote something that cannot be run. text: what it wrote; it cost tokens all the same."""

    def __init__(self, reason: str, text: str = "", *, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        super().__init__(reason)
        self.text = text
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens


class OutOfSteps(Exception):
    """An agent that runs its own loop has used up the turns it is given."""


class Episode:
    """An attempt. `messages` is the conversation so far; the agent sees it with the method's own words around it.

    limit: characters of an observation that are kept; the rest is replaced by a mark. max_turns: messages of an agent
    that runs its own loop, by `call`.
    """

    def __init__(
        self,
        task: AgentTask,
        method: str,
        *,
        agent: str = "",
        seed: int = 0,
        attempt: int = 0,
        limit: int = 4_000,
        max_turns: int | None = None,
    ) -> None:
        self.task = task
        self.method = method
        self.agent = agent
        self.seed = seed
        self.attempt = attempt
        self.figures: dict[str, float] = {"seconds": 0.0, "retries": 0, "refused_calls": 0}
        self.num_turns = 0
        """Messages of the agent so far."""
        self._limit = limit
        self._max_turns = max_turns
        self._rewards: list[float] = []
        self._cut: dict[str, str] = {}
        self._started = time.perf_counter()
        self._environment = task.make()
        self.messages: list[Message] = list(self._environment.reset())

    @property
    def tools(self) -> list[dict[str, Any]]:
        return self._environment.tools

    def take(self, message: Message) -> bool:
        """Add the agent's message and what its calls, or else the user, answer; whether the episode goes on."""
        self.num_turns += 1
        calls = message.get("tool_calls", [])
        numbered = [self._numbered(number, call["function"]) for number, call in enumerate(calls)]
        said: Message = {"role": "assistant", "content": message["content"]}
        self.messages.append({**said, "tool_calls": numbered} if numbered else said)
        if not numbered:
            self._rewards.append(0.0)
            return self._go_on(self._environment.reply(message["content"]))
        return not any([self._run(call).done for call in numbered])  # all calls of a message run

    def call(self, name: str, arguments: dict[str, Any], thought: str = "") -> StepResult:
        """`take` for an agent that runs its own loop: one call. Raises OutOfSteps where max_turns are used up."""
        if self._max_turns is not None and self.num_turns >= self._max_turns:
            raise OutOfSteps(f"the task is not over after {self._max_turns} turns")
        call = self._numbered(0, {"name": name, "arguments": arguments})
        self.num_turns += 1
        self.messages.append({"role": "assistant", "content": thought, "tool_calls": [call]})
        return self._run(call)

    def count(self, **figures: float) -> None:
        """Add to the costs."""
        for name, value in figures.items():
            self.figures[name] = self.figures.get(name, 0) + value

    def end(self, status: str, error: str = "", *, success_at: float = 1.0) -> AgentTrajectory:
        """Close the environment; the record. Only an attempt that ended by itself is scored."""
        score = self._environment.score(self._whole()) if status == "finished" else 0.0
        self._environment.close()
        self.figures["seconds"] = round(time.perf_counter() - self._started, 4)
        steps = steps_of(self.messages)
        for step, reward in zip(steps, self._rewards, strict=True):
            step.reward = reward
        if steps:
            steps[-1].reward += score
        return AgentTrajectory(
            self.task.id,
            self.task.instruction,
            steps,
            success=status == "finished" and score >= success_at,
            total_reward=sum(step.reward for step in steps),
            method=self.method,
            agent=self.agent,
            family=self.task.family,
            seed=self.seed,
            attempt=self.attempt,
            status=status,
            error=error,
            messages=self.messages,
            tools=self.tools,
            figures=self.figures,
        )

    def _whole(self) -> list[Message]:
        """The messages with their observations uncut: an environment may compare them with its own."""
        return [
            {**message, "content": self._cut.get(message.get("tool_call_id", ""), message["content"])}
            for message in self.messages
        ]

    def _go_on(self, answer: str | None) -> bool:
        if answer is not None:
            self.messages.append({"role": "user", "content": answer})
        return answer is not None

    def _numbered(self, place: int, function: FunctionCall) -> ToolCall:
        number = sum(len(message.get("tool_calls", [])) for message in self.messages) + place + 1
        return {"id": f"call_{number}", "type": "function", "function": function}

    def _run(self, call: ToolCall) -> StepResult:
        result = self._environment.step(call)
        self._rewards.append(result.reward)
        self.figures["refused_calls"] += result.failed
        name = call["function"]["name"]
        seen = shortened(result.observation, self._limit)
        if seen != result.observation:
            self._cut[call["id"]] = result.observation
        self.messages.append({"role": "tool", "content": seen, "tool_call_id": call["id"], "name": name})
        return result


def shortened(observation: str, limit: int) -> str:
    """At most `limit` characters of it, and then a mark that says how many are missing."""
    if len(observation) <= limit:
        return observation
    return observation[:limit] + CUT_MARK.format(len(observation) - limit)
