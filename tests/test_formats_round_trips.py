"""Sample -> record -> Sample for every format, and record -> Sample -> record on the real files."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from format_samples import FITTING, json_values, samples
from sagetune.beside import Beside
from sagetune.formats import FORMATS, detect, from_record, to_record
from sagetune.record_files import decode, read_entries

SHARED = Path(__file__).parents[1].parent / "shared/data"
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def through_disk(record: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(record))


def test_there_is_a_strategy_for_every_format() -> None:
    assert set(FITTING) == set(FORMATS)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_a_format_gives_back_the_samples_that_it_can_hold(format: str, data: st.DataObject) -> None:
    sample = data.draw(FITTING[format])
    assert from_record(through_disk(to_record(sample, format))) == sample


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=15, deadline=None, suppress_health_check=SLOW)
@given(sample=samples())
def test_a_format_refuses_what_it_cannot_hold(format: str, sample: Any) -> None:
    with contextlib.suppress(ValueError):
        assert from_record(through_disk(to_record(sample, format))) == sample


def decoded(value: Any) -> Any:
    """`value` with the JSON in its strings read and empty fields left out: what a record says, not how it is spelt."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return decoded(json.loads(value))
        except json.JSONDecodeError:
            return value
    if isinstance(value, dict):
        return {key: decoded(inner) for key, inner in value.items() if decoded(inner) not in (None, "", [], {})}
    return [decoded(inner) for inner in value] if isinstance(value, list) else value


BFCL = {
    "irrelevance": (240, 0),
    "live_irrelevance": (884, 0),
    "live_multiple": (1053, 1053),
    "live_parallel": (16, 39),
    "live_parallel_multiple": (24, 55),
    "live_relevance": (16, 0),
    "live_simple": (258, 258),
    "multi_turn_base": (200, 1142),
    "multi_turn_miss_func": (200, 1140),
    "multi_turn_miss_param": (200, 1140),
    "multiple": (200, 200),
    "parallel": (200, 540),
    "parallel_multiple": (200, 607),
    "simple_python": (400, 400),
}
REAL = [
    *((f"bfcl_v4/BFCL_v4_{name}.json", "bfcl", *counts) for name, counts in BFCL.items()),
    ("glaive_sharegpt/glaive_toolcall_en_demo.json", "sharegpt", 300, 211),
    ("tau_bench/gpt-4o-airline.json", "tau_bench", 200, 1164),
    ("seal_tools/dev.jsonl", "seal_tools", 700, 1804),
    ("seal_tools/test_in_domain.jsonl", "seal_tools", 700, 1795),
    ("metatool/all_clean_data.csv", "metatool", 20614, 20614),
    ("metatool/multi_tool_query_golden.json", "metatool", 497, 994),
    ("metatool/tmp_dataset/Task1.json", "metatool", 1040, 0),
    ("metatool/tmp_dataset/Task2-Subtask3.json", "metatool", 995, 0),
]


@pytest.mark.parametrize(("name", "format", "num_records", "num_calls"), REAL, ids=[name for name, *_ in REAL])
def test_a_real_file_is_read_whole_and_written_as_it_was(
    name: str, format: str, num_records: int, num_calls: int
) -> None:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the shared data file {name} is not here")
    beside = Beside(path)
    records = [beside.complete(decode(entry.record)) for entry in read_entries(path)]
    assert {detect(record) for record in records} == {format}
    read = [from_record(record) for record in records]
    assert len(read) == num_records
    assert sum(len(m.get("tool_calls", [])) for sample in read for m in sample["messages"]) == num_calls
    for record, sample in list(zip(records, read, strict=True))[:: 1 + num_records // 60]:
        assert decoded(to_record(sample, format)) == decoded(record)
        to_record(sample, "openai")


@pytest.mark.parametrize(
    ("name", "num_wrong"), [("simple_python", 0), ("parallel", 0), ("live_multiple", 16), ("multi_turn_base", 1)]
)
def test_bfcl_gold_fits_the_json_schemas_but_for_its_known_faults(name: str, num_wrong: int) -> None:
    path = SHARED / f"bfcl_v4/BFCL_v4_{name}.json"
    if not path.is_file():
        pytest.skip(f"the shared data file {path.name} is not here")
    beside = Beside(path)
    faults = 0
    for entry in read_entries(path):
        sample = from_record(beside.complete(decode(entry.record)))
        functions = {tool["function"]["name"]: tool["function"] for tool in sample["tools"]}
        for call in (call["function"] for m in sample["messages"] for call in m.get("tool_calls", [])):
            schema = functions[call["name"]]["parameters"]
            Draft202012Validator.check_schema(schema)
            faults += not Draft202012Validator(schema).is_valid(call["arguments"])
    assert faults == num_wrong


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside `value`."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    return [pair for key in keys for pair in ((value, key), *nodes(value[key]))]


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_a_damaged_record_is_refused_or_read_but_never_crashes(format: str, data: st.DataObject) -> None:
    record = through_disk(to_record(data.draw(FITTING[format]), format))
    container, key = data.draw(st.sampled_from(nodes(record)))
    container[key] = data.draw(json_values | st.sampled_from(["[{}]", "[[1]]", "{}"]).map(json.loads))
    with contextlib.suppress(ValueError):
        from_record(record)
