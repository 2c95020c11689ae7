"""The tool world at work: the environment, the expert, the checker."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagetune.sample import Message, check_sample
from sagetune.world import FAMILIES, SPLITS, Environment, check, expert, generate, task_of, tasks

places = st.tuples(st.sampled_from(FAMILIES), st.sampled_from(SPLITS), st.integers(0, 50), st.integers(1, 40))


def call_of(name: str, **arguments: Any) -> Any:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def changed(value: Any) -> Any:
    """Another value of the same type and form."""
    if isinstance(value, int):
        return value + 1
    if value[:2] == "20":  # a date
        return f"2031{value[4:]}"
    return value[:-1] + ("0" if value[-1] != "0" else "1") if value[-1].isdigit() else value + "x"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_solves_every_task(family: str, split: str) -> None:
    for task in tasks(family, split, 150, seed=3):
        assert check(task, expert(task)).passed, (task.id, check(task, expert(task)).reason)


@settings(max_examples=40, deadline=None)
@given(places)
def test_the_expert_solves_the_tasks_of_any_seed_and_a_sample_leads_back_to_its_task(place: Any) -> None:
    family, split, seed, number = place
    sample = generate(family, split, number, seed)[-1]
    check_sample(sample)
    task = task_of(sample)
    assert (task.id, task.user) == (sample["id"], sample["messages"][0]["content"])
    assert Environment(task).score(sample["messages"]) == 1.0
    assert [tool["function"]["name"] for tool in sample["tools"]] == list(task.tools)


@pytest.mark.parametrize("family", ["tool_selection", "planning"])
def test_changing_any_argument_of_any_call_fails(family: str) -> None:
    for task in tasks(family, "train", 90, seed=1):
        solution = expert(task)
        for at, message in enumerate(solution):
            for number, call in enumerate(message.get("tool_calls", [])):
                for name, value in call["function"]["arguments"].items():
                    wrong = copy.deepcopy(solution)
                    wrong[at]["tool_calls"][number]["function"]["arguments"][name] = changed(value)
                    assert not check(task, wrong).passed, (task.id, call["function"], name)


def test_leaving_out_any_call_of_a_plan_fails() -> None:
    for task in tasks("planning", "test", 90, seed=1):
        solution = expert(task)
        for at in [at for at, message in enumerate(solution) if "tool_calls" in message]:
            assert not check(task, solution[:at] + solution[at + 2 :]).passed, (task.id, solution[at])


def test_a_wrong_or_missing_final_answer_fails_a_plan() -> None:
    for task in tasks("planning", "dev", 36):
        solution = expert(task)
        for text in ("", "Done.", solution[-1]["content"] + " Or 77?"):
            assert not check(task, [*solution[:-1], {"role": "assistant", "content": text}]).passed


def test_invented_observations_fail_a_plan() -> None:
    task = tasks("planning", "train", 1)[0]
    solution = expert(task)
    solution[2]["content"] = solution[2]["content"].replace("}", ',"extra":1}', 1)
    assert "not the world's observation" in check(task, solution).reason


def test_plans_take_two_to_six_calls() -> None:
    calls = [sum("tool_calls" in message for message in expert(task)) for task in tasks("planning", "train", 200)]
    assert set(calls) == {2, 3, 4, 5, 6}


def test_a_number_that_no_column_holds_is_refused_like_any_other_bad_argument() -> None:
    """A model that repeats a digit writes one: SQLite's exception would break the attempt."""
    task = next(task for task in tasks("tool_selection", "train", 90) if task.kind == "delete_note")
    answer = json.loads(Environment(task).step(call_of("delete_note", note_id=10**30)))
    assert answer == {"error": "a number is larger than 64 bits hold"}
    said: Message = {"role": "assistant", "content": "", "tool_calls": [call_of("delete_note", note_id=10**30)]}
    assert not check(task, [said]).passed


def test_a_sample_without_its_place_in_the_world_is_refused_by_name() -> None:
    sample = generate("planning", "train", 1)[0]
    del sample["meta"]["index"]
    with pytest.raises(ValueError, match=r"meta lacks index, by which the world finds the task"):
        task_of(sample)


