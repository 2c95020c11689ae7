"""What breaks in a collection costs what it must and no more: an attempt, a budget, the time until the kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent import CollectorConfig, TrajectoryCollector
from sagetune import world
from sagetune.trajectories.agents import Said
from sagetune.trajectories.collector import CollectionBroken
from sagetune.trajectories.environment import AgentTask, StepResult, WorldEnvironment
from sagetune.trajectories.episode import BadReply
from sagetune.trajectories.expert import ExpertAgent
from sagetune.trajectories.record import load_trajectories
from sagetune.trajectories.runs import RunFile

TASKS = world.generate("tool_selection", "train", 6) + world.generate("planning", "train", 6)


def collector(agent: Any, path: Path | None = None, **given: Any) -> TrajectoryCollector:
    return TrajectoryCollector(agent, CollectorConfig(**given), path=path, name="agent")


class Junk:
    """Writes nothing that can be run, `times` times, then solves the task."""

    def __init__(self, times: int) -> None:
        self.left = times

    def start(self, episode: Any) -> Junk:
        self.expert = ExpertAgent().start(episode)
        return self

    async def act(self, messages: list[Any], tools: list[Any]) -> Any:
        if self.left:
            self.left -= 1
            raise BadReply("not JSON", "{{{")
        return await self.expert.act(messages, tools)


def test_an_answer_that_cannot_be_run_costs_the_budget_of_the_attempt() -> None:
    good = collector(Junk(2), bad_replies=2).collect_single(TASKS[0])
    assert (good.success, good.status, good.figures["retries"]) == (True, "finished", 2)
    bad = collector(Junk(3), bad_replies=2).collect_single(TASKS[0])
    assert (bad.success, bad.status) == (False, "bad_reply")
    assert "not JSON: '{{{'" in bad.error


def test_a_message_that_is_none_is_a_bad_reply() -> None:
    for said in (
        None,
        3,
        {"role": "user", "content": "x"},
        "",
        {"role": "assistant", "tool_calls": [{"function": {}}]},
    ):
        found = collector(lambda messages, tools, said=said: said, bad_replies=0).collect_single(TASKS[0])
        assert found.status == "bad_reply", said


def test_a_broken_infrastructure_is_not_the_agents_failure(tmp_path: Path) -> None:
    """It is recorded with its reason, left out of the filter's successes and failures, and tried again by a rerun."""
    broken = {TASKS[1]["id"], TASKS[3]["id"]}

    class Agent(ExpertAgent):
        def start(self, episode: Any) -> Any:
            return Breaking() if episode.task.id in broken else super().start(episode)

    class Breaking:
        async def act(self, messages: list[Any], tools: list[Any]) -> Any:
            raise ConnectionError("no route to host")

    path = tmp_path / "t.jsonl"
    found = collector(Agent(), path).attempts(TASKS)
    errors = [trajectory for trajectory in found if trajectory.status == "error"]
    assert {trajectory.task_id for trajectory in errors} == broken
    assert errors[0].error == "ConnectionError: no route to host"
    assert len(found) == len(TASKS)
    broken.clear()
    again = collector(Agent(), path).attempts(TASKS)
    assert all(trajectory.success for trajectory in again)
    assert len(path.read_text().splitlines()) == len(TASKS) + 2, "only what broke was made again"


def test_if_everything_breaks_the_collection_says_so() -> None:
    calls = []

    def agent(messages: list[Any], tools: list[Any]) -> Any:
        calls.append(1)
        raise ConnectionError("no route to host")

    with pytest.raises(CollectionBroken, match="all 12 attempts broke; the first: ConnectionError: no route to host"):
        collector(agent).collect(TASKS)
    calls.clear()
    with pytest.raises(CollectionBroken, match="the first 4 attempts broke"):
        collector(agent, num_workers=4).collect(TASKS)
    assert len(calls) < len(TASKS), "a wrong address does not cost every task its retries"


