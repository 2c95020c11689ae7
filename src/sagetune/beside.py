"""What a benchmark keeps in other files beside its questions: answers and functions, put into each record.

BFCL            possible_answer/<the same name>, multi_turn_func_doc/<API>.json
Seal-Tools      tool.jsonl
MetaTool        plugin_des.json, big_tool_des.json
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from sagetune.record_files import decode, read_entries

NUM_CANDIDATES = 10
"""Tools offered with a question of Seal-Tools or MetaTool; the number in the prompts of MetaTool's Task 2."""
FUNCTION_DOCS = {  # as BFCL's modules are named, too
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "TwitterAPI": "posting_api",
    "VehicleControlAPI": "vehicle_control",
}


class Beside:
    """The files beside one file of questions, read when a record first needs them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def complete(self, record: Any) -> Any:
        """`record` with what other files hold for it; the record itself if it needs nothing, or they are not there.

        Raises ValueError with the other file and its line or field.
        """
        if not isinstance(record, dict):
            return record
        if "question" in record:
            return self._functions(record) | self._answer(record) | record
        if isinstance(record.get("calling"), list) and "tools" not in record:
            names = [call.get("api") for call in record["calling"] if isinstance(call, dict)]
            return {**record, "tools": candidates(str(record.get("query")), names, self._seal_tools)}
        query, tools = record.get("Query", record.get("query")), record.get("Tool", record.get("tool"))
        if {"Query", "query"} & set(record) and tools and not {"tools", "thought_prompt"} & set(record):
            names = tools if isinstance(tools, list) else [tools]
            return {**record, "tools": candidates(str(query), names, self._meta_tools)}
        return record

    @cached_property
    def _answers(self) -> dict[str, Any]:
        answers = self.path.parent / "possible_answer" / self.path.name
        return {key: entry["ground_truth"] for key, entry in _by(answers, "id", ("ground_truth",)).items()}

    @cached_property
    def _seal_tools(self) -> dict[str, dict[str, Any]]:
        return _by(self.path.parent / "tool.jsonl", "api_name", ())

    @cached_property
    def _meta_tools(self) -> dict[str, dict[str, Any]]:
        tools: dict[str, dict[str, Any]] = {}
        for name in ("plugin_des.json", "big_tool_des.json"):
            path = self.path.parent / name
            descriptions = decode_file(path) if path.is_file() else {}
            if not isinstance(descriptions, dict):
                raise ValueError(f"{path}: expected an object of tool -> description")
            tools |= {tool: {"name": tool, "description": text} for tool, text in descriptions.items()}
        return tools

    def _answer(self, record: dict[str, Any]) -> dict[str, Any]:
        name = str(record.get("id"))
        if self._answers and name not in self._answers:
            raise ValueError(f"id: possible_answer/{self.path.name} has no answer to {name!r:.80}")
        return {"ground_truth": self._answers[name]} if name in self._answers else {}

    def _functions(self, record: dict[str, Any]) -> dict[str, Any]:
        if "function" in record or not isinstance(record.get("involved_classes"), list):
            return {}
        functions = []
        for name in record["involved_classes"]:
            if not isinstance(name, str) or name not in FUNCTION_DOCS:
                raise ValueError(f"involved_classes: must be of {', '.join(FUNCTION_DOCS)}, got {name!r:.80}")
            if name not in self._docs:
                path = self.path.parent / "multi_turn_func_doc" / f"{FUNCTION_DOCS[name]}.json"
                if not path.is_file():
                    raise ValueError(
                        f"involved_classes: the functions of {name} are read from {path}, which is missing"
                    )
                self._docs[name] = list(_by(path, "name", ()).values())
            functions += self._docs[name]
        excluded = record.get("excluded_function") or []
        if not isinstance(excluded, list):
            raise ValueError(f"excluded_function: expected a list of function names, got {excluded!r:.80}")
        return {"function": [function for function in functions if function["name"] not in excluded]}

    @cached_property
    def _docs(self) -> dict[str, list[dict[str, Any]]]:
        return {}


def candidates(question: str, names: list[Any], tools: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools `names`, as far as they are known, among others: NUM_CANDIDATES in all, in an order without meaning.

    The question alone decides which others and in which order, so that a record means the same wherever it stands.
    """
    draw = Random(question)
    wanted = sorted({name for name in names if isinstance(name, str) and name in tools})
    drawn = draw.sample(list(tools), min(len(tools), NUM_CANDIDATES + len(wanted)))
    offered = [*wanted, *(name for name in drawn if name not in wanted)][: max(NUM_CANDIDATES, len(wanted))]
    draw.shuffle(offered)
    return [tools[name] for name in offered]


def decode_file(path: Path) -> Any:
    """The JSON that a whole file is."""
    try:
        return decode(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _by(path: Path, key: str, fields: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The records of `path` by their `key`; none if there is no such file."""
    found: dict[str, dict[str, Any]] = {}
    for entry in read_entries(path) if path.is_file() else ():
        try:
            record = decode(entry.record)
        except ValueError as error:
            raise ValueError(f"{entry.place}: {error}") from error
        for field in (key, *fields):
            if not isinstance(record, dict) or field not in record:
                raise ValueError(f"{entry.place}: {field}: is missing")
        if not isinstance(record[key], str):
            raise ValueError(f"{entry.place}: {key}: expected a string, got {record[key]!r:.80}")
        found[record[key]] = record
    return found
