"""MetaTool's files <-> Sample: which tool a question needs, and whether it needs one at all.

{Query, Tool} (all_clean_data.csv) and {query, tool: [...]} (two tools): the question, answered by calls without
arguments; the functions stand in `tools`, where sagetune.beside puts them. {thought_prompt, label}: the prompt,
answered yes or no. {action_prompt}: the prompt lists tools without the right one, and the answer is None.
"""

from __future__ import annotations

from typing import Any

from sagetune.formats.decoding import ask_and_reply, bare_tools, new_sample, own_fields, reply, require, turns_of
from sagetune.sample import Sample

LABELS = {"positive": "yes", "negative": "no"}
NO_TOOL = "None"


def from_metatool(record: dict[str, Any]) -> Sample:
    """The sample of a record of any of the four forms."""
    if "action_prompt" in record:
        return _from_prompt(record, "action_prompt", NO_TOOL)
    if "thought_prompt" in record:
        label = record.get("label")
        if not isinstance(label, str) or label not in LABELS:
            raise ValueError(f"label: must be one of {', '.join(LABELS)}, got {label!r:.80}")
        return _from_prompt(record, "thought_prompt", LABELS[label])
    query = "Query" if "Query" in record else "query"
    named = [require(record, "Tool", str, "a tool's name")] if query == "Query" else record["tool"]
    if not isinstance(named, list) or not named or not all(isinstance(name, str) and name for name in named):
        raise ValueError(f"{'Tool' if query == 'Query' else 'tool'}: expected names of tools, got {named!r:.80}")
    asked = require(record, query, str, "a string")
    calls = [{"id": "", "type": "function", "function": {"name": name, "arguments": {}}} for name in named]
    tools = turns_of("tools", record.get("tools") or [])
    return new_sample(
        record, [{"role": "user", "content": asked}, reply(calls)], used=(query, "Tool", "tool", "tools"), tools=tools
    )


def to_metatool(sample: Sample) -> dict[str, Any]:
    """Raises ValueError for anything but the four forms: a call has no arguments, a prompt one of the known answers."""
    record = {"id": sample["id"]} if sample["id"] else {}
    meta = dict(sample["meta"])
    messages = sample["messages"]
    answer = messages[-1]["content"]
    if len(messages) == 2 and not messages[1].get("tool_calls") and answer in (NO_TOOL, *LABELS.values()):
        kept = {key: meta.pop(key) for key in ("label", "tool", "query", "index", "thought_prompt") if key in meta}
        prompt = "action_prompt" if answer == NO_TOOL else "thought_prompt"
        return record | kept | {prompt: messages[0]["content"]} | own_fields(sample, meta)
    asked, calls = ask_and_reply(sample, "MetaTool")
    if not calls or any(call["arguments"] for call in calls):
        raise ValueError("messages[1].tool_calls: MetaTool holds names of tools, and no arguments")
    names = [call["name"] for call in calls]
    named = {"Query": asked, "Tool": names[0]} if len(names) == 1 else {"query": asked, "tool": names}
    tools = {"tools": bare_tools(sample["tools"])} if sample["tools"] else {}
    return record | named | tools | own_fields(sample, meta)


def _from_prompt(record: dict[str, Any], field: str, answer: str) -> Sample:
    asked = require(record, field, str, "a string")
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return new_sample(record, messages, used=(field,), tools=None)
