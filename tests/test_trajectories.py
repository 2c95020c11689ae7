"""Trajectories: what is recorded, which of it is kept, and what it teaches, down to the training tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from sage.libs.finetune.agent import (
    AgentTrajectory,
    CollectorConfig,
    SFTConversionConfig,
    TrajectoryCollector,
    TrajectoryFilter,
    TrajectoryStep,
    TrajectoryToSFTConverter,
    load_trajectories,
)
from sagetune import world
from sagetune.chat import IGNORE_INDEX, Encoded, encode
from sagetune.config import ModelConfig
from sagetune.formats import from_record
from sagetune.models import load_tokenizer
from sagetune.trajectories.episode import RETRY
from sagetune.trajectories.expert import ExpertAgent
from sagetune.trajectories.filter import preference_pairs
from sagetune.trajectories.record import FINISH, messages_of, own_messages, save_trajectories, steps_of

LOOK_UP = TrajectoryStep("I need the id.", "find", {"title": "a"}, '[{"id":7}]', 0.0)
DELETE = TrajectoryStep("Now I delete it.", "delete", {"id": 7}, '{"status":"deleted"}', 0.0)
DONE = TrajectoryStep("", FINISH, {"answer": "Deleted 7."}, "", 1.0)
TOOLS = [{"type": "function", "function": {"name": name, "description": name}} for name in ("find", "delete")]


def trajectory(**given: Any) -> AgentTrajectory:
    fields = {"task_id": "t", "instruction": "Delete a.", "steps": [LOOK_UP, DELETE, DONE], "success": True}
    return AgentTrajectory(**(fields | {"total_reward": 1.0, "tools": TOOLS} | given))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("embedded:tiny", ModelConfig(chat_template="chatml"))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
arguments = st.dictionaries(texts, st.one_of(st.integers(), texts, st.lists(st.booleans(), max_size=3)), max_size=3)
calls = st.builds(TrajectoryStep, texts, st.sampled_from(["find", "delete"]), arguments, texts, st.just(0.0))


def without_turns(steps: list[TrajectoryStep]) -> list[TrajectoryStep]:
    return [replace(step, turn=None) for step in steps]


@given(st.lists(calls, max_size=5))
def test_steps_become_messages_and_steps_again(steps: list[TrajectoryStep]) -> None:
    steps = [*steps, replace(DONE, reward=0.0)]
    assert without_turns(steps_of(messages_of(trajectory(steps=steps)))) == steps


def test_each_step_is_one_message_with_its_observation_behind_it() -> None:
    roles = [message["role"] for message in messages_of(trajectory())]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant"]


def test_parallel_calls_of_one_turn_stay_one_message() -> None:
    steps = [replace(LOOK_UP, turn=0), replace(DELETE, thought="", turn=0), DONE]
    messages = messages_of(trajectory(steps=steps))
    assert [len(message.get("tool_calls", [])) for message in messages] == [0, 2, 0, 0, 0]
    assert [message["content"] for message in messages if message["role"] == "tool"] == [
        LOOK_UP.observation,
        DELETE.observation,
    ]


def test_a_tool_that_is_called_finish_is_called() -> None:
    tools = [{"type": "function", "function": {"name": FINISH}}]
    last = messages_of(trajectory(tools=tools))[-2]
    assert last["tool_calls"][0]["function"] == {"name": FINISH, "arguments": {"answer": "Deleted 7."}}


@given(st.lists(st.builds(AgentTrajectory, texts, texts, st.lists(calls, max_size=3), st.booleans(), st.floats(-1, 1))))
def test_a_file_gives_back_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, saved: list[AgentTrajectory]
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    save_trajectories(saved, path)
    assert load_trajectories(path) == saved


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "t.jsonl:2: record: is not valid JSON"),
        ("[]", "t.jsonl:2: "),
        ('{"task_id": "a", "steps": []}', "'instruction' is a required property"),
        ('{"task_id": 1, "instruction": "i", "steps": []}', "t.jsonl:2: task_id: 1 is not of type 'string'"),
        ('{"task_id": "a", "instruction": "i", "steps": [{"action": 3}]}', "t.jsonl:2: steps[0].action"),
        ('{"task_id": "a", "instruction": "i", "steps": [], "succeeds": true}', "succeeds"),
    ],
)
def test_a_bad_line_is_told_by_file_line_and_field(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "t.jsonl"
    save_trajectories([trajectory()], path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is compared below
        load_trajectories(path)
    assert expected in str(error.value)
    assert "t.jsonl:2: " in str(error.value)


def learnt(record: Any, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each run of supervised tokens."""
    encoded = encode(from_record(record), tokenizer, 100_000)
    assert isinstance(encoded, Encoded)
    runs: list[list[int]] = [[]]
    for label in encoded.labels:
        if label != IGNORE_INDEX:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


