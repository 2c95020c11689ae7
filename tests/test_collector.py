"""The collector: every attempt is recorded as what it was; none is lost, made twice or blamed on the wrong party."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent import CollectorConfig, TrajectoryCollector, collect_and_convert
from sagetune import world
from sagetune.trajectories.agents import ReplayAgent, Said
from sagetune.trajectories.collector import CollectionBroken
from sagetune.trajectories.environment import AgentTask, StepResult, WorldEnvironment
from sagetune.trajectories.episode import RETRY, BadReply
from sagetune.trajectories.expert import ExpertAgent
from sagetune.trajectories.record import AgentTrajectory, load_trajectories
from sagetune.trajectories.runs import RunFile

TASKS = world.generate("tool_selection", "train", 6) + world.generate("planning", "train", 6)


def collector(agent: Any, path: Path | None = None, **given: Any) -> TrajectoryCollector:
    return TrajectoryCollector(agent, CollectorConfig(**given), path=path, name="agent")


def test_the_expert_solves_every_task_of_every_family_by_every_method() -> None:
    tasks = [sample for family in world.FAMILIES for sample in world.generate(family, "train", 40)]
    found = collector(ExpertAgent(), methods=["react", "cot", "reflexion"]).attempts(tasks)
    assert len(found) == 3 * len(tasks)
    assert [trajectory.task_id for trajectory in found if not trajectory.success] == []


def test_the_noisy_experts_success_falls_with_its_error_rate() -> None:
    tasks = world.generate("planning", "train", 100)
    solved = [
        sum(trajectory.success for trajectory in collector(ExpertAgent(rate)).attempts(tasks))
        for rate in (0.0, 0.1, 0.3, 1.0)
    ]
    assert solved[0] == 100
    assert solved == sorted(solved, reverse=True)
    assert len(set(solved)) == 4
    assert solved[3] == 0


def test_the_same_seed_errs_in_the_same_places_and_another_in_others() -> None:
    def solved(seed: int) -> list[bool]:
        return [trajectory.success for trajectory in collector(ExpertAgent(0.3, seed=seed)).attempts(TASKS)]

    assert solved(1) == solved(1)
    assert len({tuple(solved(seed)) for seed in range(5)}) > 1


def test_the_reference_returns_successes_and_a_single_attempt_as_it_is() -> None:
    found = collector(ExpertAgent(0.5)).collect(TASKS)
    assert found
    assert all(trajectory.success for trajectory in found)
    assert len(found) < len(TASKS)
    single = collector(ExpertAgent(1.0)).collect_single(TASKS[0])
    assert isinstance(single, AgentTrajectory)
    assert not single.success


def test_thoughts_stand_where_the_prompting_method_puts_them() -> None:
    task = next(sample for sample in TASKS if len(sample["messages"]) >= 6)
    react, cot = (collector(ExpertAgent(), methods=[name]).collect_single(task) for name in ("react", "cot"))
    calls = [step for step in react.steps if step.action != "finish"]
    assert len(calls) > 1
    assert all(step.thought for step in calls)
    assert [bool(step.thought) for step in cot.steps if step.action != "finish"] == [True, *[False] * (len(calls) - 1)]
    assert all(call.action in cot.steps[0].thought for call in calls), "the one thought is the whole plan"
    plain = collector(ExpertAgent(), methods=["plain"]).collect_single(task)
    assert plain.messages == task["messages"], "without a word about thinking it is the solution as it stands"


def test_what_the_method_says_to_the_agent_is_not_in_the_trajectory() -> None:
    shown: list[Any] = []

    def agent(messages: list[Any], tools: list[Any]) -> str:
        shown.append(messages)
        return "done"

    found = collector(agent, methods=["react"], system_prompt="You are an agent.").collect_single(TASKS[0])
    assert "You are an agent." in shown[0][0]["content"]
    assert "thought" in shown[0][0]["content"]
    assert [message["role"] for message in found.messages] == ["user", "assistant"]


def test_reflexion_tries_again_after_a_failure_with_the_failure_before_its_eyes() -> None:
    """The failed attempt is in the record, without a loss; the second one alone is judged and learnt."""
    expert = ExpertAgent(0.4)
    found = collector(expert, methods=["reflexion"]).attempts(TASKS)
    by_task = Counter(trajectory.task_id for trajectory in found)
    firsts = [trajectory for trajectory in found if trajectory.attempt == 0]
    seconds = [trajectory for trajectory in found if trajectory.attempt == 1]
    assert {trajectory.task_id for trajectory in firsts if not trajectory.success} == {
        name for name, num in by_task.items() if num == 2
    }
    better = next(trajectory for trajectory in seconds if trajectory.success)
    place = next(i for i, message in enumerate(better.messages) if message["content"] == RETRY)
    before, own = better.messages[:place], better.messages[better.own_from :]
    assert better.own_from == place + 1
    assert all(message["loss"] is False for message in before if message["role"] == "assistant")
    assert all("loss" not in message for message in own)
    ids = [call["id"] for message in better.messages for call in message.get("tool_calls", [])]
    assert len(ids) == len(set(ids))
    assert "wrong" in better.steps[0].thought


def test_reflexion_looks_back_after_a_number_of_steps() -> None:
    task = next(sample for sample in world.generate("planning", "train", 40) if len(sample["messages"]) > 8)
    found = collector(ExpertAgent(), methods=["reflexion"], reflect_after=2).collect_single(task)
    assert found.success
    looked = [
        place for place, step in enumerate(found.steps) if step.thought.startswith("So far all went as it should")
    ]
    assert looked == [2]
    assert [message["role"] for message in found.messages].count("user") == 1, "the reminder itself is not recorded"


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


def test_an_attempt_has_a_number_of_steps() -> None:
    name = TASKS[6]["tools"][0]["function"]["name"]
    call = {"id": "", "type": "function", "function": {"name": name, "arguments": {}}}
    stuck = {"role": "assistant", "content": "again", "tool_calls": [call]}
    found = collector(lambda messages, tools: stuck, max_steps=3).collect_single(TASKS[6])
    assert (found.status, len(found.steps), found.success) == ("max_steps", 3, False)
    assert found.figures["refused_calls"] == 3
    assert all("error" in step.observation for step in found.steps), "a tool's error is an observation"


def test_long_observations_are_cut_with_a_mark_and_judged_whole() -> None:
    task = next(sample for sample in TASKS[6:] if any(len(m["content"]) > 40 for m in sample["messages"][2:-1]))
    found = collector(ExpertAgent(), max_observation=20).collect_single(task)
    cut = [message["content"] for message in found.messages if "characters left out" in message["content"]]
    assert cut
    assert all(text[20:].startswith(" ... [") for text in cut)
    assert found.success


def test_observations_need_not_be_kept(tmp_path: Path) -> None:
    """They are left out of what is returned, also by a rerun. The file has them: a later attempt is to see them."""
    path = tmp_path / "t.jsonl"
    for _ in range(2):
        for trajectory in collector(ExpertAgent(), path, save_intermediate=False).collect(TASKS[6:]):
            assert {step.observation for step in trajectory.steps} == {""}
            assert all(not message["content"] for message in trajectory.messages if message["role"] == "tool")
    assert all(step.observation for t in load_trajectories(path) for step in t.steps if step.action != "finish")


def test_tasks_are_attempted_by_each_method_or_in_turn() -> None:
    methods = ["react", "cot"]
    every = collector(ExpertAgent(), methods=methods, attempts=2).attempts(TASKS[:3])
    assert Counter(trajectory.method for trajectory in every) == {"react": 6, "cot": 6}
    one = collector(ExpertAgent(), methods=methods, spread="one").attempts(TASKS[:3])
    assert [trajectory.method for trajectory in one] == ["react", "cot", "react"]


def test_a_question_with_an_answer_is_a_task() -> None:
    question = {"task_id": "q", "instruction": "Capital of France?", "answer": "Paris"}
    found = collector(lambda messages, tools: "I think so.\nthe Paris.").attempts([question])
    assert found[0].success
    assert not collector(lambda messages, tools: "Lyon").attempts([question])[0].success


def test_what_is_no_task_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an AgentTask, a task or a sample of the embedded world"):
        collector(ExpertAgent()).collect([{"instruction": "Do it."}])
    with pytest.raises(ValueError, match="ids must differ"):
        collector(ExpertAgent()).collect([TASKS[0], TASKS[0]])
    task = AgentTask("t", "i", lambda: WorldEnvironment(world.task_of(TASKS[0])))
    with pytest.raises(ValueError, match="the expert has no solution of task 't'"):
        collector(ExpertAgent()).collect([task])


class Shop:
    """A user who orders twice: the environment answers a message without a call."""

    @property
    def tools(self) -> list[dict[str, Any]]:
        return [{"type": "function", "function": {"name": "order", "description": "Order a thing"}}]

    def reset(self) -> list[Any]:
        self.orders: list[str] = []
        return [{"role": "system", "content": "A shop."}, {"role": "user", "content": "A pen."}]

    def step(self, call: Any) -> StepResult:
        self.orders.append(call["function"]["arguments"]["thing"])
        return StepResult("ordered", reward=0.25)

    def reply(self, content: str) -> str | None:
        return "A cup, too." if len(self.orders) == 1 else None

    def score(self, messages: list[Any]) -> float:
        return 0.5 * (self.orders == ["pen", "cup"])

    def close(self) -> None:
        pass


def test_a_user_can_have_several_turns_and_rewards_add_up() -> None:
    def agent(messages: list[Any], tools: list[Any]) -> Any:
        if messages[-1]["role"] == "tool":
            return "Ordered."
        thing = "pen" if "pen" in messages[-1]["content"] else "cup"
        call = {"id": "", "type": "function", "function": {"name": "order", "arguments": {"thing": thing}}}
        return {"role": "assistant", "content": "", "tool_calls": [call]}

    found = collector(agent).collect_single(AgentTask("t", "Shop.", Shop))
    roles = [message["role"] for message in found.messages]
    assert roles == ["system", "user", *["assistant", "tool", "assistant"], "user", *["assistant", "tool", "assistant"]]
    assert [step.reward for step in found.steps] == [0.25, 0, 0.25, 0.5]
    assert found.total_reward == 1.0
    assert not found.success, "success is a score of 1"


def test_collecting_and_converting_is_one_call() -> None:
    records = collect_and_convert(agent=ExpertAgent(), tasks=TASKS, min_reward=0.5, require_success=True)
    assert len(records) == len(TASKS)
    assert {record["task"] for record in records} == {"tool_selection", "planning"}


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


def test_async_functions_and_awaitables_are_awaited() -> None:
    async def function(messages: list[Any], tools: list[Any]) -> str:
        return "done"

    class Returning:
        def act(self, messages: list[Any], tools: list[Any]) -> Any:
            return function(messages, tools)

    for agent in (function, Returning()):
        assert collector(agent).collect_single(TASKS[0]).status == "finished"


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


def test_a_replay_says_what_the_same_method_said() -> None:
    recorded = collector(ExpertAgent(), methods=["react", "cot"]).attempts(TASKS[6:])
    again = collector(ReplayAgent(recorded), methods=["react", "cot"]).attempts(TASKS[6:])
    assert [trajectory.messages for trajectory in again] == [trajectory.messages for trajectory in recorded]
    with pytest.raises(ValueError, match=r"attempt 0 of method 'plain' at task .* to replay"):
        collector(ReplayAgent(recorded), methods=["plain"]).attempts(TASKS[6:])


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
