"""What counts as an agent, and the agents that need no model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sagetune import world
from sagetune.sample import Message
from sagetune.trajectories.agents import Agent, CallableAgent, ReplayAgent, Runner, Said, Script, TaskAgent, as_agent
from sagetune.trajectories.environment import AgentTask, WorldEnvironment
from sagetune.trajectories.episode import BadReply, Episode, OutOfSteps
from sagetune.trajectories.record import AgentTrajectory

ANSWER: Message = {"role": "assistant", "content": "done"}


def planning_task() -> AgentTask:
    """A task of several calls with its expert."""
    task = next(iter(world.tasks("planning", "train", 1, seed=0)))
    return AgentTask(task.id, task.user, lambda: WorldEnvironment(task), gold=tuple(world.expert(task)))


class Loop:
    def run_episode(self, episode: Episode) -> None: ...


def test_an_agent_stays_what_it_is() -> None:
    for agent in (Script([ANSWER]), ReplayAgent([]), Loop()):
        assert as_agent(agent) is agent
    kinds = [isinstance(Script([]), Agent), isinstance(ReplayAgent([]), TaskAgent), isinstance(Loop(), Runner)]
    assert all(kinds)


def test_a_function_becomes_an_agent() -> None:
    agent = as_agent(lambda messages, tools: ANSWER)
    assert isinstance(agent, CallableAgent)
    assert agent.act([], []) == ANSWER


def test_an_async_function_becomes_an_agent() -> None:
    async def answer(messages: list[Message], tools: list[dict[str, Any]]) -> Said:
        return Said(ANSWER, 3, 1)

    async def asked() -> Said:
        return await as_agent(answer).act([], [])

    assert asyncio.run(asked()) == (ANSWER, 3, 1)


@pytest.mark.parametrize("given", ["expert", 3, None, Script, object()])
def test_anything_else_is_refused_with_what_is_accepted(given: Any) -> None:
    with pytest.raises(ValueError, match=r"expected something with act|got the class Script: call it"):
        as_agent(given)


def test_a_replayed_task_without_a_record_is_an_error() -> None:
    with pytest.raises(ValueError, match="there is no trajectory of attempt 0 of method"):
        ReplayAgent([AgentTrajectory("other", "", [])]).start(Episode(planning_task(), "plain"))


def test_a_script_that_is_over_is_a_bad_reply() -> None:
    with pytest.raises(BadReply, match="is over"):
        Script([]).act([], [])


def test_a_bad_reply_knows_what_it_cost() -> None:
    error = BadReply("no JSON", "{", prompt_tokens=5, completion_tokens=1)
    assert (str(error), error.text, error.prompt_tokens, error.completion_tokens) == ("no JSON", "{", 5, 1)


def test_an_agent_with_a_loop_of_its_own_is_held_to_its_turns() -> None:
    episode = Episode(planning_task(), "plain", max_steps=2)
    for _ in range(2):
        episode.call("nothing", {})
    with pytest.raises(OutOfSteps, match="after 2 steps"):
        episode.call("nothing", {})
    assert episode.num_turns == 2
