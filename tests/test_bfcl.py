"""BFCL's multi-turn scenarios run in process: the gold runs solve all of them, doing nothing solves none."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sagetune.trajectories.bfcl import INSTALL, BfclEnvironment, bfcl_tasks
from sagetune.trajectories.environment import AgentTask, Environment

needs_bfcl = pytest.mark.skipif(find_spec("bfcl_eval") is None, reason=f"bfcl-eval is not installed: {INSTALL}")


def replay(task: AgentTask, messages: Any) -> tuple[float, list[str]]:
    """The score of `messages`, and what the environment said: results, and what the user said next."""
    environment = task.make()
    environment.reset()
    heard = []
    for message in messages:
        for call in message.get("tool_calls", []):
            heard.append(environment.step(call).observation)
        if message["role"] == "assistant" and not message.get("tool_calls"):
            heard.append(environment.reply(message["content"]))
    return environment.score(messages), [text for text in heard if text is not None]


@pytest.fixture(scope="module")
def tasks() -> dict[str, AgentTask]:
    return {task.id: task for task in bfcl_tasks()}


def calls(task: AgentTask) -> list[Any]:
    return [call for message in task.gold for call in message.get("tool_calls", [])]


@pytest.mark.skipif(find_spec("bfcl_eval") is not None, reason="bfcl-eval is installed")
def test_a_missing_package_is_told_with_its_command() -> None:
    with pytest.raises(ValueError, match=f"not installed: {INSTALL}"):
        bfcl_tasks()


@needs_bfcl
def test_gold_runs_score_1_and_are_heard_as_recorded(tasks: dict[str, AgentTask]) -> None:
    assert len(tasks) == 200
    assert sum(len(calls(task)) for task in tasks.values()) == 1142
    for task in tasks.values():
        score, heard = replay(task, task.gold)
        assert score == 1.0, task.id
        assert heard == [message["content"] for message in task.gold if message["role"] != "assistant"]


@needs_bfcl
def test_without_calls_or_without_the_last_turn_nothing_scores(tasks: dict[str, AgentTask]) -> None:
    for task in tasks.values():
        assert replay(task, [message for message in task.gold if not message.get("tool_calls")])[0] == 0.0
        assert replay(task, task.gold[:-1])[0] == 0.0


@needs_bfcl
def test_tools_are_json_schemas_that_the_gold_calls_keep(tasks: dict[str, AgentTask]) -> None:
    odd, checked = [], set()
    for task in tasks.values():
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in task.make().tools}
        for name in schemas.keys() - checked:
            Draft202012Validator.check_schema(schemas[name])
        checked |= schemas.keys()
        for call in calls(task):
            function = call["function"]
            if not Draft202012Validator(schemas[function["name"]]).is_valid(function["arguments"]):
                odd.append((task.id, function["name"], function["arguments"]))
    # BFCL's own slip: the document says integer, and the service answers that there is no such ticket.
    assert odd == [("multi_turn_base_173", "close_ticket", {"ticket_id": "ticket_001"})]
    assert len(checked) == 128


@needs_bfcl
def test_only_documented_methods_can_be_called(tasks: dict[str, AgentTask]) -> None:
    environment = tasks["multi_turn_base_0"].make()
    assert isinstance(environment, Environment)
    assert isinstance(environment, BfclEnvironment)
    for name in ("_load_scenario", "__init__", "cp", "__class__", "os.system"):  # cp: excluded in this scenario
        call: Any = {"id": "c", "type": "function", "function": {"name": name, "arguments": {}}}
        result = environment.step(call)
        assert result.failed
        assert result.observation == f"Error during execution: there is no tool {name!r}"
    bad: Any = {"id": "c", "type": "function", "function": {"name": "cd", "arguments": {"to": "x"}}}
    assert environment.step(bad).failed


@needs_bfcl
def test_a_wrong_state_and_a_missing_result_score_0(tasks: dict[str, AgentTask]) -> None:
    task = tasks["multi_turn_base_0"]
    first, second = calls(task)[:2]
    assert first["function"] == {"name": "cd", "arguments": {"folder": "document"}}
    more: Any = {**second, "function": {"name": "mkdir", "arguments": {"dir_name": "other"}}}
    added = [task.gold[0], {"role": "assistant", "content": "", "tool_calls": [more]}, *task.gold[1:]]
    assert replay(task, added)[0] == 0.0
    greps = [m for m in task.gold if not any(c["function"]["name"] == "grep" for c in m.get("tool_calls", []))]
    assert replay(task, greps)[0] == 0.0
