"""Records of files and samples turn into each other without loss, and a bad record is refused by field and reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from format_samples import call
from sagetune.formats import detect, from_openai, from_record, from_sharegpt, to_openai, to_sharegpt

ASK = {"role": "user", "content": "add 2 3"}


def through_disk(record: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(record))


def test_openai_strings_are_decoded_and_null_content_is_empty() -> None:
    record = {
        "messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [call(arguments='{"a": 2}', id="c")]}],
        "tools": '[{"name": "add", "parameters": {"type": "object"}}]',
    }
    sample = from_openai(record)
    assert sample["messages"][1]["content"] == ""
    assert sample["messages"][1]["tool_calls"] == [
        {"id": "c", "type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    ]
    assert sample["tools"] == [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def test_missing_ids_are_given_and_answered_in_order() -> None:
    record = {
        "messages": [
            ASK,
            {"role": "assistant", "tool_calls": [call("f"), call("g", id="call_1"), call("h")]},
            {"role": "tool", "content": "f's"},
            {"role": "tool", "content": "h's", "tool_call_id": "call_3"},
            {"role": "tool", "content": "g's"},
        ]
    }
    messages = from_openai(record)["messages"]
    assert [c["id"] for c in messages[1]["tool_calls"]] == ["call_2", "call_1", "call_3"]
    assert [m["tool_call_id"] for m in messages[2:]] == ["call_2", "call_3", "call_1"]


def test_text_parts_are_joined_and_other_parts_refused() -> None:
    parts = [{"type": "text", "text": "add "}, "2 ", {"type": "text", "value": "3"}]
    reply = {"role": "assistant", "content": "5"}
    assert from_openai({"messages": [{"role": "user", "content": parts}, reply]})["messages"][0]["content"] == "add 2 3"
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(ValueError, match=r"messages\[0\]\.content\[0\]: only text parts"):
        from_openai({"messages": [{"role": "user", "content": image}, reply]})


def test_a_tau_bench_run_is_openai_messages_under_traj_with_its_reward_in_meta() -> None:
    record = {"task_id": 3, "reward": 1.0, "trial": 0, "traj": [ASK, {"role": "assistant", "content": "5"}]}
    sample = from_record(record)
    assert [m["role"] for m in sample["messages"]] == ["user", "assistant"]
    assert sample["meta"] == {"task_id": 3, "reward": 1.0, "trial": 0}


@pytest.mark.parametrize("key", ["loss", "weight", "loss_weight"])
def test_a_weight_of_a_message_is_read_under_its_three_names(key: str) -> None:
    record = {"messages": [ASK, {"role": "assistant", "content": "5", key: 0}]}
    assert from_openai(record)["messages"][1]["loss"] == 0


def test_sharegpt_turns_become_messages() -> None:
    record = {
        "conversations": [
            {"from": "human", "value": "add 2 3 and 4 5"},
            {"from": "gpt", "value": "Both at once."},
            {"from": "function_call", "value": '[{"name": "add", "arguments": {"a": 2}}, {"name": "add"}]'},
            {"from": "function_call", "value": '{"name": "mul", "arguments": "{\\"a\\": 4}"}'},
            {"from": "observation", "value": "5"},
            {"from": "gpt", "value": "5", "loss": False},
        ],
        "system": "Be brief.",
        "tools": "",
    }
    messages = from_sharegpt(record)["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert messages[2]["content"] == "Both at once."
    assert [c["function"] for c in messages[2]["tool_calls"]] == [
        {"name": "add", "arguments": {"a": 2}},
        {"name": "add", "arguments": {}},
        {"name": "mul", "arguments": {"a": 4}},
    ]
    assert messages[3]["tool_call_id"] == messages[2]["tool_calls"][0]["id"]
    assert messages[4]["loss"] is False


def test_sharegpt_cannot_hold_a_call_after_an_assistant_message() -> None:
    record = {
        "messages": [ASK, {"role": "assistant", "content": "wait"}, {"role": "assistant", "tool_calls": [call()]}]
    }
    with pytest.raises(ValueError, match="ShareGPT cannot hold a call right after an assistant message"):
        to_sharegpt(from_openai(record))


def test_formats_are_told_apart_by_their_fields() -> None:
    assert detect({"messages": [ASK]}) == "openai"
    assert detect({"conversations": [{"from": "human", "value": "hi"}]}) == "sharegpt"
    with pytest.raises(ValueError, match="in no known format, has instances, instruction; known are a list of"):
        detect({"instances": "", "instruction": ""})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], r"record: expected a JSON object"),
        ({"messages": "hi"}, r"messages: expected a list of objects"),
        ({"messages": []}, r"messages: is empty"),
        ({"messages": [ASK]}, r"no assistant message"),
        ({"messages": [{"role": "robot", "content": ""}]}, r"messages\[0\]\.role: must be one of .* got 'robot'"),
        ({"messages": [ASK, {"role": "assistant", "content": None}]}, r"messages\[1\]: an assistant message needs"),
        ({"messages": [ASK, {"role": "assistant", "content": 5}]}, r"messages\[1\]\.content: expected a string"),
        (
            {"messages": [ASK, {"role": "assistant", "tool_calls": [call(arguments="{a: 2}")]}]},
            r"messages\[1\]\.tool_calls\[0\]\.function\.arguments: is not valid JSON",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "tool_calls": [call(arguments="[2, 3]")]}]},
            r"messages\[1\]\.tool_calls\[0\]\.function\.arguments: expected an object",
        ),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": [{}]}]}, r"tool_calls\[0\]\.function\.name"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": "add"}]}, r"tool_calls: expected a list"),
        ({"messages": [ASK, {"role": "assistant", "function_call": {}}]}, r"function_call: .* write tool_calls"),
        ({"messages": [ASK, {"role": "assistant", "content": "5", "loss": -1}]}, r"messages\[1\]\.loss"),
        ({"messages": [ASK], "tools": "[{"}, r"tools: is not valid JSON"),
        ({"messages": [ASK], "tools": {"a": 1}}, r"tools: expected a list"),
        ({"messages": [ASK], "tools": ["add"]}, r"tools\[0\]: expected an object"),
        ({"messages": [ASK], "tools": [{"description": "x"}]}, r"tools\[0\]: expected"),
        ({"conversations": [{"from": "bot", "value": ""}]}, r"conversations\[0\]\.from: must be one of"),
        ({"conversations": [{"from": "function_call", "value": "add(2)"}]}, r"conversations\[0\]\.value: is not valid"),
        ({"conversations": [{"from": "human", "value": 3}]}, r"conversations\[0\]\.value: expected a string"),
    ],
)
def test_a_bad_record_is_refused_by_field_and_reason(record: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_record(record)


def test_fields_beyond_the_format_come_back() -> None:
    reply = {"role": "assistant", "content": "5", "refusal": None, "audio_id": 7}
    sample = from_openai({"messages": [ASK, reply], "reward": 1})
    assert sample["meta"] == {"reward": 1, "message_fields": {"1": {"audio_id": 7}}}
    written = to_openai(sample)
    assert written["messages"][1]["audio_id"] == 7
    assert from_openai(through_disk(written)) == sample
