"""Alpaca (`instruction`, `input`, `output`; LLaMA-Factory's `system` and `history` with them) <-> Sample."""

from __future__ import annotations

from typing import Any

from sagetune.formats.decoding import new_sample, own_fields, require
from sagetune.sample import Sample

USED = ("instruction", "input", "output", "system", "history")


def from_alpaca(record: dict[str, Any]) -> Sample:
    """The input, if any, stands below the instruction in the user's message; it is kept apart in `meta["input"]`."""
    instruction, given = require(record, "instruction", str, "a string"), record.get("input") or ""
    if not isinstance(given, str):
        raise ValueError(f"input: expected a string, got {given!r:.80}")
    messages = []
    if record.get("system"):
        messages.append({"role": "system", "content": require(record, "system", str, "a string")})
    for index, pair in enumerate(record.get("history") or []):
        if not isinstance(pair, list) or [type(text) for text in pair] != [str, str]:
            raise ValueError(f"history[{index}]: expected [instruction, output], got {pair!r:.80}")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    asked = f"{instruction}\n\n{given}" if given else instruction
    output = require(record, "output", str, "a string")
    messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": output}]
    return new_sample(record, messages, used=USED, tools=None, meta={"input": given} if given else {})


def to_alpaca(sample: Sample) -> dict[str, Any]:
    """Text alone, user and assistant in turn. Raises ValueError for any other order of messages."""
    messages = list(sample["messages"])
    meta = dict(sample["meta"])
    record: dict[str, Any] = {"id": sample["id"]} if sample["id"] else {}
    if messages[0]["role"] == "system":
        record["system"] = messages.pop(0)["content"]
    if [message["role"] for message in messages] != ["user", "assistant"] * max(1, len(messages) // 2):
        raise ValueError("messages: Alpaca holds user and assistant messages in turn, after at most one of the system")
    texts = [message["content"] for message in messages]
    *history, (asked, output) = zip(texts[::2], texts[1::2], strict=True)
    given = meta.get("input", "")
    if given and asked.endswith(f"\n\n{given}"):
        asked = asked.removesuffix(f"\n\n{meta.pop('input')}")
    else:
        given = ""
    record |= {"instruction": asked, "input": given, "output": output}
    return record | ({"history": [list(pair) for pair in history]} if history else {}) | own_fields(sample, meta)
