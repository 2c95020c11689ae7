"""Agents of smolagents and LangChain, which run loops of their own: episode -> their tools, their words -> episode.

A tool of theirs calls `episode.call`, one at a time, so a message with parallel calls is recorded as several. Calls
that the framework itself refuses (an unknown tool, a missing argument) never reach the episode; smolagents says how
many there were, and they count as retries.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from typing import Any

from sagetune.evaluation.calls import render_reply
from sagetune.trajectories.episode import Episode, OutOfSteps
from sagetune.trajectories.prompting import view

PACKAGES = {
    "smolagents": "smolagents",
    "langchain": "langchain",
    "langchain_core": "langchain",
    "langgraph": "langchain",
}
"""Top-level module -> framework."""


class Stop(BaseException):
    """Ends a framework's loop from within one of its tools.

    No Exception, because frameworks hand those to the model as an observation. error: what the episode raised.
    """

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("the task is over")
        self.error = error


class Calls:
    """The episode as the tools of a framework see it: one call at a time, until the task is over."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._lock = threading.Lock()
        self._stop: Stop | None = None
        self.thought = ""
        """What the model wrote before its next call."""

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """The observation. Raises Stop once the task is over or broken."""
        with self._lock:
            if self._stop is not None:  # a parallel call of the same message
                raise self._stop
            thought, self.thought = self.thought, ""
            try:
                result = self._episode.call(name, arguments, thought)
            except Exception as error:  # whatever it is, the collector has to see it and not the model
                self._stop = Stop(error)
                raise self._stop from error
            if result.done:
                self._stop = Stop()
                raise self._stop
            return result.observation


class SmolagentsAgent:
    """A smolagents ToolCallingAgent. make: builds it from the episode's tools, `make(tools) -> agent`."""

    def __init__(self, make: Callable[[list[Any]], Any]) -> None:
        self._make = make

    @classmethod
    def around(cls, agent: Any) -> SmolagentsAgent:
        """The agent's copies with the episode's tools in place of its own. Its model is shared by them all."""
        _check_smolagents(agent)
        return cls(lambda tools: _copy_with_tools(agent, tools))

    def run_episode(self, episode: Episode) -> None:
        """Run it until the task is over. Raises OutOfSteps at its own max_steps."""
        calls = Calls(episode)
        agent = self._make([_smolagents_tool(tool["function"], calls) for tool in episode.tools])
        _check_smolagents(agent)
        agent.max_tool_threads = 1  # parallel calls of a message in their order
        request = "\n\n".join(render_reply(message) for message in view(episode))
        goes_on, first = True, True
        try:
            while goes_on:
                answer = _run_smolagents(agent, request, first, episode)
                goes_on, first = episode.take({"role": "assistant", "content": answer}), False
                request = episode.messages[-1]["content"]
        except Stop as stop:
            if stop.error is not None:
                raise stop.error from None
        finally:
            _count_smolagents(agent, episode)


class LangChainAgent:
    """An agent of LangChain or LangGraph: anything whose `invoke({"messages": ...})` returns the messages.

    make: builds it from the episode's tools, `make(tools) -> agent`; a compiled graph cannot change its tools.
    """

    EXAMPLE = "LangChainAgent(lambda tools: langchain.agents.create_agent(model, tools))"

    def __init__(self, make: Callable[[list[Any]], Any]) -> None:
        self._make = make

    def run_episode(self, episode: Episode) -> None:
        """Run it until the task is over. Raises OutOfSteps at its own recursion_limit."""
        from langchain_core.messages import convert_to_messages, convert_to_openai_messages
        from langgraph.errors import GraphRecursionError

        calls = Calls(episode)
        agent = self._make([_langchain_tool(tool["function"], calls) for tool in episode.tools])
        config: dict[str, Any] = {"callbacks": [_listener(calls, episode)], "max_concurrency": 1}
        if episode.max_steps is not None:
            # A step is a node for the model and one for its tools; the episode's own limit is to come first.
            config["recursion_limit"] = 2 * episode.max_steps + 3
        messages = convert_to_messages([dict(message) for message in view(episode)])
        goes_on = True
        try:
            while goes_on:
                messages = agent.invoke({"messages": messages}, config)["messages"]
                answer = convert_to_openai_messages(messages[-1], text_format="string")["content"]
                goes_on = episode.take({"role": "assistant", "content": answer})
                messages = [*messages, *convert_to_messages([dict(episode.messages[-1])])]
        except GraphRecursionError as error:
            raise OutOfSteps(f"LangGraph: {error}") from error
        except Stop as stop:
            if stop.error is not None:
                raise stop.error from None