CALLS = [
    'I need the id.\n<tool_call>\n{"name": "find", "arguments": {"title": "a"}}\n</tool_call><|im_end|>',
    'Now I delete it.\n<tool_call>\n{"name": "delete", "arguments": {"id": 7}}\n</tool_call><|im_end|>',
    "Deleted 7.<|im_end|>",
]


def test_thoughts_calls_and_the_answer_are_learnt_and_observations_are_not(tokenizer: PreTrainedTokenizerBase) -> None:
    assert learnt(TrajectoryToSFTConverter().convert_single(trajectory()), tokenizer) == CALLS


def test_without_the_mask_observations_are_learnt_too_as_in_the_papers_release(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    record = TrajectoryToSFTConverter(SFTConversionConfig(mask_observation=False)).convert_single(trajectory())
    seen = [step.observation + "<|im_end|>" for step in (LOOK_UP, DELETE)]
    assert learnt(record, tokenizer) == [CALLS[0], seen[0], CALLS[1], seen[1], CALLS[2]]


def test_observations_can_be_left_out(tokenizer: PreTrainedTokenizerBase) -> None:
    record = TrajectoryToSFTConverter(SFTConversionConfig(include_observation=False)).convert_single(trajectory())
    assert [message["role"] for message in record["messages"]] == ["user", *["assistant"] * 3]
    assert learnt(record, tokenizer) == CALLS


def test_a_system_prompt_stands_before_the_instruction() -> None:
    config = SFTConversionConfig(system_prompt="You act.")
    record = TrajectoryToSFTConverter(config).convert_single(trajectory())
    assert record["messages"][0] == {"role": "system", "content": "You act."}
    alpaca = TrajectoryToSFTConverter(SFTConversionConfig("alpaca", True, "You act.")).convert_single(trajectory())
    assert alpaca["instruction"] == "You act.\n\nDelete a."


def test_alpaca_is_react_text_in_one_output() -> None:
    record = TrajectoryToSFTConverter(SFTConversionConfig(format="alpaca")).convert([trajectory()])[0]
    assert record == {
        "instruction": "Delete a.",
        "input": "",
        "output": 'Thought: I need the id.\nAction: find\nAction Input: {"title": "a"}\nObservation: [{"id":7}]\n'
        'Thought: Now I delete it.\nAction: delete\nAction Input: {"id": 7}\nObservation: {"status":"deleted"}\n'
        "Final Answer: Deleted 7.\n",
    }
    read = from_record(record)["messages"]
    assert [
        message.get("tool_calls", [{}])[0].get("function") for message in read if message["role"] == "assistant"
    ] == [
        {"name": "find", "arguments": {"title": "a"}},
        {"name": "delete", "arguments": {"id": 7}},
        None,
    ]
    bare = TrajectoryToSFTConverter(SFTConversionConfig("alpaca", include_observation=False)).convert_single(
        trajectory()
    )
    assert "Observation" not in bare["output"]


def test_a_trajectory_without_steps_teaches_nothing() -> None:
    with pytest.raises(ValueError, match="'t' has no step"):
        TrajectoryToSFTConverter().convert([trajectory(steps=[])])


def test_the_references_filter_keeps_success_reward_and_length() -> None:
    long = trajectory(task_id="long", steps=[LOOK_UP, DELETE, LOOK_UP, DONE])
    given_ = [
        trajectory(),
        trajectory(task_id="failed", success=False),
        trajectory(task_id="poor", total_reward=0.4),
        long,
        trajectory(task_id="broken", success=False, status="error"),
        trajectory(task_id="again"),
    ]
    chooser = TrajectoryFilter(min_reward=0.5, require_success=True, max_steps=3)
    assert [kept.task_id for kept in chooser.filter(given_)] == ["t"]
    stats = chooser.get_stats(given_)
    assert (stats["kept"], stats["total"]) == (1, 6)
    assert stats["reasons"] == {
        "infrastructure": 1,
        "not_successful": 1,
        "low_reward": 1,
        "too_many_steps": 1,
        "duplicate": 1,
    }
    assert TrajectoryFilter().filter([long]) == [long], "without max_steps any length is kept"


def test_what_users_ask_beyond_the_reference() -> None:
    repeating = trajectory(steps=[LOOK_UP, LOOK_UP, DONE])
    refused = trajectory(figures={"refused_calls": 2.0})
    short = trajectory(steps=[DELETE, DONE])
    assert TrajectoryFilter(max_repeats=1).get_stats([repeating])["reasons"] == {"repeated_action": 1}
    assert TrajectoryFilter(max_refused=1).get_stats([refused])["reasons"] == {"refused_calls": 1}
    assert TrajectoryFilter(shortest=1).filter([trajectory(), short]) == [short]
    assert TrajectoryFilter(against=["delete  A."]).get_stats([trajectory()])["reasons"] == {"known_instruction": 1}


attempts = st.builds(
    AgentTrajectory,
    st.sampled_from("ab"),
    st.just("i"),
    st.lists(calls, max_size=4),
    st.booleans(),
    st.floats(0, 1),
    method=st.sampled_from(["react", "cot"]),
    family=st.sampled_from(["", "f"]),
    status=st.sampled_from(["finished", "error"]),
)


@given(st.lists(attempts), st.none() | st.integers(1, 3), st.none() | st.integers(1, 2))
def test_the_statistics_add_up(given_: list[AgentTrajectory], max_steps: int | None, shortest: int | None) -> None:
    chooser = TrajectoryFilter(max_steps=max_steps, shortest=shortest)
    stats = chooser.get_stats(given_)
    assert stats["total"] == len(given_) == stats["kept"] + sum(stats["reasons"].values())
    assert stats["kept"] == len(chooser.filter(given_))
    for group in ("tasks", "methods"):
        for name in ("kept", "total"):
            assert sum(share[name] for share in stats[group].values()) == stats[name]


def test_a_success_and_a_failure_of_one_task_make_a_pair() -> None:
    wrong = trajectory(success=False, steps=[replace(DELETE, action_input={"id": 8}), DONE])
    other = trajectory(task_id="other", success=False)
    broken = trajectory(success=False, status="error")
    (pair,) = preference_pairs([broken, wrong, trajectory(), other])
    assert pair["prompt"] == own_messages(trajectory())[0]
    assert pair["chosen"] == own_messages(trajectory())[1]
    assert pair["rejected"] == own_messages(wrong)[1]


def test_a_converted_file_is_training_data(tmp_path: Path) -> None:
    from sagetune.sources import load

    path = tmp_path / "sft.jsonl"
    records = TrajectoryToSFTConverter().convert([trajectory(), trajectory(task_id="u", method="cot")])
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [sample["messages"] for sample in load(str(path), num_samples=None).samples] == [
        record["messages"] for record in records
    ]


def test_a_shortened_sample_keeps_its_task_and_lets_the_failed_attempt_go(tokenizer: PreTrainedTokenizerBase) -> None:
    task = next(sample for sample in world.generate("planning", "train", 40) if len(sample["messages"]) > 6)
    for seed in range(40):
        collector = TrajectoryCollector(ExpertAgent(0.4, seed=seed), CollectorConfig(methods=["reflexion"]))
        found = [one for one in collector.attempts([task]) if one.attempt == 1 and one.success]
        if found:
            break
    (record,) = TrajectoryToSFTConverter().convert(found)
    whole = encode(from_record(record), tokenizer, 100_000)
    assert isinstance(whole, Encoded)
    cut = encode(from_record(record), tokenizer, len(whole.input_ids) - 1)
    assert isinstance(cut, Encoded)
    text = tokenizer.decode(cut.input_ids)
    assert task["messages"][0]["content"] in text
    assert RETRY in text
    assert cut.dropped_messages == found[0].own_from - 2
    assert [label for label in cut.labels if label != IGNORE_INDEX] == [
        label for label in whole.labels if label != IGNORE_INDEX
    ]


def test_an_earlier_attempts_observations_are_never_learnt() -> None:
    failed = trajectory(success=False, steps=[LOOK_UP], messages=messages_of(trajectory(steps=[LOOK_UP])))
    messages = [*failed.messages, {"role": "user", "content": RETRY}, *messages_of(trajectory())[1:]]
    second = trajectory(messages=messages, own_from=len(failed.messages) + 1)
    record = TrajectoryToSFTConverter(SFTConversionConfig(mask_observation=False)).convert_single(second)
    assert [message.get("loss") for message in record["messages"] if message["role"] == "tool"] == [None, True, True]
    assert preference_pairs([second, trajectory(success=False)]) == [], "it answers to what came before, too"


def test_records_of_one_task_have_ids_of_their_own() -> None:
    records = TrajectoryToSFTConverter().convert([trajectory(), trajectory(), trajectory()])
    assert len({record["id"] for record in records}) == 3
