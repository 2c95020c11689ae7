"""The collector: every attempt is recorded as what it was; none is lost, made twice or blamed on the wrong party."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent import CollectorConfig, TrajectoryCollector, collect_and_convert
from sagetune import world
from sagetune.trajectories.agents import ReplayAgent
from sagetune.trajectories.environment import AgentTask, StepResult, WorldEnvironment
from sagetune.trajectories.episode import RETRY
from sagetune.trajectories.expert import ExpertAgent
from sagetune.trajectories.record import AgentTrajectory, load_trajectories

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


def test_async_functions_and_awaitables_are_awaited() -> None:
    async def function(messages: list[Any], tools: list[Any]) -> str:
        return "done"

    class Returning:
        def act(self, messages: list[Any], tools: list[Any]) -> Any:
            return function(messages, tools)

    for agent in (function, Returning()):
        assert collector(agent).collect_single(TASKS[0]).status == "finished"


def test_a_replay_says_what_the_same_method_said() -> None:
    recorded = collector(ExpertAgent(), methods=["react", "cot"]).attempts(TASKS[6:])
    again = collector(ReplayAgent(recorded), methods=["react", "cot"]).attempts(TASKS[6:])
    assert [trajectory.messages for trajectory in again] == [trajectory.messages for trajectory in recorded]
    with pytest.raises(ValueError, match=r"attempt 0 of method 'plain' at task .* to replay"):
        collector(ReplayAgent(recorded), methods=["plain"]).attempts(TASKS[6:])
