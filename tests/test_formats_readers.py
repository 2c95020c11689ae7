"""What each format says is what the sample says: hand-made records in the published forms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from format_samples import call
from sagetune.formats import detect, from_record, to_record
from sagetune.formats.call_lists import read_call_list
from sagetune.formats.decoding import NO_CALL

ADD = {
    "name": "add",
    "description": "Sum.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}


def calls_of(sample: Any) -> list[tuple[str, dict[str, Any]]]:
    made = [made["function"] for message in sample["messages"] for made in message.get("tool_calls", [])]
    return [(function["name"], function["arguments"]) for function in made]


def roles(sample: Any) -> list[str]:
    return [message["role"] for message in sample["messages"]]


def test_alpaca_joins_instruction_and_input_and_takes_them_apart_again() -> None:
    record = {"instruction": "Sum.", "input": "2 3", "output": "5", "history": [["Hi", "Hello"]], "system": "Be brief."}
    sample = from_record(record)
    assert roles(sample) == ["system", "user", "assistant", "user", "assistant"]
    assert sample["messages"][3]["content"] == "Sum.\n\n2 3"
    written = to_record(sample, "alpaca")
    assert {key: written[key] for key in record} == record


def test_agent_instruct_trains_on_gpt_turns_but_for_those_flagged_false() -> None:
    turns = [
        {"from": "human", "loss": None, "value": "You are an agent."},
        {"from": "gpt", "loss": False, "value": "OK."},
        {"from": "human", "loss": None, "value": "List the files."},
        {"from": "gpt", "loss": True, "value": "Think: ...\n\nAct: bash\n\n```bash\nls\n```"},
        {"from": "human", "loss": None, "value": "a.txt"},
        {"from": "gpt", "value": "Act: answer(1)"},
    ]
    record = {"conversations": turns, "item_id": "os_0"}
    assert detect(record) == "agent_instruct"
    sample = from_record(record)
    assert sample["id"] == "os_0"
    assert [m.get("loss") for m in sample["messages"]] == [None, False, None, True, None, None]
    assert to_record(sample, "agent_instruct") == record


HERMES = (
    "You are a function calling AI model. You are provided with function signatures within <tools></tools> XML tags. "
    "Here are the available tools: <tools> {tools} </tools> For each function call return a json object within "
    "<tool_call></tool_call> XML tags as follows:\n<tool_call>\n{{'arguments': <args-dict>, 'name': <function-name>}}\n"
    "</tool_call>"
)


@pytest.mark.parametrize("spell", [json.dumps, repr])
def test_hermes_text_becomes_tools_calls_and_results(spell: Any) -> None:
    tools = [{"type": "function", "function": ADD}]
    made = [{"arguments": {"a": 2, "b": 3}, "name": "add"}, {"arguments": {"a": 1, "b": 1}, "name": "add"}]
    blocks = "\n".join(f"<tool_call>\n{spell(one)}\n</tool_call>" for one in made)
    record = {
        "conversations": [
            {"from": "system", "value": HERMES.format(tools=spell(tools))},
            {"from": "human", "value": "add"},
            {"from": "gpt", "value": f"Both.\n{blocks}"},
            {"from": "tool", "value": "<tool_response>\n5\n</tool_response>\n<tool_response>\n2\n</tool_response>"},
            {"from": "gpt", "value": "5 and 2"},
        ],
        "category": "sums",
    }
    assert detect(record) == "hermes"
    sample = from_record(record)
    assert roles(sample) == ["user", "assistant", "tool", "tool", "assistant"]
    assert sample["tools"] == tools
    assert sample["messages"][1]["content"] == "Both."
    assert calls_of(sample) == [("add", {"a": 2, "b": 3}), ("add", {"a": 1, "b": 1})]
    assert [m["content"] for m in sample["messages"][2:4]] == ["5", "2"]
    written = to_record(sample, "hermes")
    assert written["conversations"][0]["value"] == HERMES.format(tools=json.dumps(tools[0]))
    assert written["conversations"][3] == record["conversations"][3]


def test_hermes_is_read_from_messages_as_qwen_prints_them() -> None:
    sample = from_record({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]})
    sample = {**sample, "tools": [{"type": "function", "function": ADD}]}
    sample["messages"].insert(0, {"role": "system", "content": "Be brief."})
    turns = to_record(sample, "hermes")["conversations"]
    names = {"system": "system", "human": "user", "gpt": "assistant"}
    messages = [{"role": names[turn["from"]], "content": turn["value"]} for turn in turns]
    messages[1]["content"] = "<tool_response>\n7\n</tool_response>"
    read = from_record({"messages": messages})
    assert read["messages"][0]["content"] == "Be brief."
    assert roles(read) == ["system", "tool", "assistant"]
    assert read["tools"] == sample["tools"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<tool_call>\n{", r"conversations\[0\]\.value: <tool_call> without </tool_call>"),
        ("<tool_call>\nadd(2)\n</tool_call>", r"is neither JSON nor a Python literal"),
        ("<tool_call>\n{'a': __import__('os')}\n</tool_call>", r"is neither JSON nor a Python literal"),
        ('<tool_call>\n{"name": "add"}\n</tool_call> done', r"text after a call"),
        ("<tool_call></tool_call>", r"without a call|neither JSON"),
    ],
)
def test_hermes_refuses_what_is_no_call(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_record({"conversations": [{"from": "gpt", "value": text}]})


def test_toolace_calls_are_parsed_and_its_types_become_json_schema() -> None:
    functions = [
        {
            "name": "Market Trends API",
            "description": "Trends.",
            "parameters": {"type": "dict", "properties": {"country": {"type": "string"}, "top": {"type": "float"}}},
            "required": None,
        },
        ADD,
    ]
    system = (
        "You are an expert in composing functions. Here is a list:\n"
        f"{json.dumps(functions)}.\nShould you decide ... NO other text MUST be included."
    )
    record = {
        "system": system,
        "conversations": [
            {"from": "user", "value": "trends"},
            {"from": "assistant", "value": '[Market Trends API(country="u]s", top=-1.5), add(2, b=3)]'},
            {"from": "tool", "value": '[{"name": "Market Trends API"}, {"name": "add", "results": 5}]'},
            {"from": "assistant", "value": "Up [a lot]."},
        ],
    }
    assert detect(record) == "toolace"
    sample = from_record(record)
    assert calls_of(sample) == [("Market Trends API", {"country": "u]s", "top": -1.5}), ("add", {"a": 2, "b": 3})]
    assert roles(sample) == ["user", "assistant", "tool", "tool", "assistant"]
    parameters = sample["tools"][0]["function"]["parameters"]
    assert (parameters["type"], parameters["properties"]["top"]["type"]) == ("object", "number")
    written = to_record(sample, "toolace")
    assert written["system"] == system
    assert written["conversations"][1]["value"] == "[Market Trends API(country='u]s', top=-1.5), add(a=2, b=3)]"


@pytest.mark.parametrize("text", ["[add(a=1), sub(", "[add(a=__import__('os'))]", "[add(**x)]", "[add(1, 2, 3)]"])
def test_a_call_list_is_never_evaluated(text: str) -> None:
    tools = [{"type": "function", "function": ADD}]
    if text.endswith("("):
        assert read_call_list("value", text, tools) is None
        return
    with pytest.raises(ValueError, match=r"value: "):
        read_call_list("value", text, tools)


@pytest.mark.parametrize("text", ["[see the docs (here)]", "[1, 2]", "hello(world)", ""])
def test_text_in_brackets_is_no_call(text: str) -> None:
    assert read_call_list("value", text, []) is None


def test_xlam_flat_arguments_become_a_schema_and_come_back() -> None:
    flat = {
        "q": {"description": "What.", "type": "str"},
        "n": {"description": "How many.", "type": "int, optional", "default": 3},
        "tags": {"description": "Any.", "type": "List[str], optional"},
        "type": {"description": "A name that schemas use too.", "type": "str"},
    }
    tools = [{"name": "find", "description": "Find.", "parameters": flat}]
    answers = [{"name": "find", "arguments": {"q": "x"}}]
    record = {"id": "7", "query": "find x", "tools": json.dumps(tools), "answers": json.dumps(answers)}
    sample = from_record(record)
    schema = sample["tools"][0]["function"]["parameters"]
    assert schema["required"] == ["q", "type"]
    assert [schema["properties"][name]["type"] for name in flat] == ["string", "integer", "array", "string"]
    written = to_record(sample, "xlam")
    assert json.loads(written["tools"]) == tools
    assert json.loads(written["answers"]) == answers
    nothing = from_record({**record, "answers": "[]"})
    assert nothing["messages"][1]["content"] == NO_CALL


def test_bfcl_takes_the_first_allowed_values_and_leaves_out_what_may_be() -> None:
    properties = {
        "place": {"type": "dict", "properties": {"city": {"type": "string"}}},
        "days": {"type": "tuple", "items": {"type": "float"}},
        "unit": {"type": "string"},
        "any": {"type": "any"},
    }
    function = {
        "name": "w.get",
        "description": "",
        "parameters": {"type": "dict", "properties": properties, "required": ["place"]},
    }
    truth = [{"w.get": {"place": [{"city": ["Paris", "paris"]}], "days": [[1, 2]], "unit": ["", "C"]}}]
    record = {
        "id": "x_0",
        "question": [[{"role": "user", "content": "?"}]],
        "function": [function],
        "ground_truth": truth,
    }
    sample = from_record(record)
    assert calls_of(sample) == [("w.get", {"place": {"city": "Paris"}, "days": [1, 2]})]
    read = sample["tools"][0]["function"]["parameters"]["properties"]
    assert (read["place"]["type"], read["days"], read["any"]) == (
        "object",
        {"type": "array", "items": {"type": "number"}},
        {},
    )
    assert to_record(sample, "bfcl") == record
    sample["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"place": {"city": "Rome"}}
    with pytest.raises(ValueError, match=r"meta\.ground_truth: bfcl cannot hold it"):
        to_record(sample, "bfcl")  # answers to other calls than the sample's
    del sample["meta"]["ground_truth"]
    assert to_record(sample, "bfcl")["ground_truth"] == [{"w.get": {"place": [{"city": ["Rome"]}]}}]


def test_bfcl_questions_without_an_answer_say_so_by_their_id() -> None:
    question = {"question": [[{"role": "user", "content": "?"}]], "function": [ADD]}
    assert from_record({"id": "irrelevance_0", **question})["messages"][1]["content"] == NO_CALL
    assert from_record({"id": "live_relevance_0-0-0", **question})["messages"][1]["loss"] is False
    with pytest.raises(ValueError, match="ground_truth: is missing; it is read from possible_answer"):
        from_record({"id": "simple_0", **question})


def test_seal_tools_names_the_results_of_nested_calls() -> None:
    calling = [
        {"api": "find", "parameters": {"name": "x"}, "responses": ["API_call_0", "API_call_1"]},
        {"api": "open", "parameters": {"place": "API_call_1"}, "responses": ["API_call_2"]},
    ]
    function = {
        "api_name": "find",
        "api_description": "Find.",
        "field": "Files",
        "parameters": {"name": {"type": "str", "description": "Which."}},
        "required": ["name"],
        "responses": {"place": {"type": "str"}},
    }
    record = {"id": "dev-1", "query": "open x", "calling": calling, "tools": [function]}
    sample = from_record(record)
    assert calls_of(sample) == [("find", {"name": "x"}), ("open", {"place": "API_call_1"})]
    assert sample["tools"][0]["function"]["parameters"]["properties"]["name"]["type"] == "string"
    assert to_record(sample, "seal_tools") == record


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        ({"thought_prompt": "Tools?", "label": "positive", "query": "q", "tool": "Now"}, "yes"),
        ({"thought_prompt": "Tools?", "label": "negative", "query": "q"}, "no"),
        ({"action_prompt": "Which?", "thought_prompt": "Tools?", "query": "q", "tool": "Now", "index": "9"}, "None"),
    ],
)
def test_metatool_prompts_are_answered_in_their_words(record: dict[str, Any], answer: str) -> None:
    sample = from_record(record)
    assert sample["messages"][1]["content"] == answer
    assert to_record(sample, "metatool") == record


def test_an_agent_sft_dialog_calls_its_tools_where_their_results_stand() -> None:
    record = {
        "dialog_id": "sft_000045",
        "goal": "Find the fault",
        "turns": [
            {"role": "user", "content": "Diagnose the chip"},
            {"role": "assistant", "content": "Step 1: call oscilloscope_log_014"},
            {"role": "tool", "tool_id": "oscilloscope_log_014", "content": "Tool executed", "result": {"ok": True}},
            {"role": "tool", "tool_id": "logic_analyzer_233", "result": "fine"},
            {"role": "assistant", "content": "It is fine.", "tool_id": None, "result": None},
        ],
        "target_tools": ["oscilloscope_log_014", "logic_analyzer_233"],
        "metadata": {"difficulty": "hard"},
        "split": "train",
    }
    sample = from_record(record)
    assert sample["id"] == "sft_000045"
    assert roles(sample) == ["user", "assistant", "tool", "tool", "assistant"]
    assert calls_of(sample) == [("oscilloscope_log_014", {}), ("logic_analyzer_233", {})]
    assert [m["content"] for m in sample["messages"][2:4]] == ['{"ok": true}', "fine"]
    assert to_record(sample, "agent_sft") == record


CHAT = [
    {"role": "user", "content": "add"},
    {"role": "assistant", "content": "Now.", "tool_calls": [call("add", {"a": 1}, id="x")]},
    {"role": "tool", "content": "1", "tool_call_id": "x"},
    {"role": "assistant", "content": "1", "loss": False},
]


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("agent_instruct", r"tools: AgentInstruct holds text alone"),
        ("alpaca", r"messages: Alpaca holds user and assistant messages in turn"),
        ("toolace", r"messages\[1\]\.content: ToolACE cannot hold text and calls in one message"),
        ("xlam", r"messages: xLAM holds one user and one assistant message"),
        ("bfcl", r"messages\[1\]\.content: BFCL holds calls without text, got 'Now\.'"),
        ("seal_tools", r"messages: Seal-Tools holds one user"),
        ("metatool", r"messages: MetaTool holds one user"),
        ("agent_sft", r"messages\[1\]\.tool_calls: a dialog holds no arguments"),
        ("csv", r"format must be one of fireact, openai, sharegpt, .*, got 'csv'"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_field(format: str, message: str) -> None:
    sample = from_record({"messages": CHAT, "tools": [ADD]})
    with pytest.raises(ValueError, match=message):
        to_record(sample, format)


def test_a_field_that_would_be_read_back_differently_is_refused() -> None:
    sample = from_record({"messages": [CHAT[0], {**CHAT[3], "content": "ok", "loss": False}]})
    with pytest.raises(ValueError, match=r"messages\[1\].*: alpaca cannot hold it"):
        to_record(sample, "alpaca")
    marked = from_record({"messages": [CHAT[0], {"role": "assistant", "content": "<tool_call>"}], "tools": []})
    with pytest.raises(ValueError, match=r"sharegpt cannot hold this sample"):
        to_record(marked, "sharegpt")
