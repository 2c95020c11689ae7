"""Agents of smolagents and LangChain, driven by scripted models, act in the embedded world and are recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sagetune import world
from sagetune.sample import Message
from sagetune.trajectories.agents import as_agent, turns_of
from sagetune.trajectories.environment import AgentTask, StepResult, WorldEnvironment
from sagetune.trajectories.episode import Episode, OutOfSteps
from sagetune.trajectories.frameworks import LangChainAgent, SmolagentsAgent, framework_of

pytest.importorskip("smolagents", reason="the extra `agents` is not installed")
pytest.importorskip("langchain", reason="the extra `agents` is not installed")

import smolagents
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from smolagents.models import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
)
from smolagents.monitoring import TokenUsage

Turn = tuple[str, list[tuple[str, dict[str, Any]]]]
"""What a scripted model says: text, and calls."""


def task_of(family: str, number: int = 0) -> AgentTask:
    task = list(world.tasks(family, "train", number + 1, seed=0))[number]
    return AgentTask(task.id, task.user, lambda: WorldEnvironment(task), family, tuple(world.expert(task)))


def gold_turns(task: AgentTask) -> list[Turn]:
    """The expert's turns, each with a thought where it calls."""
    turns = []
    for number, message in enumerate(turns_of(task.gold)):
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])]
        turns.append((f"thought {number}" if calls else message["content"], calls))
    return turns


class SmolModel(smolagents.Model):
    """Says the given turns; a turn without a call is said by smolagents' tool final_answer."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        super().__init__(model_id="scripted")
        self.turns = list(turns)
        self.offered: list[list[str]] = []

    def generate(self, messages: Any, tools_to_call_from: Any = None, **options: Any) -> ChatMessage:
        self.offered.append([tool.name for tool in tools_to_call_from or []])
        text, calls = self.turns.pop(0)
        said = [
            ChatMessageToolCall(
                function=ChatMessageToolCallFunction(name=name, arguments=arguments), id=f"c{number}", type="function"
            )
            for number, (name, arguments) in enumerate(calls or [("final_answer", {"answer": text})])
        ]
        return ChatMessage(MessageRole.ASSISTANT, text if calls else None, said, token_usage=TokenUsage(10, 2))


class ChatModel(FakeMessagesListChatModel):
    """LangChain's scripted model, which also takes tools."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self


def smol(turns: Sequence[Turn], **options: Any) -> Callable[[list[Any]], Any]:
    return lambda tools: smolagents.ToolCallingAgent(tools, SmolModel(turns), verbosity_level=-1, **options)


def lang(turns: Sequence[Turn]) -> Callable[[list[Any]], Any]:
    usage = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
    replies: list[Any] = []
    for turn, (text, calls) in enumerate(turns):
        said = [{"name": name, "args": args, "id": f"c{turn}{number}"} for number, (name, args) in enumerate(calls)]
        replies.append(AIMessage(text, tool_calls=said, usage_metadata=usage))
    return lambda tools: create_agent(ChatModel(responses=replies), tools)


KINDS: dict[str, tuple[Any, Any]] = {"smolagents": (SmolagentsAgent, smol), "langchain": (LangChainAgent, lang)}
each_kind = pytest.mark.parametrize(("kind", "make"), KINDS.values(), ids=KINDS.keys())


@each_kind
@pytest.mark.parametrize("family", ["planning", "timing", "tool_selection"])
@pytest.mark.parametrize("number", range(3))
def test_the_experts_words_through_a_framework_solve_the_task(kind: Any, make: Any, family: str, number: int) -> None:
    task = task_of(family, number)
    turns = gold_turns(task)
    episode = Episode(task, "react")
    kind(make(turns)).run_episode(episode)
    record = episode.end("finished")
    assert record.success
    said = [(text, call) for text, calls in turns for call in calls or [None]]
    assert [step.action for step in record.steps] == [call[0] if call else "finish" for _, call in said]
    # Of parallel calls, which are recorded one by one, the first has the words.
    assert {step.thought for step in record.steps} - {""} == {text for text, calls in turns if calls}
    assert record.figures["prompt_tokens"] == 10 * len(turns)
    assert record.figures["completion_tokens"] == 2 * len(turns)


@each_kind
def test_parallel_calls_run_in_their_order(kind: Any, make: Any) -> None:
    task = task_of("planning")
    call = next(calls[0] for _, calls in gold_turns(task) if calls)
    episode = Episode(task, "plain")
    kind(make([("both", [call, (call[0], {**call[1], "extra": 1})]), ("over", [])])).run_episode(episode)
    steps = episode.end("finished").steps
    assert steps[0].thought == "both"
    assert steps[-1].action_input == {"answer": "over"}
    assert steps[0].action_input == call[1]


