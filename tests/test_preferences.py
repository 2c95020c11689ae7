"""Pairs of a better and a worse conversation: read from every kind of file, masked as in supervised fine-tuning."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from sagetune.chat import IGNORE_INDEX, encode
from sagetune.config import ModelConfig
from sagetune.models import load_tokenizer
from sagetune.preferences import Pair, encode_pairs, load_pairs
from sagetune.trajectories.filter import preference_pairs
from sagetune.trajectories.record import AgentTrajectory, TrajectoryStep, save_trajectories

ASK = {"role": "user", "content": "add 1 and 2"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"terms": [1, 2]}'}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "observed 3", "tool_call_id": "c1"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def lines(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def texts(pair: Pair) -> tuple[list[str], list[str]]:
    chosen, rejected = ([message["content"] for message in side["messages"]] for side in (pair.chosen, pair.rejected))
    return chosen, rejected


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("embedded:tiny", ModelConfig())


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "add 1 and 2", "chosen": "3", "rejected": "4"},
        {"prompt": [ASK], "chosen": [said("3")], "rejected": [said("4")]},
        {"prompt": [ASK], "chosen": said("3"), "rejected": said("4")},
        {"prompt": "add 1 and 2", "chosen": [ASK, said("3")], "rejected": [ASK, said("4")]},
        {"chosen": [ASK, said("3")], "rejected": [ASK, said("4")]},
    ],
    ids=["texts", "conversational", "messages", "repeated prompt", "implicit prompt"],
)
def test_every_way_to_write_a_pair_is_read_alike(record: dict[str, Any], tmp_path: Path) -> None:
    (pair,) = load_pairs(lines(tmp_path / "pairs.jsonl", record), num_pairs=None).pairs
    assert texts(pair) == (["add 1 and 2", "3"], ["add 1 and 2", "4"])
    assert [message["role"] for message in pair.chosen["messages"]] == ["user", "assistant"]
    assert (pair.chosen["id"], pair.rejected["id"]) == ("pairs:1/chosen", "pairs:1/rejected")


def test_the_loss_covers_the_replys_assistant_turns_and_nothing_else(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Content, calls and the end of turn; not tool results, user turns or what the assistant said in the prompt."""
    record = {
        "prompt": [ASK, said("earlier words"), {"role": "user", "content": "go on"}],
        "chosen": [
            CALLING,
            {**RESULT, "loss": True},
            said("It is 3."),
            {"role": "user", "content": "more"},
            said("no"),
        ],
        "rejected": [said("It is 4.")],
        "tools": json.dumps([TOOL]),
    }
    (pair,) = load_pairs(lines(tmp_path / "pairs.jsonl", record), num_pairs=None).pairs
    (chosen, rejected), dropped = encode_pairs([pair], tokenizer, 512)
    assert not dropped
    seen = tokenizer.decode([token for token in chosen.labels if token != IGNORE_INDEX])
    assert seen.split("<|im_end|>") == [
        '<tool_call>\n{"name": "add", "arguments": {"terms": [1, 2]}}\n</tool_call>',
        "It is 3.",
        "no",
        "",
    ]
    assert tokenizer.decode([token for token in rejected.labels if token != IGNORE_INDEX]) == "It is 4.<|im_end|>"


