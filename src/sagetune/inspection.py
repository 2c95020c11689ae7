"""Samples and their tokens -> what a person should know before training on them. Pure functions, no model.

Faults contradict the record's own words and deserve a repair; notes are worth a look.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from sagetune.chat import IGNORE_INDEX, Encoded
from sagetune.sample import Message, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FAULTS = {
    "empty": "a user message or a reply without text",
    "contradiction": "the same conversation and tools, another last reply",
    "unknown_tool": "a call to a tool that is not offered",
    "bad_arguments": "arguments that the tool's schema refuses",
    "bad_schema": "a tool whose parameters are no JSON schema",
    "stray_result": "a tool message that answers no call",
    "unanswered_call": "a call without a result, though the conversation goes on",
}
NOTES = {
    "duplicate": "the same conversation and tools as an earlier sample",
    "truncated": "too long, so it trains without its oldest exchanges",
}
UNFIT = {
    "too_long": "dropped: too long even without its older exchanges",
    "unsupervised": "dropped: no reply carries a loss",
    "control_token": "dropped: its text holds a special token of the tokenizer",
    "unwritable": "dropped: the tokenizer has no tokens for some characters of a reply",
    "skipped": "a bad record, left out as data.on_error=skip asks",
}
MEANINGS = FAULTS | NOTES | UNFIT


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` is a key of MEANINGS; `detail` says where and what."""

    kind: str
    sample_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Bin:
    """Samples with `low` <= tokens < `high`: how many, and how many of their tokens are supervised."""

    low: int
    high: int
    num_samples: int
    num_supervised: int


def find(samples: Sequence[Sample]) -> list[Finding]:
    """Everything of FAULTS and NOTES in `samples`, in their order."""
    findings: list[Finding] = []
    conversations: dict[str, str] = {}
    replies: dict[str, tuple[str, str]] = {}
    for sample in samples:
        findings += _repeats(sample, conversations, replies)
        findings += _empty(sample)
        findings += _calls(sample)
        findings += _results(sample)
    return findings


def length_histogram(encoded: Sequence[Encoded], num_bins: int = 10) -> list[Bin]:
    """`num_bins` equal bins from 0 to the longest sample; [] for no samples."""
    if not encoded:
        return []
    width = max(len(sample.input_ids) for sample in encoded) // num_bins + 1
    counts: Counter[int] = Counter()
    supervised: Counter[int] = Counter()
    for sample in encoded:
        place = len(sample.input_ids) // width
        counts[place] += 1
        supervised[place] += num_supervised(sample)
    return [Bin(i * width, (i + 1) * width, counts[i], supervised[i]) for i in range(num_bins)]


def num_supervised(encoded: Encoded) -> int:
    """Tokens of the sample that carry a loss."""
    return sum(label != IGNORE_INDEX for label in encoded.labels)


def segments(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """The sample's text, decoded from its tokens, in runs of (text, does it carry a loss)."""
    pairs = zip(encoded.input_ids, encoded.labels, strict=True)
    runs = [(marked, [token for token, _ in run]) for marked, run in groupby(pairs, lambda p: p[1] != IGNORE_INDEX)]
    return [(tokenizer.decode(run), marked) for marked, run in runs]


def said(sample: Sample) -> str:
    """What the sample says, without ids: equal for equal conversations with equal tools."""
    return _key([[_said(message) for message in sample["messages"]], sample["tools"]])


def _repeats(sample: Sample, conversations: dict[str, str], replies: dict[str, tuple[str, str]]) -> Iterator[Finding]:
    """A duplicate or a contradiction; `conversations` and `replies` remember the earlier samples."""
    messages = [_said(message) for message in sample["messages"]]
    last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
    whole = said(sample)
    prompt, reply = _key([messages[:last], sample["tools"]]), _key(messages[last])
    if whole in conversations:
        yield Finding("duplicate", sample["id"], f"equals {conversations[whole]}")
    elif prompt in replies and replies[prompt][0] != reply:
        yield Finding("contradiction", sample["id"], f"replies otherwise than {replies[prompt][1]} to the same")
    conversations.setdefault(whole, sample["id"])
    replies.setdefault(prompt, (reply, sample["id"]))


def _said(message: Message) -> dict[str, Any]:
    """What the message says, without ids, which differ between equal conversations."""
    calls = [call["function"] for call in message.get("tool_calls", [])]
    return {"role": message["role"], "content": message["content"], "calls": calls}


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _empty(sample: Sample) -> Iterator[Finding]:
    for index, message in enumerate(sample["messages"]):
        silent = not message["content"].strip() and not message.get("tool_calls")
        if silent and message["role"] in ("user", "assistant"):
            yield Finding("empty", sample["id"], f"messages[{index}] ({message['role']})")


def _calls(sample: Sample) -> Iterator[Finding]:
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in sample["tools"]}
    broken = set()
    for name, schema in schemas.items():
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            broken.add(name)
            yield Finding("bad_schema", sample["id"], f"{name}: {error.message:.120}")
    for index, message in enumerate(sample["messages"]):
        for call in message.get("tool_calls", []):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            if name not in schemas:
                offered = ", ".join(schemas) or "none"
                yield Finding("unknown_tool", sample["id"], f"messages[{index}] calls {name}, offered: {offered:.120}")
            elif name not in broken:
                for problem in Draft202012Validator(schemas[name]).iter_errors(arguments):
                    yield Finding("bad_arguments", sample["id"], f"messages[{index}] {name}: {problem.message:.120}")


def _results(sample: Sample) -> Iterator[Finding]:
    """Results without a call, and calls that have no result when the next user or assistant message comes."""
    open_calls: dict[str, str] = {}
    for index, message in enumerate(sample["messages"]):
        if message["role"] == "tool":
            if open_calls.pop(message.get("tool_call_id", ""), None) is None:
                yield Finding("stray_result", sample["id"], f"messages[{index}]")
            continue
        for name in open_calls.values():
            yield Finding("unanswered_call", sample["id"], f"{name} before messages[{index}]")
        open_calls = {call["id"]: call["function"]["name"] for call in message.get("tool_calls", [])}