@each_kind
def test_what_stands_behind_the_last_call_does_not_run(kind: Any, make: Any) -> None:
    task = task_of("tool_selection")
    call = next(calls[0] for _, calls in gold_turns(task) if calls)
    episode = Episode(task, "plain")
    kind(make([("three times", [call] * 3)])).run_episode(episode)
    assert len(episode.end("finished").steps) == 1


class Broken(WorldEnvironment):
    def step(self, call: Any) -> StepResult:
        raise OSError("the disk is full")


@each_kind
def test_a_defect_of_the_world_reaches_the_collector_and_not_the_model(kind: Any, make: Any) -> None:
    task = next(iter(world.tasks("planning", "train", 1, seed=0)))
    broken = AgentTask(task.id, task.user, lambda: Broken(task))
    turns = gold_turns(task_of("planning"))
    with pytest.raises(OSError, match="the disk is full"):
        kind(make(turns)).run_episode(Episode(broken, "plain"))


@each_kind
def test_the_turns_of_an_episode_hold_for_a_framework(kind: Any, make: Any) -> None:
    task = task_of("planning")
    call = next(calls[0] for _, calls in gold_turns(task) if calls)
    episode = Episode(task, "plain", max_steps=2)
    with pytest.raises(OutOfSteps, match="after 2 steps"):
        kind(make([("again", [call])] * 5)).run_episode(episode)
    assert len(episode.end("max_steps").steps) == 2


def test_the_own_limit_of_smolagents_is_out_of_steps() -> None:
    task = task_of("planning")
    call = next(calls[0] for _, calls in gold_turns(task) if calls)
    agent = SmolagentsAgent(smol([*[("again", [call])] * 2, ("a forced answer", [])], max_steps=2))
    episode = Episode(task, "plain")
    with pytest.raises(OutOfSteps, match="no answer after 2 steps"):
        agent.run_episode(episode)
    assert episode.num_turns == 2
    assert episode.figures["prompt_tokens"] == 30


def test_the_own_limit_of_langgraph_is_out_of_steps() -> None:
    task = task_of("planning")
    call = next(calls[0] for _, calls in gold_turns(task) if calls)
    make = lang([("again", [call])] * 9)
    with pytest.raises(OutOfSteps, match="LangGraph"):
        LangChainAgent(lambda tools: make(tools).with_config(recursion_limit=4)).run_episode(Episode(task, "plain"))


@each_kind
def test_a_call_that_the_framework_refuses_goes_back_to_the_model(kind: Any, make: Any) -> None:
    task = task_of("planning")
    episode = Episode(task, "plain")
    kind(make([("try", [("no_such_tool", {})]), *gold_turns(task)])).run_episode(episode)
    assert episode.end("finished").success


class Talkative(WorldEnvironment):
    """Its user asks once more."""

    def reset(self) -> list[Message]:
        self._asked = False
        return [{"role": "system", "content": "Be brief."}, *super().reset()]

    def reply(self, content: str) -> str | None:
        answer, self._asked = (None if self._asked else f"Why {content}?"), True
        return answer


@each_kind
def test_a_user_who_answers_keeps_the_conversation_going(kind: Any, make: Any) -> None:
    task = next(iter(world.tasks("planning", "train", 1, seed=0)))
    episode = Episode(AgentTask(task.id, task.user, lambda: Talkative(task)), "plain")
    kind(make([("yes", []), ("so", [])])).run_episode(episode)
    assert [message["content"] for message in episode.messages[2:]] == ["yes", "Why yes?", "so"]


def test_a_smolagents_agent_is_taken_as_it_is_and_its_tools_are_swapped() -> None:
    @smolagents.tool
    def own_tool(word: str) -> str:
        """A tool of the user's own.

        Args:
            word: anything.
        """
        return word

    task = task_of("planning")
    model = SmolModel([*gold_turns(task), *gold_turns(task)])
    given = smolagents.ToolCallingAgent([own_tool], model, verbosity_level=-1)
    agent = as_agent(given)
    for _ in range(2):
        episode = Episode(task, "plain")
        agent.run_episode(episode)  # type: ignore[union-attr]
        assert episode.end("finished").success
    names = {tool["function"]["name"] for tool in episode.tools}
    assert all(set(offered) == names | {"final_answer"} for offered in model.offered)
    assert "own_tool" in given.tools
    assert not given.memory.steps


def test_what_cannot_be_recorded_is_refused_with_the_way_out() -> None:
    model = SmolModel([])
    with pytest.raises(ValueError, match="a CodeAgent does is code"):
        as_agent(smolagents.CodeAgent([], model))
    helper = smolagents.ToolCallingAgent([], model, name="helper", description="helps")
    with pytest.raises(ValueError, match="managed agents"):
        as_agent(smolagents.ToolCallingAgent([], model, managed_agents=[helper]))
    with pytest.raises(ValueError, match=r"LangChainAgent\(make\)"):
        as_agent(create_agent(ChatModel(responses=[]), []))
    assert framework_of(json) is None