def test_an_agent_that_does_not_answer_ends_its_attempt_and_no_other() -> None:
    def agent(messages: list[Any], tools: list[Any]) -> str:
        time.sleep(1.5 if TASKS[0]["messages"][0]["content"] in messages[-1]["content"] else 0)
        return "done"

    found = collector(agent, step_timeout=0.5).attempts(TASKS[:4])
    assert [trajectory.status for trajectory in found] == ["timeout", "finished", "finished", "finished"]
    slow = collector(agent, task_timeout=0.5).attempts(TASKS[:1])
    assert slow[0].error == "not done within 0.5 s"


def test_a_file_that_was_made_otherwise_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    collector(ExpertAgent(), path).collect(TASKS[:2])
    with pytest.raises(ValueError, match="agent was 'agent', is 'someone'"):
        TrajectoryCollector(ExpertAgent(), path=path, name="someone").collect(TASKS[:2])
    with pytest.raises(ValueError, match="max_steps was 10, is 3"):
        collector(ExpertAgent(), path, max_steps=3).collect(TASKS[:2])
    task = AgentTask(TASKS[0]["id"], "Another request.", lambda: WorldEnvironment(world.task_of(TASKS[0])))
    with pytest.raises(ValueError, match="asks something else there"):
        collector(ExpertAgent(), path).collect([task])
    assert len(collector(ExpertAgent(), path, num_workers=2).collect(TASKS[:4])) == 4, "speed is no matter of content"


def test_a_file_that_is_in_use_or_somebodys_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    one = collector(ExpertAgent(), path)
    with RunFile(path, one.setup()), pytest.raises(ValueError, match="in use by another collection"):
        one.collect(TASKS[:2])
    path.write_text("my precious data")
    with pytest.raises(ValueError, match="holds something else than attempts"):
        one.collect(TASKS[:2])
    assert path.read_text() == "my precious data"


class Breaking(WorldEnvironment):
    """Breaks where it is told to."""

    where = ""

    def step(self, call: Any) -> StepResult:
        if self.where == "step":
            raise ConnectionError("step")
        if self.where == "timeout":
            raise TimeoutError("step")
        return super().step(call)

    def reset(self) -> list[Any]:
        if self.where == "reset":
            raise json.JSONDecodeError("reset", "", 0)
        return super().reset()

    def score(self, messages: list[Any]) -> float:
        if self.where == "score":
            raise ConnectionError("score")
        return super().score(messages)

    def close(self) -> None:
        if self.where == "close":
            raise ConnectionError("close")


class Loop:
    """An agent with a loop of its own."""

    def run_episode(self, episode: Any) -> None:
        for turn in ExpertAgent().start(episode)._turns:
            for call in turn.get("tool_calls", []):
                episode.call(call["function"]["name"], call["function"]["arguments"])
            if not turn.get("tool_calls"):
                episode.take(turn)


