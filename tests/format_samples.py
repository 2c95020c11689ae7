"""Hypothesis strategies: any sample, and for each format samples that it can hold."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from sagetune.formats.decoding import NO_CALL
from sagetune.formats.fireact import from_fireact

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
texts = st.text()
names = st.text(min_size=1)
arguments = st.dictionaries(st.text(), json_values, max_size=3)
loss = st.sampled_from([{}, {"loss": False}, {"loss": True}, {"loss": 0.5}])
words = st.text(alphabet="abcé \n", min_size=1)
identifiers = st.from_regex(r"[a-z]{1,6}_[0-9]{1,3}", fullmatch=True)
plain_values = st.integers(-9, 9) | st.booleans() | words | st.lists(st.integers(0, 9), max_size=2)
plain_values |= st.dictionaries(identifiers, st.integers(0, 9), min_size=1, max_size=2)
plain_arguments = st.dictionaries(identifiers, plain_values, max_size=3)


def call(name: str = "add", arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments or {}}} | more


def tool(name: str, text: str, properties: Any = None) -> dict[str, Any]:
    parameters = {} if properties is None else {"type": "object", "properties": properties, "required": []}
    return {"type": "function", "function": {"name": name, "description": text, "parameters": parameters}}


tools = st.builds(tool, names, st.text())
kinds = st.sampled_from(["string", "number", "array", "boolean", "object", "integer"])
schemas = st.dictionaries(identifiers, st.fixed_dictionaries({"type": kinds, "description": st.text()}), max_size=2)
plain_tools = st.builds(tool, identifiers, words, schemas)


@st.composite
def samples(
    draw: st.DrawFn,
    *,
    system: st.SearchStrategy[str] = texts,
    names: st.SearchStrategy[str] = names,
    arguments: st.SearchStrategy[Any] = arguments,
    tools: st.SearchStrategy[Any] = tools,
    texts: st.SearchStrategy[str] = texts,
    loss: st.SearchStrategy[Any] = loss,
    ids: st.SearchStrategy[str] = texts,
    max_calls: int = 3,
    has_text_and_calls: bool = True,
    min_tools: int = 0,
    max_tools: int = 2,
) -> dict[str, Any]:
    """A conversation whose call ids and tool messages are as a reader would give them."""
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(system)})
    number = 0
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(texts)})
        calls = draw(st.lists(st.tuples(names, arguments), max_size=max_calls))
        call_ids = [f"call_{number + place + 1}" for place in range(len(calls))]
        number += len(calls)
        content = "" if calls and not has_text_and_calls else draw(texts if calls else texts.filter(bool))
        reply = {"role": "assistant", "content": content} | draw(loss)
        if calls:
            pairs = zip(call_ids, calls, strict=True)
            reply["tool_calls"] = [call(name, given, id=id_) for id_, (name, given) in pairs]
        messages.append(reply)
        messages += [{"role": "tool", "content": draw(texts), "tool_call_id": id_} for id_ in call_ids]
    return draw(st.builds(around, st.just(messages), st.lists(tools, min_size=min_tools, max_size=max_tools), ids))


@st.composite
def questions(
    draw: st.DrawFn,
    *,
    names: st.SearchStrategy[str] = identifiers,
    arguments: st.SearchStrategy[Any] = plain_arguments,
    min_calls: int = 0,
    max_turns: int = 1,
) -> dict[str, Any]:
    """Questions, each answered by calls or by none, without results."""
    messages: list[dict[str, Any]] = []
    number = 0
    for _ in range(draw(st.integers(1, max_turns))):
        messages.append({"role": "user", "content": draw(words)})
        calls = []
        for name, given in draw(st.lists(st.tuples(names, arguments), min_size=min_calls, max_size=2)):
            number += 1
            calls.append(call(name, given, id=f"call_{number}"))
        reply: dict[str, Any] = {"role": "assistant", "content": "" if calls else NO_CALL}
        messages.append(reply | ({"tool_calls": calls} if calls else {}))
    return draw(st.builds(around, st.just(messages), st.lists(plain_tools, max_size=2), identifiers))


def around(messages: list[dict[str, Any]], tools: list[dict[str, Any]], id: str) -> dict[str, Any]:
    return {"id": id, "messages": messages, "tools": tools, "task": "t", "source": "", "meta": {"reward": [1, None]}}


@st.composite
def dialogs(draw: st.DrawFn) -> dict[str, Any]:
    """Conversations of named tools: no description, no argument."""
    name_only = st.builds(lambda name: {"type": "function", "function": {"name": name}}, identifiers)
    sample = draw(samples(tools=name_only, texts=words, loss=st.just({}), system=words, max_calls=2, min_tools=1))
    called = [tool["function"]["name"] for tool in sample["tools"]]
    for message in sample["messages"]:
        for made in message.get("tool_calls", []):
            made["function"] = {"name": draw(st.sampled_from(called)), "arguments": {}}
        if message.get("tool_calls"):
            message["content"] = message["content"] or "look"
    return sample


texts_alone = {"max_calls": 0, "max_tools": 0, "texts": words, "system": words}


@st.composite
def fireact_samples(draw: st.DrawFn) -> Any:
    """What FireAct's reader makes of a run of a few searches: another sample is not in the format."""
    word = st.from_regex(r"[a-z]{1,8}( [a-z]{1,8})?", fullmatch=True)
    steps = draw(st.lists(st.tuples(word, word, word), max_size=3))
    lines = [f"Thought: {t}\nAction: search[{q}]\nObservation: {seen}\n" for t, q, seen in steps]
    reward = draw(st.sampled_from(["True", "1", "False", "0"]))
    ending = f"Thought: so\nAction: finish[{draw(word)}]\nObservation: Episode finished, reward = {reward}\n"
    return from_fireact({"instruction": draw(word), "input": "", "output": "".join(lines) + ending})


FITTING = {
    "fireact": fireact_samples(),
    "openai": samples(),
    "tau_bench": samples(),
    "sharegpt": samples(),
    "agent_instruct": samples(**texts_alone),  # type: ignore[arg-type]
    "hermes": samples(system=words, texts=words, tools=plain_tools, arguments=plain_arguments, names=identifiers),
    "toolace": samples(
        system=words,
        texts=words,
        tools=plain_tools,
        arguments=plain_arguments,
        names=identifiers,
        has_text_and_calls=False,
        min_tools=1,
    ),
    "alpaca": samples(**(texts_alone | {"loss": st.just({})})),  # type: ignore[arg-type]
    "xlam": questions(),
    "bfcl": questions(max_turns=3),
    "seal_tools": questions(),
    "metatool": questions(arguments=st.just({}), min_calls=1),
    "agent_sft": dialogs(),
}
