"""ReAct text of every kind becomes messages, and the messages become the same text again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagetune.formats.react import final_answer, from_react, to_react


def assistant(content: str, *calls: tuple[str, dict[str, Any]], first: int = 1) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(calls, start=first)
        ]
    return message


def tool(content: str, call: str | None) -> dict[str, Any]:
    return {"role": "tool", "content": content} | ({"tool_call_id": call} if call else {})


CASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "brackets": (
        "Question: How old?\nThought: Search.\nAction: search[age [of] X]]\nObservation: 3\n- 4\nThought: So 3.\n"
        "Action: finish[3]\n",
        [
            {"role": "user", "content": "How old?"},
            assistant("Search.", ("search", {"query": "age [of] X]"})),
            tool("3\n- 4", "call_1"),
            assistant("So 3.", ("finish", {"answer": "3"}), first=2),
        ],
    ),
    "numbered": (
        "Thought 1: a\nmore\nAction 1: lookup[x]\nObservation 1: y\nThought 2: b\nAction 2: finish[z]",
        [
            assistant("a\nmore", ("lookup", {"input": "x"})),
            tool("y", "call_1"),
            assistant("b", ("finish", {"answer": "z"}), first=2),
        ],
    ),
    "json": (
        'Thought: a\nAction: add\nAction Input: {"a": [1, "]"]}\nObservation: 2\nThought: b\nFinal Answer: 2',
        [assistant("a", ("add", {"a": [1, "]"]})), tool("2", "call_1"), assistant("b\nFinal Answer: 2")],
    ),
    "json written otherwise": (
        'Action: add\nAction Input: {"a":1}',
        [assistant("", ("add", {"a": 1}))],
    ),
    "no observation between": (
        "Thought: a\nAction: f[1]\nThought: b\nAction: g[2]\nAction: h[3]\nObservation: 2\nObservation: 3\n"
        "Observation: 4",
        [
            assistant("a", ("f", {"input": "1"})),
            assistant("b", ("g", {"input": "2"}), ("h", {"input": "3"}), first=2),
            tool("2", "call_2"),
            tool("3", "call_3"),
            tool("4", None),
        ],
    ),
    "no action": ("Thought: a\nObservation: b\nThought: c", [assistant("a"), tool("b", None), assistant("c")]),
    "nothing repaired": (
        "Thought: a\nAction: search[x\nObservation: b\nAction: f\nAction Input: {1}",
        [assistant("a\nAction: search[x"), tool("b", None), assistant("Action: f\nAction Input: {1}")],
    ),
    "spaces": ("Thought: a \nAction:  f[x] \n", [assistant("a ", ("f", {"input": "x"}))]),
    "plain": ("just text", [assistant("just text")]),
    "nothing": ("", []),
}


@pytest.mark.parametrize("name", CASES)
def test_text_is_read_and_written_back(name: str) -> None:
    text, messages = CASES[name]
    read, layout = from_react(text)
    assert read == messages
    assert to_react(read, layout) == text
    assert ("text" in layout) == (name in ("json written otherwise", "spaces", "plain")), layout


def test_changed_messages_are_not_written_as_they_were() -> None:
    messages, layout = from_react("Thought: a \nAction:  f[x] \n")
    messages[0]["content"] = "b"
    assert to_react(messages, layout) == "Thought: b\nAction: f[x]\n"


def test_the_answer_is_what_finishes() -> None:
    assert final_answer(from_react(CASES["brackets"][0])[0]) == "3"
    assert final_answer(from_react(CASES["json"][0])[0]) == "2"
    assert final_answer(from_react(CASES["no action"][0])[0]) is None


def test_what_the_form_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="system"):
        to_react([{"role": "system", "content": "x"}])
    with pytest.raises(ValueError, match="brackets hold one text"):
        to_react([assistant("a", ("f", {"a": 1, "b": 2}))])  # type: ignore[list-item]
    for thought in ("a\nObservation: b", "Action: f[x]", ""):
        with pytest.raises(ValueError, match="read otherwise"):
            to_react([assistant(thought), assistant("", ("f", {"input": "x"}))])  # type: ignore[list-item]


PIECES = ["Thought: ", "Thought 2: ", "Action: ", "Action 1:", "Action Input: ", "Observation: ", "Final Answer: "]
TEXTS = st.lists(st.sampled_from([*PIECES, "Question: ", "\n", " ", "search[", "f[x]", "]", '{"a": 1}', "é"])).map(
    "".join
)


@given(TEXTS)
def test_any_text_round_trips(text: str) -> None:
    assert to_react(*from_react(text)) == text


MESSAGES = st.lists(
    st.builds(
        lambda thought, name, argument, result: [
            assistant(thought, (name, {{"search": "query", "finish": "answer"}.get(name, "input"): argument})),
            tool(result, "call_1"),
        ],
        st.text(),
        st.sampled_from(["search", "finish", "look.up-2"]),
        st.text(),
        st.text(),
    )
).map(lambda steps: [message for step in steps for message in step])


@given(MESSAGES, st.sampled_from([{}, {"json": True}, {"numbered": ["Action", "Observation", "Thought"]}]))
def test_messages_round_trip_with_either_kind_of_arguments(messages: Any, layout: Any) -> None:
    read, again = from_react(to_react(messages, layout))
    assert [(m["content"], [c["function"] for c in m.get("tool_calls", [])]) for m in read] == [
        (m["content"], [c["function"] for c in m.get("tool_calls", [])]) for m in messages
    ]
    assert to_react(read, again) == to_react(messages, layout)
