"""Files of every form give their records in order, and a fault in any of them is told by file, line and field."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from format_samples import call
from sagetune.beside import NUM_CANDIDATES, candidates
from sagetune.formats import from_record, to_record
from sagetune.record_files import read_entries
from sagetune.sources import check_reference, load

SHARED = Path(__file__).parents[1].parent / "shared/data"
RECORD = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}


def write(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "ids"),
    [
        ("a.json", [RECORD, RECORD], ["a:1", "a:2"]),
        ("a.json", {"x": RECORD, "7": RECORD}, ["x", "7"]),
        ("a.json", f"{json.dumps(RECORD)}\n\n{json.dumps(RECORD)}\n", ["a:1", "a:3"]),
        ("a.json", json.dumps(RECORD) + "\n", ["a:1"]),
        ("a.jsonl", json.dumps(RECORD) + "\n", ["a:1"]),
        ("a.csv", 'instruction,output\n"two\nlines, and a comma",1\nsay,2\n', ["a:3", "a:4"]),
    ],
)
def test_every_form_of_file_gives_its_records_in_order(tmp_path: Path, name: str, content: Any, ids: list[str]) -> None:
    reference = write(tmp_path / name, content)
    check_reference(reference)
    assert [sample["id"] for sample in load(reference, num_samples=None).samples] == ids


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[\n{", r"a\.json:2: is not valid JSON"),
        ("a.json", "{}", r"a\.json: expected an array of records, an object of id -> record, or one record a line"),
        ("a.json", '["hi"]', r"a\.json: record 1: record: expected a JSON object, got 'hi'"),
        ("a.json", '{"FinanceTool": "Stay informed"}', r"a\.json:1: record: is in no known format, has FinanceTool"),
        ("a.json", {"x": {"messages": "hi"}}, r"a\.json: record 'x': messages: expected a list of objects"),
        ("a.json", f"{json.dumps(RECORD)}\n{{\n", r"a\.json:2: record: is not valid JSON"),
        ("a.json", '{"messages": [', r"a\.json:1: is not valid JSON"),
        ("a.csv", "Query,Tool\nhow,A\nwhy\n", r"a\.csv:3: expected the 2 fields Query, Tool, got 1"),
        ("a.csv", 'Query,Tool\nhow,"A\n', r"a\.csv:2: is not valid CSV"),
        ("a.csv", "Query,Tool\nhow,\n", r"a\.csv:2: tool: expected names|a\.csv:2: Tool: expected names"),
        ("a.csv", "question,answer\nhow,so\n", r"a\.csv:2: record: is in no known format"),
    ],
)
def test_a_broken_file_is_refused_by_line_and_field(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / name, content), num_samples=None)


def test_candidates_hold_the_right_tools_and_depend_on_the_question_alone() -> None:
    tools = {f"t{number}": {"name": f"t{number}"} for number in range(50)}
    offered = candidates("how", ["t7", "t3", "unknown"], tools)
    assert len(offered) == NUM_CANDIDATES
    assert {"t3", "t7"} <= {tool["name"] for tool in offered}
    assert offered == candidates("how", ["t7", "t3"], tools)
    assert offered != candidates("why", ["t7", "t3"], tools)
    places = [[tool["name"] for tool in candidates(str(n), ["t7"], tools)].index("t7") for n in range(200)]
    assert set(places) == set(range(NUM_CANDIDATES))


def test_answers_and_functions_of_bfcl_stand_in_files_beside_it(tmp_path: Path) -> None:
    question = {
        "id": "multi_turn_base_0",
        "question": [[{"role": "user", "content": "2 and 3?"}], [{"role": "user", "content": "And?"}]],
        "involved_classes": ["MathAPI"],
        "excluded_function": ["sub"],
    }
    functions = [{"name": name, "parameters": {"properties": {"a": {}, "b": {}}}} for name in ("add", "sub")]
    (tmp_path / "possible_answer").mkdir()
    (tmp_path / "multi_turn_func_doc").mkdir()
    reference = write(tmp_path / "b.json", question)
    answers = tmp_path / "possible_answer/b.json"
    write(answers, {"id": "multi_turn_base_0", "ground_truth": [["add(2, b=3)"], []]})
    with pytest.raises(ValueError, match=r"b\.json:1: involved_classes: .*math_api\.json, .* is missing"):
        load(reference, num_samples=None)
    write(tmp_path / "multi_turn_func_doc/math_api.json", "\n".join(map(json.dumps, functions)))
    (sample,) = load(reference, num_samples=None).samples
    assert [tool["function"]["name"] for tool in sample["tools"]] == ["add"]
    assert sample["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": 2, "b": 3}
    assert [m["role"] for m in sample["messages"]] == ["user", "assistant"] * 2
    write(answers, {"id": "multi_turn_base_0", "ground_truth": [["add(2, b=3)"]]})
    with pytest.raises(ValueError, match=r"b\.json:1: ground_truth: has 1 turns, question has 2"):
        load(reference, num_samples=None)
    write(answers, {"id": "other", "ground_truth": []})
    with pytest.raises(ValueError, match=r"id: possible_answer/b\.json has no answer to 'multi_turn_base_0'"):
        load(reference, num_samples=None)
    write(answers, '{"id": "multi_turn_base_0"}')
    with pytest.raises(ValueError, match=r"possible_answer/b\.json:1: ground_truth: is missing"):
        load(reference, num_samples=None)


def set_field(name: str, value: Any) -> Any:
    return lambda record: record | {name: value}


CORRUPTED = [
    ("bfcl_v4/BFCL_v4_simple_python.json", set_field("question", "hi"), r":3: question: expected a list of turns"),
    ("bfcl_v4/BFCL_v4_simple_python.json", set_field("function", {}), r":3: function: expected a list of objects"),
    ("bfcl_v4/BFCL_v4_multi_turn_base.json", set_field("involved_classes", ["X"]), r":3: involved_classes: must be of"),
    ("bfcl_v4/BFCL_v4_multi_turn_base.json", set_field("involved_classes", [[]]), r":3: involved_classes: must be of"),
    (
        "bfcl_v4/BFCL_v4_multi_turn_base.json",
        set_field("missed_function", [1]),
        r":3: missed_function: expected an obj",
    ),
    ("bfcl_v4/BFCL_v4_multi_turn_base.json", set_field("excluded_function", 7), r":3: excluded_function: expected a l"),
    ("seal_tools/dev.jsonl", set_field("calling", [{"api": "f", "parameters": []}]), r":3: calling\[0\]\.parameters: "),
    ("seal_tools/dev.jsonl", set_field("query", None), r":3: query: expected a string, got None"),
    ("metatool/multi_tool_query_golden.json", set_field("tool", [1]), r": record 3: tool: expected names of tools"),
    ("metatool/tmp_dataset/Task1.json", set_field("label", "maybe"), r": record 3: label: must be one of positive"),
    ("metatool/tmp_dataset/Task2-Subtask3.json", set_field("action_prompt", 1), r": record 3: action_prompt: expected"),
    ("tau_bench/gpt-4o-airline.json", set_field("traj", [{"role": "x"}]), r": record 3: messages\[0\]\.role: must be"),
    (
        "glaive_sharegpt/glaive_toolcall_en_demo.json",
        set_field("tools", "[{"),
        r": record 3: tools: is not valid JSON",
    ),
    ("fireact/finetune/gpt_format/hotpotqa.jsonl", set_field("messages", []), r":3: messages: is empty"),
]


@pytest.mark.parametrize(("name", "change", "message"), CORRUPTED)
def test_a_corrupted_copy_of_a_real_file_is_refused_by_line_and_field(
    tmp_path: Path, name: str, change: Any, message: str
) -> None:
    source = SHARED / name
    if not source.is_file():
        pytest.skip(f"the shared data file {name} is not here")
    for beside in ("possible_answer", "multi_turn_func_doc"):
        if (source.parent / beside).is_dir():
            shutil.copytree(source.parent / beside, tmp_path / beside)
    records = [
        json.loads(entry.record) if isinstance(entry.record, bytes) else entry.record for entry in read_entries(source)
    ]
    records[2] = change(records[2])
    is_array = source.read_bytes().lstrip().startswith(b"[")
    path = tmp_path / source.name
    write(path, records if is_array else "\n".join(json.dumps(record) for record in records))
    with pytest.raises(ValueError, match=rf"{source.name}{message}"):
        load(str(path), num_samples=None)


@pytest.mark.parametrize(
    "name", ["bfcl_v4/BFCL_v4_irrelevance.json", "seal_tools/dev.jsonl", "metatool/plugin_des.json"]
)
def test_a_real_file_that_was_cut_short_is_refused_by_its_last_line(tmp_path: Path, name: str) -> None:
    source = SHARED / name
    if not source.is_file():
        pytest.skip(f"the shared data file {name} is not here")
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes().rstrip()[:-20])
    last = len(path.read_bytes().splitlines())
    with pytest.raises(ValueError, match=rf"{source.name}:{last}: .*is not valid JSON"):
        load(str(path), num_samples=None)


TOOL = {"type": "function", "function": {"name": "add_001"}}
TEXT = {"messages": RECORD["messages"]}
CALL = {"messages": [RECORD["messages"][0], {"role": "assistant", "tool_calls": [call("add_001")]}], "tools": [TOOL]}
WRITTEN = [
    ("alpaca", TEXT, set_field("output", None), r"output: expected a string, got None"),
    ("alpaca", TEXT, set_field("history", [["x"]]), r"history\[0\]: expected \[instruction, output\]"),
    ("agent_instruct", TEXT, set_field("conversations", [{"from": "x"}]), r"conversations\[0\]\.from: must be one of"),
    (
        "agent_instruct",
        TEXT,
        set_field("conversations", [{"from": "gpt", "value": "x", "loss": "no"}]),
        r"messages\[0\]\.loss: expected true, false or a weight",
    ),
    (
        "hermes",
        CALL,
        set_field("conversations", [{"from": "gpt", "value": "<tool_call>{"}]),
        r"conversations\[0\]\.value",
    ),
    (
        "toolace",
        CALL,
        set_field("conversations", [{"from": "assistant", "value": "[add_001(x=y)]"}]),
        r"conversations\[0\]\.value: add_001\.x: expected a literal, got 'y'",
    ),
    ("xlam", CALL, set_field("answers", "[{"), r"answers: is not valid JSON"),
    ("xlam", CALL, set_field("answers", "{}"), r"answers: expected a list of objects"),
    ("agent_sft", CALL, set_field("turns", [{"role": "tool", "tool_id": "b_002"}]), r"turns\[0\]\.(tool_id|content)"),
    ("agent_sft", CALL, set_field("target_tools", "add"), r"target_tools: expected a list of tool ids"),
]


@pytest.mark.parametrize(("format", "chat", "change", "message"), WRITTEN)
def test_a_corrupted_line_of_a_format_is_refused_by_line_and_field(
    tmp_path: Path, format: str, chat: Any, change: Any, message: str
) -> None:
    sample = from_record({"id": "1", **chat})
    if format == "agent_sft":
        sample["messages"][1]["content"] = "call it"
        sample["messages"].append({"role": "tool", "content": "5", "tool_call_id": "call_1"})
    record = to_record(sample, format)
    lines = [json.dumps(line) for line in (record, change(record))]
    with pytest.raises(ValueError, match=rf"a\.jsonl:2: {message}"):
        load(write(tmp_path / "a.jsonl", "\n".join(lines)), num_samples=None)
    (read,) = load(str(tmp_path / "a.jsonl"), num_samples=1).samples
    assert read["messages"] == sample["messages"]
