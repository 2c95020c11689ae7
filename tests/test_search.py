"""The search environment answers from recorded runs, and every recorded success succeeds again in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sagetune.sources import load
from sagetune.trajectories.environment import AgentTask, Environment
from sagetune.trajectories.search import NOTHING_FOUND, SearchEnvironment, search_tasks

RELEASE = Path(__file__).parents[1].parent / "shared/data/fireact"
needs_release = pytest.mark.skipif(not RELEASE.is_dir(), reason=f"FireAct's release is not at {RELEASE}")


def call(name: str, **arguments: Any) -> Any:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def replay(task: AgentTask, messages: Any) -> tuple[float, list[bool]]:
    """The score of saying `messages` again, and whether each search found what was recorded."""
    environment = task.make()
    said = environment.reset()
    recorded = {message.get("tool_call_id"): message["content"] for message in messages if message["role"] == "tool"}
    same = []
    for message in messages:
        for asked in message.get("tool_calls", []):
            result = environment.step(asked)
            if asked["id"] in recorded and asked["function"]["name"] == "search":
                same.append(result.observation == recorded[asked["id"]])
        said.append(message)
    return environment.score(said), same


def test_it_finds_what_was_recorded_and_nothing_else() -> None:
    environment = SearchEnvironment("Who?", "the Cat", {"age of x": "3"})
    assert isinstance(environment, Environment)
    assert environment.reset() == [{"role": "user", "content": "Who?"}]
    assert environment.step(call("search", query="The age of X?")).observation == "3"
    assert environment.step(call("search", query="age of Y")) == (NOTHING_FOUND, False, False, 0.0)
    assert environment.step(call("finish", answer="cat")).done
    assert environment.step(call("click", x="y")).failed
    assert environment.step(call("search", query=1)).failed
    assert environment.step(call("search", query="a", more="b")).failed
    assert environment.reply("It is the cat.") is None
    said = [{"role": "assistant", "content": "", "tool_calls": [call("finish", answer=a)]} for a in ("cat.", "dog")]
    assert environment.score(said) == 1.0  # type: ignore[arg-type]
    assert environment.score(said[::-1]) == environment.score([]) == 0.0  # type: ignore[arg-type]


def test_runs_of_a_question_share_their_searches(tmp_path: Path) -> None:
    def run(query: str, result: str, answer: str, success: bool) -> dict[str, Any]:
        text = f"Thought: a\nAction: search[{query}]\nObservation: {result}\nThought: b\nAction: finish[{answer}]\n"
        return {"reward": success, "em": success, "gt": "3", "pred": answer, "prompt": "", "traj": f"Q?\n{text}"}

    (tmp_path / "a.json").write_text(json.dumps({"7": run("x", "1", "2", False)}))
    (tmp_path / "b.json").write_text(json.dumps({"7": run("X!", "9", "3", True), "8": run("y", "8", "4", False)}))
    (task,) = search_tasks(tmp_path)
    assert (task.id, task.instruction, task.family) == ("7", "Q?", "search")
    found = [task.make().step(call("search", query=query)).observation for query in ("x", "x?", "X!", "z")]
    assert found == ["1", "1", "9", "None"]
    assert replay(task, task.gold) == (1.0, [True])
    assert search_tasks(tmp_path / "a.json")[0].gold == ()
    with pytest.raises(ValueError, match="no file with recorded runs"):
        search_tasks(tmp_path / "c")


@needs_release
def test_every_recorded_success_succeeds_again() -> None:
    solved = []
    for path in sorted((RELEASE / "trajs").glob("*.json")):
        tasks = search_tasks(path)
        assert len(tasks) == len(load(str(path), num_samples=None).samples)
        golds = [task for task in tasks if task.gold]
        replayed = [replay(task, task.gold) for task in golds]
        assert all(score == 1.0 for score, _ in replayed)
        assert all(found for _, same in replayed for found in same)
        solved.append(len(golds))
    assert solved == [200, 172, 131]


@needs_release
def test_the_runs_together_are_one_task_a_question() -> None:
    tasks = {task.instruction: task for task in search_tasks(RELEASE / "trajs")}
    assert len(tasks) == 500
    scores, found = [], []
    for path in sorted((RELEASE / "trajs").glob("*.json")):
        for sample in load(str(path), num_samples=None).samples:
            score, same = replay(tasks[sample["messages"][0]["content"].strip()], sample["messages"])
            scores.append(score == sample["meta"]["success"])
            found += same
    assert sum(scores) == len(scores) == 1464
    assert (sum(found), len(found)) == (3153, 3169)  # 16 searches were recorded with two different results


@needs_release
def test_fine_tuning_data_is_an_environment_too() -> None:
    tasks = search_tasks(RELEASE / "finetune/alpaca_format/hotpotqa.json")
    assert len(tasks) == 500
    assert all(replay(task, task.gold)[0] == 1.0 for task in tasks)