def test_tool_selection_wants_exactly_one_call_with_the_right_types() -> None:
    task = next(task for task in tasks("tool_selection", "train", 90) if task.kind == "delete_note")
    right = expert(task)[1]
    as_text = call_of("delete_note", note_id=str(task.values["note_id"]))
    assert check(task, [right]).passed
    for wrong in (
        [{"role": "assistant", "content": "", "tool_calls": [as_text]}],
        [right, right],
        [{"role": "assistant", "content": "Done."}],
        [],
    ):
        assert not check(task, wrong).passed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "text", "passes"),
    [
        ("ask", "Which one?", False),
        ("ask", "Done.", False),
        ("no_tool", "None of my tools can do that.", True),
        ("no_tool", "I can't do this with the tools I have.", True),
        ("no_tool", "Sure, done.", False),
        ("answer", "None of my tools can do that.", False),
        ("call", "None of my tools can do that.", False),
    ],
)
def test_timing_tells_its_four_kinds_apart(kind: str, text: str, passes: bool) -> None:
    for task in [task for task in tasks("timing", "test", 40) if task.kind == kind]:
        message: Message = {"role": "assistant", "content": text}
        assert check(task, [message]).passed is passes
        needless = call_of(task.tools[0])
        assert kind == "call" or not check(task, [*expert(task), {**message, "tool_calls": [needless]}]).passed


def test_general_judges_constraints_not_one_wording() -> None:
    by_kind = {task.kind: task for task in tasks("general", "train", 14)}
    line = by_kind["starts_with"]
    words = [line.values["word"], *["word"] * (line.values["n"] - 1)]
    assert check(line, [{"role": "assistant", "content": " ".join(words)}]).passed
    assert not check(line, [{"role": "assistant", "content": " ".join([*words, "more"])}]).passed
    total = by_kind["cost"]
    right = total.values["a"] * total.values["b"] + total.values["c"]
    assert check(total, [{"role": "assistant", "content": f"That makes {right}."}]).passed
    assert not check(total, [{"role": "assistant", "content": f"That makes {right + 1}."}]).passed


def test_the_environment_answers_wrong_calls_with_an_error_and_keeps_its_state() -> None:
    task = next(task for task in tasks("tool_selection", "train", 90) if task.kind == "move_event")
    environment = Environment(task)
    before = environment.snapshot()
    for name, arguments in (
        ("no_such_tool", {}),
        ("move_event", {}),
        ("move_event", {"event_id": "12", "date": "2026-01-01"}),
        ("move_event", {"event_id": task.values["event_id"], "date": "2026-02-31"}),
        ("move_event", {"event_id": 1, "date": "2026-01-01"}),
        ("move_event", {**task.values, "surplus": 1}),
    ):
        assert list(json.loads(environment.call(name, arguments))) == ["error"]
    assert environment.snapshot() == before


def test_a_call_changes_the_state_and_reset_restores_it() -> None:
    task = next(task for task in tasks("tool_selection", "train", 90) if task.kind == "move_event")
    environment = Environment(task)
    before = environment.snapshot()
    observation = environment.step(call_of("move_event", **task.values))
    assert json.loads(observation) == {"status": "updated"}
    moved = [row for row in environment.snapshot()["events"] if row["id"] == task.values["event_id"]]
    assert moved[0]["date"] == task.values["date"]
    assert environment.snapshot() != before
    environment.reset()
    assert environment.snapshot() == before


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 200),
    st.dictionaries(
        st.text(max_size=8), st.one_of(st.text(max_size=8), st.integers(), st.none(), st.floats()), max_size=4
    ),
)
def test_no_arguments_whatever_make_the_world_raise(index: int, arguments: dict[str, Any]) -> None:
    task = tasks("tool_selection", "test", index + 1)[-1]
    environment = Environment(task)
    for name in task.tools:
        assert isinstance(environment.call(name, arguments), str)
