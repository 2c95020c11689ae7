"""What is no answer never scores and never raises, whichever scorer reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sagetune import world
from sagetune.evaluation.calls import parse_reply
from sagetune.evaluation.scoring.instruction_following import InstructionGold, score_constraints, score_instructions
from sagetune.evaluation.scoring.planning import PlanGold, score_in_world, score_plan
from sagetune.evaluation.scoring.reasoning import score_answer, score_gsm8k, score_yes_no
from sagetune.evaluation.scoring.selection import score_selection
from sagetune.evaluation.scoring.timing import score_timing
from sagetune.evaluation.scoring.tool_use import CATEGORIES, ToolUseGold, score_tool_use
from sagetune.evaluation.scoring.verdict import Scored
from sagetune.sample import FunctionCall, Message

PROMPT = "Book a table for 4 at Roma, then pay 4 euros. Answer yes or no."
CALLS: list[FunctionCall] = [
    {"name": "book", "arguments": {"place": "Roma", "seats": 4}},
    {"name": "pay", "arguments": {"amount": 4}},
]
PROPERTIES = {"place": {"type": "string"}, "seats": {"type": "integer"}, "amount": {"type": "integer"}}
FUNCTIONS = [
    {"name": call["name"], "parameters": {"properties": PROPERTIES, "required": list(call["arguments"])}}
    for call in CALLS
]
NAMES = [call["name"] for call in CALLS]
ANSWERS = [{call["name"]: {key: [value] for key, value in call["arguments"].items()}} for call in CALLS]
INSTRUCTIONS = InstructionGold(
    "1", PROMPT, ["punctuation:no_comma", "keywords:existence"], [{}, {"keywords": ["meal"]}]
)
Scorer = Callable[[str], Scored]


def tool_use(category: str, text: str) -> Scored:
    num = {"simple": 1, "multiple": 1, "irrelevance": 0, "relevance": 0}.get(category, 2)
    return score_tool_use(parse_reply(text), ToolUseGold(category, FUNCTIONS, ANSWERS[:num], PROMPT))


def in_world(task: world.Task, text: str) -> Scored:
    reply = parse_reply(text)
    if task.family == "general":
        return score_constraints(reply, task)
    turn: Message = {"role": "assistant", "content": reply.content}
    if reply.calls:
        turn["tool_calls"] = [{"id": "call_1", "type": "function", "function": call} for call in reply.calls]
    return score_in_world(task, [{"role": "user", "content": task.user}, turn], reply.error)


TASKS = {
    f"{task.family}/{task.kind}": task
    for family in world.FAMILIES
    for task in world.tasks(family, "test", 13 if family == "general" else 4)
}
SCORERS: dict[str, tuple[str, Scorer]] = {
    **{category: (PROMPT, partial(tool_use, category)) for category in CATEGORIES},
    "plan": (PROMPT, lambda text: score_plan(parse_reply(text), PlanGold(CALLS, {}, PROMPT))),
    "gsm8k": (PROMPT, lambda text: score_gsm8k(text, "#### 4")),
    "answer": (PROMPT, lambda text: score_answer(text, "Roma", PROMPT)),
    "yes": (PROMPT, lambda text: score_yes_no(text, True, PROMPT)),
    "no": (PROMPT, lambda text: score_yes_no(text, False, PROMPT)),
    "call": (PROMPT, lambda text: score_timing(parse_reply(text), True, PROMPT, NAMES)),
    "hold": (PROMPT, lambda text: score_timing(parse_reply(text), False, PROMPT, NAMES)),
    "selection": (PROMPT, lambda text: score_selection(parse_reply(text), "book", PROMPT, NAMES)),
    **{name: (task.user, partial(in_world, task)) for name, task in TASKS.items()},
}
if find_spec("if_verifiable"):
    SCORERS["instructions"] = (PROMPT, lambda text: score_instructions(text, INSTRUCTIONS))

GOLD = json.dumps(CALLS[0])
JUNK = {
    "empty": "",
    "blank": " \n\t ",
    "label": "tool:",
    "label_line": "\nAssistant: \n",
    "prose": f"I would call {GOLD} and then {json.dumps(CALLS[1])}, which books Roma and pays 4.",
    "python": "[book(place='Roma', seats=4), pay(amount=4)]",
    "bare_json": json.dumps(CALLS),
    "foreign": f"<functioncall> {GOLD}",
    "brackets": "[({<" * 2500,
    "open": "[" * 10_000,
    "closed": "]" * 10_000,
    "half_json": '{"name": "book", "arguments": {"place": "Roma", "se',
    "half_call": '<tool_call>\n{"name": "book", "arguments": {"place": "Ro',
    "unclosed": f"<tool_call>\n{GOLD}",
    "twice_open": f"<tool_call><tool_call>{GOLD}</tool_call>",
    "trailing": f"<tool_call>{GOLD}</tool_call> and so on",
    "no_call": "<tool_call></tool_call>",
    "deep": f'<tool_call>{{"name": "book", "arguments": {{"x": {"[" * 5000}',
    "deep_closed": f'<tool_call>{{"name": "book", "arguments": {{"x": {"[" * 500}{"]" * 500}}}}}</tool_call>',
    "unicode": "\u202e\u200b\ufeff\U0001f600\u00bf\u2028",
    "surrogate": "\ud800\udfff"[:1],
    "null": "\x00" * 50,
    "marks": "####",
    "not_a_number": '<tool_call>{"name": "book", "arguments": {"seats": NaN}}</tool_call>',
}


def check_invariants(scored: Scored) -> None:
    assert 0 <= scored.score <= 1
    assert all(0 <= value <= 1 for value in scored.figures.values())
    assert scored.correct <= (scored.score == 1)
    assert bool(scored.reason) is not scored.correct
    assert not (scored.parse_failure and scored.score)


@pytest.mark.parametrize("name", SCORERS)
def test_junk_and_the_request_itself_never_score(name: str) -> None:
    prompt, scorer = SCORERS[name]
    echoes = {"echo": prompt, "echo_label": f"User: {prompt}", "echo_case": f"  {prompt.upper()} "}
    for kind, text in {**JUNK, **echoes}.items():
        scored = scorer(text)
        check_invariants(scored)
        assert (scored.score, scored.correct) == (0, False), (kind, scored)


@settings(max_examples=40, deadline=None)
@given(
    st.text()
    | st.text('{}[]<>/:",\\ \n#yesno0123')
    | st.text('"{}[]:,0159aé\ud800').map(lambda text: f'<tool_call>{{"name": "book", "arguments": {text}}}</tool_call>')
)
@example('<tool_call>{"name": "book", "arguments": {"place": "\\ud800", "seats": 1e999}}</tool_call>')
def test_any_text_is_scored_without_an_exception(text: str) -> None:
    for _, scorer in SCORERS.values():
        check_invariants(scorer(text))


odd = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(SCORERS)), st.data())
def test_odd_arguments_of_an_offered_tool_raise_nothing(name: str, data: st.DataObject) -> None:
    keys, names = ["place", "seats", "amount", "new"], NAMES
    if name in TASKS:
        schemas = {tool["function"]["name"]: tool["function"] for tool in world.sample_of(TASKS[name])["tools"]}
        names = list(schemas) or NAMES
        keys = sorted({key for schema in schemas.values() for key in schema["parameters"]["properties"]}) or keys
    calls = data.draw(
        st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(names), "arguments": st.dictionaries(st.sampled_from(keys), odd)}
            ),
            max_size=3,
        )
    )
    text = "".join(f"<tool_call>{json.dumps(call, allow_nan=False)}</tool_call>" for call in calls if finite(call))
    check_invariants(SCORERS[name][1](text))


def finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
