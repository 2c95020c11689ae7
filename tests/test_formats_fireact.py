"""FireAct's three forms become samples and the very same records again, on small ones and on the whole release."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sagetune.formats.fireact import FRAME, form_of, from_fireact, to_fireact
from sagetune.sources import load

RELEASE = Path(__file__).parents[1].parent / "shared/data/fireact"
RUNS = "hotpotqa_dev_0_500_"
needs_release = pytest.mark.skipif(not RELEASE.is_dir(), reason=f"FireAct's release is not at {RELEASE}")

TEXT = (
    "Thought: Search.\nAction: search[age of X]\nObservation: 3\nThought: So 3.\nAction: finish[3]\n"
    "Observation: Episode finished, reward = True\n"
)
ALPACA = {"instruction": "How old? ", "input": "", "output": TEXT}
GPT = {
    "messages": [
        {"role": "user", "content": "How old? "},
        {"role": "assistant", "content": "Thought: Search.\nAction: search[age of X]"},
        {"role": "user", "content": "Observation: 3"},
        {"role": "assistant", "content": "Thought: So 3.\nAction: finish[3]"},
        {"role": "user", "content": "Observation: Episode finished, reward = True"},
    ]
}
RUN = {"reward": True, "em": True, "f1": 1.0, "gt": "3", "pred": "3"}
SHOTS = "Solve a task.\nHow young?\nThought: a\nAction: finish[2]\nObservation: Episode finished, reward = 1\n\n"


def run(traj: Any, prompt: Any = "") -> dict[str, Any]:
    record = RUN | {"prompt": prompt, "traj": traj}
    return record | ({"traj_by_line": traj.split("\n")} if isinstance(traj, str) else {})


FORMS = {
    "alpaca": ALPACA,
    "gpt": GPT,
    "run of messages": run(GPT["messages"], []),
    "run in a frame": run(FRAME[0] + "How old? " + FRAME[1] + TEXT),
    "run after its shots": run("How old? \n" + TEXT, SHOTS),
    "run with its shots": run(SHOTS + "How old? \n" + TEXT, SHOTS),
    "messages with shots": run([*GPT["messages"][:2], *GPT["messages"]], GPT["messages"][:2]),
}


def through_disk(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_the_same_conversation(name: str) -> None:
    sample = from_fireact(FORMS[name])
    assert [message["role"] for message in sample["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert sample["messages"][0]["content"] == "How old? "
    assert sample["messages"][1]["content"] == "Search."
    calls = [call for message in sample["messages"] for call in message.get("tool_calls", [])]
    assert [call["function"] for call in calls] == [
        {"name": "search", "arguments": {"query": "age of X"}},
        {"name": "finish", "arguments": {"answer": "3"}},
    ]
    assert sample["messages"][2] == {"role": "tool", "content": "3", "tool_call_id": calls[0]["id"]}
    told = {key: value for key, value in sample["meta"].items() if key != "fireact"}
    assert told == {"method": "react", "success": True, "reward": "True"}
    assert to_fireact(through_disk(sample)) == FORMS[name]


def test_the_choices_go_back_to_the_question() -> None:
    record = ALPACA | {"instruction": "Question: which", "output": "A. 1\nB. 2\n" + TEXT}
    sample = from_fireact(record)
    assert sample["messages"][0]["content"] == "Question: which\nA. 1\nB. 2"
    assert sample["messages"][1]["content"] == "Search."
    assert to_fireact(sample) == record


def test_a_question_in_the_reply_and_a_reward_of_the_assistant_are_taken_out() -> None:
    record = {
        "messages": [
            {"role": "assistant", "content": "Would it?\nAction: finish[Answer: no.]"},
            {"role": "assistant", "content": "Observation: Episode finished, reward = 1."},
            {"role": "user", "content": "Observation: Episode finished, reward = 0"},
        ]
    }
    sample = from_fireact(record)
    assert [message["content"] for message in sample["messages"]] == ["Would it?", ""]
    assert sample["meta"]["success"] is False
    assert to_fireact(sample) == record


def test_an_observation_answers_the_first_action_of_a_turn() -> None:
    made_up = "Thought: a\nAction: search[x]\nThought: b\nAction: search[y]"
    turns = [GPT["messages"][0], {"role": "assistant", "content": made_up}, *GPT["messages"][2:]]
    sample = from_fireact({"messages": turns})
    assert sample["messages"][3]["tool_call_id"] == sample["messages"][1]["tool_calls"][0]["id"] == "call_1"
    assert to_fireact(sample) == {"messages": turns}


@pytest.mark.parametrize(
    ("tail", "method"),
    [
        ("Action: finish[3]\nObservation: Episode finished, reward = 1", "cot"),
        ("Action: finish[3]\nObservation: Episode finished, reward = 1\n", "react"),
        ("Action: finish[3]\nObservation: Episode finished, reward = True", "react"),
        ("Action: search[x]\nObservation: None\nThought: b\nAction: finish[3]", "react"),
    ],
)
def test_the_method_follows_from_the_run(tail: str, method: str) -> None:
    fixed = "Now that I haven't solved the task within 5 steps, let me do a reflection. "
    assert from_fireact(ALPACA | {"output": "Thought: a\n" + tail})["meta"]["method"] == method
    assert from_fireact(ALPACA | {"output": f"Thought: {fixed}a\n" + tail})["meta"]["method"] == "reflexion"


def test_other_records_are_not_fireacts() -> None:
    others: list[Any] = [
        *({"messages": GPT["messages"][:2]}, {"instruction": "a", "output": "b"}, {"traj": GPT["messages"]}, [], {}),
        {"messages": [{"role": "user", "content": "Observation: x"}, {"role": "assistant", "content": "y"}]},
    ]
    assert [form_of(record) for record in others] == [None] * len(others)
    with pytest.raises(ValueError, match="none of FireAct's forms"):
        from_fireact({})
    with pytest.raises(ValueError, match=r"meta\.fireact"):
        to_fireact(from_fireact(GPT) | {"meta": {}})  # type: ignore[arg-type]


COUNTS = {
    "finetune/alpaca_format/hotpotqa.json": (500, {"react": 500}, 0),
    "finetune/alpaca_format/hotpotqa_multimethod.json": (734, {"react": 500, "cot": 187, "reflexion": 47}, 40),
    "finetune/alpaca_format/multitask_multimethod.json": (2063, {"react": 1344, "cot": 648, "reflexion": 71}, 49),
    "finetune/gpt_format/hotpotqa.jsonl": (500, {"react": 500}, 0),
    "finetune/gpt_format/hotpotqa_multimethod.jsonl": (733, {"react": 500, "cot": 186, "reflexion": 47}, 40),
    # The form has lost what tells 328 runs without a search from chain of thought.
    "finetune/gpt_format/multitask_multimethod.jsonl": (2063, {"react": 1016, "cot": 976, "reflexion": 71}, 49),
    f"trajs/{RUNS}ft_gpt-3.5-turbo-0613_princeton-nlp__7woQRsdi_0.0_2023-09-21-16-19-51.json": (
        *(465, {"react": 309, "cot": 150, "reflexion": 6}),
        265,
    ),
    f"trajs/{RUNS}llama_models_lora_llama-2-13b-d_1000_0.7_2023-09-18-13-40-08.json": (
        *(499, {"react": 435, "reflexion": 64}),
        327,
    ),
    f"trajs/{RUNS}llama_models_lora_llama-2-7b-d_1000_0.7_2023-09-19-00-49-36.json": (
        *(500, {"react": 410, "reflexion": 90}),
        369,
    ),
}


@needs_release
@pytest.mark.parametrize("name", COUNTS)
def test_the_release_loads_whole_and_is_written_back_to_the_letter(name: str) -> None:
    path = RELEASE / name
    text = path.read_text()
    raw = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    samples = load(str(path), num_samples=None).samples
    num, methods, failed = COUNTS[name]
    assert len(samples) == num
    assert Counter(sample["meta"]["method"] for sample in samples) == methods
    assert sum(not sample["meta"]["success"] for sample in samples) == failed
    assert [to_fireact(sample) for sample in through_disk(samples)] == list(raw.values() if "trajs" in name else raw)
    assert [s["messages"] for s in load(str(path), num_samples=None).samples] == [s["messages"] for s in samples]


@needs_release
def test_no_observation_and_no_reward_is_left_in_what_is_trained_on() -> None:
    for name in COUNTS:
        for sample in load(str(RELEASE / name), num_samples=None).samples:
            replies = [m["content"] for m in sample["messages"] if m["role"] == "assistant"]
            assert not any("Episode finished" in m["content"] for m in sample["messages"])
            assert not any(reply.startswith("Observation:") or "\nObservation:" in reply for reply in replies)