def test_a_pairs_side_has_the_mask_that_the_same_conversation_has_alone(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    record = {"prompt": [ASK], "chosen": [CALLING, RESULT, said("3")], "rejected": [said("4")], "tools": [TOOL]}
    (pair,) = load_pairs(lines(tmp_path / "pairs.jsonl", record), num_pairs=None).pairs
    (chosen, _), _ = encode_pairs([pair], tokenizer, 512)
    alone = encode({**pair.chosen, "messages": [m | {} for m in pair.chosen["messages"]]}, tokenizer, 512)
    assert chosen == alone
    assert pair.chosen["tools"] == pair.rejected["tools"] == [TOOL]


def test_a_pair_that_does_not_fit_whole_is_dropped_and_counted(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Shortened by whole exchanges, as supervised samples are, its sides would answer to different prompts."""
    turns = [ASK, said("so " * 30), ASK]
    records = [
        {"prompt": "short", "chosen": "a", "rejected": "b"},
        {"prompt": turns, "chosen": "yes", "rejected": "no"},
        {"prompt": "short", "chosen": "a " * 200, "rejected": "b"},
    ]
    pairs = load_pairs(lines(tmp_path / "pairs.jsonl", *records), num_pairs=None).pairs
    encoded, dropped = encode_pairs(pairs, tokenizer, 40)
    assert [side.sample_id for side in encoded] == ["pairs:1/chosen", "pairs:1/rejected"]
    assert dropped == {"dropped_too_long": 2}


def test_pairs_that_collect_writes_are_read(tmp_path: Path) -> None:
    attempts = [trajectory("t1", True), trajectory("t1", False), trajectory("t2", True)]
    path = lines(tmp_path / "pairs.jsonl", *preference_pairs(attempts))
    assert load_pairs(path, num_pairs=None).pairs[0].chosen["messages"][-1]["content"] == "right"


def test_trajectories_are_paired_by_task(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    broken = trajectory("t1", False)
    broken.status = "error"
    attempts = [
        broken,
        trajectory("t1", False),
        trajectory("t2", True),
        trajectory("t1", True),
        trajectory("t3", False),
    ]
    save_trajectories(attempts, path)
    (pair,) = load_pairs(str(path), num_pairs=None).pairs
    assert texts(pair) == (["do t1", "right"], ["do t1", "wrong"])
    assert (pair.chosen["id"], pair.chosen["task"]) == ("t1#0/chosen", "planning")


def trajectory(task_id: str, success: bool) -> AgentTrajectory:
    answer = TrajectoryStep(action="finish", action_input={"answer": "right" if success else "wrong"})
    return AgentTrajectory(task_id, f"do {task_id}", [answer], success=success, family="planning")


def test_runs_of_tau_bench_are_paired_each_with_what_its_own_user_said(tmp_path: Path) -> None:
    def run(task: int, trial: int, reward: float, words: str) -> dict[str, Any]:
        traj = [{"role": "system", "content": "policy"}, {"role": "user", "content": words}, said(f"{words}!")]
        return {"task_id": task, "reward": reward, "info": {}, "traj": traj, "trial": trial}

    runs = [run(0, 0, 0.0, "hi"), run(0, 1, 1.0, "hello"), run(0, 2, 1.0, "hey"), run(1, 0, 1.0, "yo")]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    (pair,) = load_pairs(str(tmp_path / "runs.json"), num_pairs=None).pairs
    assert texts(pair) == (["policy", "hello", "hello!"], ["policy", "hi", "hi!"])


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"prompt": "a", "chosen": "b"}, "record: holds no preference, has prompt, chosen; known are prompt,"),
        ({"prompt": "a", "chosen": "", "rejected": "c"}, "chosen: is an empty text"),
        ({"prompt": "a", "chosen": 3, "rejected": "c"}, "chosen: expected a text or a list of messages, got 3"),
        ({"prompt": "a", "chosen": [ASK], "rejected": "c"}, "chosen: has to go on from the prompt with an assistant"),
        ({"chosen": "b", "rejected": "c"}, "prompt: is missing"),
        (
            {"prompt": "a", "chosen": [{"role": "assistant", "content": None}], "rejected": "c"},
            "chosen, counted from the prompt's first message: messages[1]: an assistant message needs content",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "tools": "[{"}, "tools: is not valid JSON"),
        ({"task_id": 1, "reward": "1", "traj": []}, "reward: expected a number, got '1'"),
        ({"task_id": "1", "instruction": 5, "steps": []}, "instruction: 5 is not of type 'string'"),
        ([1], "record: expected a JSON object"),
    ],
)
def test_a_bad_record_is_told_with_file_line_and_field(record: Any, told: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "pairs.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"}, record)
    with pytest.raises(ValueError, match=r"pairs\.jsonl:2: ") as error:
        load_pairs(path, num_pairs=None)
    assert told in str(error.value)


def test_bad_records_can_be_skipped_up_to_a_share(tmp_path: Path) -> None:
    good = [{"id": "same", "prompt": "a", "chosen": "b", "rejected": "c"}] * 30
    loaded = load_pairs(lines(tmp_path / "pairs.jsonl", *good, {}), num_pairs=None, on_error="skip")
    assert len({pair.chosen["id"] for pair in loaded.pairs}) == 30
    assert loaded.skipped == [
        f"{tmp_path}/pairs.jsonl:31: record: holds no preference, has no field; known are {KNOWN}"
    ]
    with pytest.raises(ValueError, match="2 of 4 records are bad"):
        load_pairs(lines(tmp_path / "bad.jsonl", *good[:2], {}, {}), num_pairs=None, on_error="skip")


KNOWN = (
    "prompt, chosen and rejected (a pair); task_id, instruction, steps (a trajectory); "
    "task_id, reward, traj (a run of tau-bench)"
)


def test_runs_without_a_failure_of_the_same_task_are_no_pairs(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", asdict(trajectory("t1", True)), asdict(trajectory("t2", False)))
    with pytest.raises(ValueError, match="1 of 2 runs succeeded, but there is no task with a success and a failure"):
        load_pairs(path, num_pairs=None)


def test_the_first_pairs_are_taken(tmp_path: Path) -> None:
    records = [{"prompt": str(place), "chosen": "b", "rejected": "c"} for place in range(5)]
    pairs = load_pairs(lines(tmp_path / "pairs.jsonl", *records), num_pairs=2).pairs
    assert [pair.chosen["messages"][0]["content"] for pair in pairs] == ["0", "1"]


def test_the_pairs_of_a_question_stay_in_one_split_of_their_file(tmp_path: Path) -> None:
    records = [{"prompt": f"add {n % 50} and 2", "chosen": str(n), "rejected": "-1"} for n in range(100)]
    path = lines(tmp_path / "pairs.jsonl", *records)
    parts = [load_pairs(f"{path}:{split}", num_pairs=None).pairs for split in ("train", "dev", "test")]
    asked = [{texts(pair)[0][0] for pair in part} for part in parts]
    assert sum(map(len, parts)) == 100
    assert sum(map(len, asked)) == len(set.union(*asked)) == 50