@pytest.mark.parametrize("agent", [ExpertAgent(), Loop()], ids=["turns", "loop"])
@pytest.mark.parametrize("where", ["step", "timeout", "reset", "score", "close"])
def test_an_environment_that_breaks_costs_its_own_attempt_alone(
    where: str, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def task(sample: Any) -> AgentTask:
        broken = sample is TASKS[1]

        def make() -> WorldEnvironment:
            if not broken:
                return WorldEnvironment(world.task_of(sample))
            monkeypatch.setattr(Breaking, "where", where)
            return Breaking(world.task_of(sample))

        return AgentTask(sample["id"], "i", make, gold=tuple(sample["messages"]))

    found = collector(agent).attempts([task(sample) for sample in TASKS])
    assert [trajectory.status for trajectory in found] == ["finished", "error", *["finished"] * 10]
    assert all(trajectory.success for trajectory in found if trajectory.status == "finished")
    assert found[1].error


def test_the_agents_own_timeout_is_the_infrastructures() -> None:
    def agent(messages: list[Any], tools: list[Any]) -> Any:
        if messages[-1]["content"] == TASKS[0]["messages"][0]["content"]:
            raise TimeoutError("urlopen timed out")
        return "done"

    found = collector(agent).attempts(TASKS[:2])
    assert (found[0].status, found[0].error) == ("error", "TimeoutError: urlopen timed out")


def test_many_slow_agents_answer_side_by_side_and_one_that_never_does_holds_nobody_up() -> None:
    never = threading.Event()

    def agent(messages: list[Any], tools: list[Any]) -> str:
        if messages[-1]["content"] == TASKS[0]["messages"][0]["content"]:
            never.wait(30)
        time.sleep(0.4)
        return "done"

    started = time.perf_counter()
    found = collector(agent, step_timeout=2.0, num_workers=12).attempts(TASKS)
    assert [trajectory.status for trajectory in found] == ["timeout", *["finished"] * 11]
    assert time.perf_counter() - started < 15, "nobody waits for the thread that hangs"


@pytest.mark.parametrize(
    "said",
    [
        {"role": "assistant", "content": ["a"]},
        {"role": "assistant", "content": "\ud83d"},
        {"role": "assistant", "tool_calls": [{"function": None}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": {1, 2}}}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": float("nan")}}}]},
        Said({"role": "assistant", "content": ""}, 3, 4),
    ],
)
def test_what_cannot_be_written_down_is_a_bad_reply(said: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    found = collector(lambda messages, tools: said, path, bad_replies=0).attempts(TASKS[:1])
    assert found[0].status == "bad_reply"
    assert len(load_trajectories(path)) == 1
    if isinstance(said, Said):
        assert (found[0].figures["prompt_tokens"], found[0].figures["completion_tokens"]) == (3, 4)


SLOW = """
import asyncio, sys
from pathlib import Path
from sagetune import world
from sagetune.config.trajectories import CollectorConfig
from sagetune.trajectories.collector import TrajectoryCollector
from sagetune.trajectories.expert import ExpertAgent

class Slow:
    def __init__(self, expert): self.expert = expert
    async def act(self, messages, tools):
        await asyncio.sleep(0.02)
        return await self.expert.act(messages, tools)

class Agent:
    def start(self, episode): return Slow(ExpertAgent(0.2).start(episode))

tasks = world.generate("planning", "train", 40)
config = CollectorConfig(methods=["react", "reflexion"], num_workers=4)
found = TrajectoryCollector(Agent(), config, path=Path(sys.argv[1]), name="slow").attempts(tasks)
print(len(found))
"""


def test_a_killed_collection_goes_on_and_makes_nothing_twice(tmp_path: Path) -> None:
    """SIGKILL at three moments, then to the end: the same attempts as of a collection that was left alone."""
    path, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    command = [sys.executable, "-c", SLOW]
    subprocess.run([*command, str(whole)], check=True, capture_output=True, env=os.environ)
    for num in (5, 20, 45):
        process = subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None and (not path.is_file() or len(path.read_bytes().splitlines()) < num):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with path.open("a") as file:
        file.write('{"task_id": "torn')  # a line that the kill cut short
    subprocess.run([*command, str(path)], check=True, capture_output=True, env=os.environ)

    def content(file: Path) -> dict[Any, Any]:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        kept = {(r["task_id"], r["method"], r["attempt"]): (r["messages"], r["success"]) for r in rows}
        assert len(kept) == len(rows), "no attempt was made twice"
        return kept

    assert content(path) == content(whole)


class Hanging:
    """A framework with a loop of its own that does not come back in time."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def run_episode(self, episode: Any) -> None:
        time.sleep(0.6)
        try:
            episode.call(episode.tools[0]["function"]["name"], {})
        except RuntimeError as error:
            self.refused.append(str(error))


def test_a_framework_that_outlives_its_time_changes_nothing_any_more() -> None:
    agent = Hanging()
    found = collector(agent, task_timeout=0.2).attempts(TASKS[:1])
    assert [trajectory.status for trajectory in found] == ["timeout"]
    deadline = time.monotonic() + 10
    while not agent.refused and time.monotonic() < deadline:
        time.sleep(0.05)
    assert agent.refused == [f"the attempt at {TASKS[0]['id']} is over"]
    assert found[0].steps == []
