"""A record of a file <-> Sample, one module a format.

Here, and nowhere else, JSON strings are decoded and missing pieces that follow from the record are filled in. Two of
the formats are forms of another: agent_instruct of ShareGPT, tau_bench of OpenAI's messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sagetune.formats.agent_sft import from_agent_sft, to_agent_sft
from sagetune.formats.alpaca import from_alpaca, to_alpaca
from sagetune.formats.bfcl import from_bfcl, to_bfcl
from sagetune.formats.comparing import first_difference
from sagetune.formats.decoding import turns_of
from sagetune.formats.fireact import form_of, from_fireact, to_fireact
from sagetune.formats.hermes import from_hermes, is_hermes, to_hermes
from sagetune.formats.metatool import from_metatool, to_metatool
from sagetune.formats.openai import MESSAGE_LISTS, from_openai, to_openai, to_tau_bench
from sagetune.formats.seal_tools import from_seal_tools, to_seal_tools
from sagetune.formats.sharegpt import from_agent_instruct, from_sharegpt, to_agent_instruct, to_sharegpt
from sagetune.formats.toolace import from_toolace, is_toolace, to_toolace
from sagetune.formats.xlam import from_xlam, to_xlam
from sagetune.sample import Sample

READERS: dict[str, Callable[[dict[str, Any]], Sample]] = {
    "fireact": from_fireact,
    "openai": from_openai,
    "sharegpt": from_sharegpt,
    "agent_instruct": from_agent_instruct,
    "hermes": from_hermes,
    "toolace": from_toolace,
    "tau_bench": from_openai,
    "alpaca": from_alpaca,
    "xlam": from_xlam,
    "bfcl": from_bfcl,
    "seal_tools": from_seal_tools,
    "metatool": from_metatool,
    "agent_sft": from_agent_sft,
}
WRITERS: dict[str, Callable[[Sample], dict[str, Any]]] = {
    "fireact": to_fireact,
    "openai": to_openai,
    "sharegpt": to_sharegpt,
    "agent_instruct": to_agent_instruct,
    "hermes": to_hermes,
    "toolace": to_toolace,
    "tau_bench": to_tau_bench,
    "alpaca": to_alpaca,
    "xlam": to_xlam,
    "bfcl": to_bfcl,
    "seal_tools": to_seal_tools,
    "metatool": to_metatool,
    "agent_sft": to_agent_sft,
}
FORMATS = tuple(READERS)
FIELDS = (
    ("bfcl", ("question", "function")),
    ("bfcl", ("question", "involved_classes")),
    ("agent_sft", ("dialog_id", "turns")),
    ("xlam", ("query", "tools", "answers")),
    ("seal_tools", ("query", "calling")),
    ("metatool", ("Query", "Tool")),
    ("metatool", ("query", "tool")),
    ("metatool", ("thought_prompt", "label")),
    ("metatool", ("action_prompt",)),
    ("alpaca", ("instruction", "output")),
)
"""The fields that tell a format without a list of messages; the first that a record has all of names it."""
KNOWN = "; ".join([f"a list of turns under {' or '.join(MESSAGE_LISTS)}", *(f"{n}: {', '.join(f)}" for n, f in FIELDS)])


def detect(record: dict[str, Any]) -> str:
    """Which of FORMATS `record` is in: ReAct text tells first, then a list of messages, then the fields.

    Raises ValueError if in none.
    """
    if not isinstance(record, dict):
        raise ValueError(f"record: expected a JSON object, got {record!r:.80}")
    if form_of(record) is not None:
        return "fireact"
    name = next((name for name in MESSAGE_LISTS if name in record), None)
    if name is not None:
        return _conversation(record, name)
    found = next((format for format, fields in FIELDS if all(field in record for field in fields)), None)
    if found is None:
        raise ValueError(f"record: is in no known format, has {', '.join(record) or 'no field'}; known are {KNOWN}")
    return found


def from_record(record: dict[str, Any]) -> Sample:
    """The checked sample in `record`, whatever its format. Raises ValueError naming the field and the reason."""
    return READERS[detect(record)](record)


def to_record(sample: Sample, format: str) -> dict[str, Any]:
    """`sample` as a record of `format` that `from_record` reads back as `sample`.

    Call ids may change, not which call a message answers. Raises ValueError naming what the format cannot hold.
    """
    if format not in WRITERS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    record = WRITERS[format](sample)
    try:
        read = from_record(json.loads(json.dumps(record)))
    except ValueError as error:
        raise ValueError(f"{format} cannot hold this sample: what is written is not read again: {error}") from error
    different = first_difference(sample, read)
    if different is not None:
        raise ValueError(f"{different}: {format} cannot hold it, it would be read back differently")
    return record


def _conversation(record: dict[str, Any], name: str) -> str:
    turns = turns_of(name, record[name])
    if name == "traj":
        return "tau_bench"
    if not turns or "from" not in turns[0]:
        return "hermes" if record.get("tools") in (None, "") and is_hermes(turns) else "openai"
    if is_toolace(record):
        return "toolace"
    system = [{"from": "system", "value": record["system"]}] if record.get("system") else []
    if is_hermes([*system, *turns]):
        return "hermes"
    return "agent_instruct" if "item_id" in record or _has_loss_flags(turns) else "sharegpt"


def _has_loss_flags(turns: list[dict[str, Any]]) -> bool:
    """AgentInstruct gives `loss` to every turn, null where there is nothing to learn."""
    return any("loss" in turn and turn["loss"] is None for turn in turns)
