"""The reader of tool calls: inverse of the renderer, and never fooled into taking a failed call for silence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sagetune.evaluation.calls import parse_reply, render_reply

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
functions = st.fixed_dictionaries(
    {"name": st.text(min_size=1), "arguments": st.dictionaries(st.text(), json_values, max_size=4)}
)


def assistant(content: str, *functions: dict[str, Any]) -> dict[str, Any]:
    calls = [{"id": f"call_{n}", "type": "function", "function": function} for n, function in enumerate(functions)]
    return {"role": "assistant", "content": content, "tool_calls": calls}


@given(st.sampled_from(["", "One moment.", "Größe?\n\nJa 😀"]), st.lists(functions, min_size=1, max_size=3))
@example("", [{"name": "note", "arguments": {"text": '</tool_call> and <tool_call> and "}'}}])
def test_what_is_rendered_is_read_back(content: str, functions: list[dict[str, Any]]) -> None:
    reply = parse_reply(render_reply(assistant(content, *functions)))
    assert reply.error is None
    assert (reply.content, reply.calls) == (content, functions)


@given(st.text() | st.text(alphabet='<tool_call>/{}":,[] \n').map(lambda text: "<tool_call>" + text))
@example("<tool_call>" + "[" * 100_000)
@example('<tool_call>{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}</tool_call>")
@example('<tool_call>{"name": "f", "arguments": {"x": ' + "[" * 500 + "]" * 500 + "}}</tool_call>")
def test_any_text_is_read_without_an_exception(text: str) -> None:
    reply = parse_reply(text)
    assert not (reply.calls and reply.error)


def test_plain_text_is_a_reply_without_calls() -> None:
    reply = parse_reply(" Which day do you mean?\n")
    assert (reply.content, reply.calls, reply.error) == ("Which day do you mean?", [], None)


def test_arguments_may_be_a_json_string() -> None:
    reply = parse_reply('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>')
    assert reply.calls == [{"name": "add", "arguments": {"a": 1}}]


def test_parallel_calls_keep_their_order() -> None:
    calls = [{"name": name, "arguments": {}} for name in ("b", "a", "b")]
    text = "".join(f"<tool_call>{json.dumps(call)}</tool_call>\n" for call in calls)
    assert parse_reply(text).calls == calls


FAILURES = {
    "the reply is empty": " \n",
    "an unfinished call": '<tool_call>\n{"name": "send", "arguments": {"to": "an',
    "is not followed by </tool_call>": '<tool_call>\n{"name": "send", "arguments": {}}',
    "is not JSON": "<tool_call>\n{'name': 'send', 'arguments': {}}\n</tool_call>",
    "NaN is not JSON": '<tool_call>{"name": "send", "arguments": {"x": NaN}}</tool_call>',
    "without a name": '<tool_call>{"arguments": {}}</tool_call>',
    "must be an object, got list": '<tool_call>{"name": "send", "arguments": [1]}</tool_call>',
    "must be an object, got NoneType": '<tool_call>{"name": "send"}</tool_call>',
    "must be a JSON object, got list": '<tool_call>[{"name": "send", "arguments": {}}]</tool_call>',
    "text after a call": '<tool_call>{"name": "send", "arguments": {}}</tool_call> Done!',
    "nested deeper": '<tool_call>{"name": "f", "arguments": {"x": ' + "[" * 99 + "]" * 99 + "}}</tool_call>",
    "</tool_call> without <tool_call>": '{"name": "send", "arguments": {}}</tool_call>',
    "does not begin with <tool_call>": '<tool_call {"name": "send", "arguments": {}}',
    "outside of": '{"name": "send", "arguments": {}}',
}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_failed_call_is_an_error_with_its_reason(reason: str) -> None:
    reply = parse_reply(FAILURES[reason])
    assert reply.calls == []
    assert reason in (reply.error or "")


def test_a_call_in_a_code_fence_is_an_error() -> None:
    assert "outside of" in (parse_reply('```json\n{"name": "send", "arguments": {}}\n```').error or "")