def framework_of(given: Any) -> str | None:
    """smolagents, langchain, or None: by where the object's class comes from; nothing is imported."""
    modules = (cls.__module__.partition(".")[0] for cls in type(given).__mro__)
    return next((PACKAGES[module] for module in modules if module in PACKAGES), None)


def _check_smolagents(agent: Any) -> None:
    from smolagents import ToolCallingAgent

    if not isinstance(agent, ToolCallingAgent):
        raise ValueError(
            f"agent: of smolagents only a ToolCallingAgent can be recorded, got {type(agent).__name__}: what a "
            "CodeAgent does is code, not calls of tools"
        )
    if agent.managed_agents:
        raise ValueError("agent: a smolagents agent with managed agents cannot be recorded: their calls have no place")


def _copy_with_tools(agent: Any, tools: list[Any]) -> Any:
    from smolagents.memory import AgentMemory

    twin = copy.copy(agent)
    twin.tools = {tool.name: tool for tool in tools} | {"final_answer": agent.tools["final_answer"]}
    twin.state = {}
    twin.memory = AgentMemory(twin.system_prompt)  # the prompt lists the tools
    return twin


def _smolagents_tool(function: dict[str, Any], calls: Calls) -> Any:
    from smolagents import Tool

    class EpisodeTool(Tool):
        output_type = "string"
        skip_forward_signature_validation = True  # its arguments are known by their names only

        def __init__(self) -> None:
            schema = function.get("parameters", {})
            required = schema.get("required", [])
            self.name = function["name"]
            self.description = function.get("description", "")
            self.inputs = {
                name: _smolagents_input(value, name in required) for name, value in schema.get("properties", {}).items()
            }
            super().__init__()

        def forward(self, **arguments: Any) -> str:
            return calls.call(self.name, arguments)

    return EpisodeTool()


def _smolagents_input(schema: dict[str, Any], is_required: bool) -> dict[str, Any]:
    asked = {"type": "any", "description": "", **schema}
    return asked if is_required else {**asked, "nullable": True}


def _run_smolagents(agent: Any, request: str, first: bool, episode: Episode) -> str:
    """The final answer; the thoughts go to the calls that they led to."""
    from smolagents.agents import AgentMaxStepsError
    from smolagents.memory import ActionStep, FinalAnswerStep

    answer: Any = None
    mark = len(episode.messages)
    for event in agent.run(request, stream=True, reset=first):
        if isinstance(event, ActionStep):
            # A step is handed out after its tools ran, also where one of them stops the loop.
            if mark < len(episode.messages) and isinstance(event.model_output, str):
                episode.messages[mark]["content"] = event.model_output
            mark = len(episode.messages)
        elif isinstance(event, FinalAnswerStep):
            answer = event.output
    if isinstance(agent.memory.steps[-1].error, AgentMaxStepsError):
        raise OutOfSteps(f"smolagents: no answer after {agent.max_steps} steps")
    return str(answer) if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, default=str)


def _count_smolagents(agent: Any, episode: Episode) -> None:
    from smolagents.memory import ActionStep, PlanningStep

    for step in agent.memory.steps:
        if isinstance(step, ActionStep | PlanningStep) and step.token_usage is not None:
            usage = step.token_usage
            episode.count(prompt_tokens=usage.input_tokens, completion_tokens=usage.output_tokens)
        if isinstance(step, ActionStep) and step.error is not None:
            episode.count(retries=1)


def _langchain_tool(function: dict[str, Any], calls: Calls) -> Any:
    from langchain_core.tools import StructuredTool

    def run(**arguments: Any) -> str:
        return calls.call(function["name"], arguments)

    schema = {"type": "object", "properties": {}, **function.get("parameters", {})}
    description = function.get("description") or function["name"]  # LangChain insists on one
    return StructuredTool.from_function(run, name=function["name"], description=description, args_schema=schema)


def _listener(calls: Calls, episode: Episode) -> Any:
    """A callback that LangChain tells what the model wrote before the calls in it run."""
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.messages import convert_to_openai_messages

    class Listener(BaseCallbackHandler):
        raise_error = True

        def on_llm_end(self, response: Any, **kwargs: Any) -> None:
            message = response.generations[0][0].message
            calls.thought = convert_to_openai_messages(message, text_format="string")["content"]
            usage = message.usage_metadata or {"input_tokens": 0, "output_tokens": 0}
            episode.count(prompt_tokens=usage["input_tokens"], completion_tokens=usage["output_tokens"])

    return Listener()
