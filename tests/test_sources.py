"""A reference names data: the world in fixed proportions, a file, or a data set; a bad one is told at once."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sagetune.config import BudgetConfig, MixtureConfig, RunConfig
from sagetune.formats import to_openai
from sagetune.sources import FAMILY_SHARES, check_reference, check_run, in_split, load


def record(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "ok"}]} | more


def write_lines(path: Path, records: list[Any]) -> str:
    text = "".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.mark.parametrize("num_samples", [1, 7, 20, 133])
def test_agent_sft_mixes_the_families_by_largest_remainder_in_every_prefix(num_samples: int) -> None:
    samples = load("agent_sft:train", num_samples=num_samples).samples
    quotas = {family: percent * num_samples for family, percent in FAMILY_SHARES.items()}
    expected = {family: quota // 100 for family, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda family: quotas[family] % 100, reverse=True)
    for family in by_remainder[: num_samples - sum(expected.values())]:
        expected[family] += 1
    assert Counter(s["task"] for s in samples) == Counter(expected)
    assert samples == load("agent_sft:train", num_samples=140).samples[:num_samples]


def test_samples_of_the_world_depend_on_the_seed_alone() -> None:
    reference = "agent_benchmark:planning:test"
    first, again = (load(reference, num_samples=5, seed=3).samples for _ in range(2))
    assert first == again
    assert first != load(reference, num_samples=5, seed=4).samples
    assert {s["task"] for s in first} == {"planning"}


def test_the_world_has_no_end() -> None:
    with pytest.raises(ValueError, match=r"has no end: set budget\.train_samples"):
        load("agent_sft:train", num_samples=None)


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.jsonl.gz", "chats.json"])
def test_a_file_is_read_in_order_with_ids_by_line(tmp_path: Path, name: str) -> None:
    records = [record("one"), record("two", id="mine"), record("three")]
    path = tmp_path / name
    reference = str(path) if name.endswith(".json") else write_lines(path, records)
    if name.endswith(".json"):
        path.write_text(json.dumps(records))
    loaded = load(reference, num_samples=None)
    assert [s["messages"][0]["content"] for s in loaded.samples] == ["one", "two", "three"]
    assert [s["id"] for s in loaded.samples] == ["chats:1", "mine", "chats:3"]
    assert loaded.skipped == []
    assert len(load(reference, num_samples=2).samples) == 2


def test_samples_written_as_openai_records_are_read_back(tmp_path: Path) -> None:
    samples = load("agent_sft:dev", num_samples=40).samples
    reference = write_lines(tmp_path / "world.jsonl", [to_openai(sample) for sample in samples])
    assert load(reference, num_samples=None).samples == samples


def test_an_id_that_came_before_is_made_unique(tmp_path: Path) -> None:
    reference = write_lines(tmp_path / "chats.jsonl", [record("one", id="a"), record("two", id="a")])
    assert [s["id"] for s in load(reference, num_samples=None).samples] == ["a", "a@chats:2"]


def test_a_bad_record_is_refused_with_file_line_field_and_reason(tmp_path: Path) -> None:
    reference = write_lines(tmp_path / "chats.jsonl", [record("one"), "", {"messages": [{"role": "robot"}]}])
    with pytest.raises(ValueError, match=r"chats\.jsonl:3: messages\[0\]\.role: must be one of"):
        load(reference, num_samples=None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"messages": [', "record: is not valid JSON"),
        ('{"messages": [{"role": "assistant", "content": "\\ud83d"}]}', r"half of a surrogate pair, '\\ud83d'"),
        ("[]", "record: expected a JSON object"),
    ],
)
def test_a_broken_line_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"chats\.jsonl:1: .*{reason}"):
        load(write_lines(tmp_path / "chats.jsonl", [line]), num_samples=None)


def test_skip_lists_bad_records_up_to_five_percent(tmp_path: Path) -> None:
    good = [record(str(number)) for number in range(19)]
    loaded = load(write_lines(tmp_path / "a.jsonl", [*good, "{"]), num_samples=None, on_error="skip")
    assert len(loaded.samples) == 19
    assert len(loaded.skipped) == 1
    assert "a.jsonl:20: record: is not valid JSON" in loaded.skipped[0]
    with pytest.raises(ValueError, match=r"2 of 21 records are bad, more than 5%; the first: .*a\.jsonl:20"):
        load(write_lines(tmp_path / "a.jsonl", [*good, "{", "{"]), num_samples=None, on_error="skip")


def test_a_hub_data_set_is_read_through_datasets(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "train.jsonl", [{**record("one"), "tools": '[{"name": "add"}]'}, {**record("two"), "tools": ""}]
    )
    samples = load(f"hf:{tmp_path}:train", num_samples=None).samples
    assert [s["messages"][0]["content"] for s in samples] == ["one", "two"]
    assert samples[0]["tools"] == [{"type": "function", "function": {"name": "add"}}]


def test_the_splits_of_a_file_share_no_question_and_lose_no_record(tmp_path: Path) -> None:
    asked = [f"question {number % 300}" for number in range(600)]  # each is asked twice
    path = write_lines(tmp_path / "a.jsonl", [record(text) for text in asked])
    parts = {split: load(f"{path}:{split}", num_samples=None).samples for split in ("train", "dev", "test")}
    questions = {split: {one["messages"][0]["content"] for one in part} for split, part in parts.items()}
    assert sum(len(part) for part in parts.values()) == 600
    assert set.union(*questions.values()) == set(asked)
    assert sum(len(part) for part in questions.values()) == 300  # none in two of them
    assert [len(questions[split]) for split in parts] == pytest.approx([240, 30, 30], abs=3 * (300 * 0.8 * 0.2) ** 0.5)


def test_a_record_keeps_its_split_when_the_file_grows_or_is_sorted_anew(tmp_path: Path) -> None:
    few = [record(f"question {number}") for number in range(40)]
    more = [record(f"another {number}") for number in range(40)] + few[::-1]
    before, after = (write_lines(tmp_path / f"{len(rows)}.jsonl", rows) for rows in (few, more))
    held_out = [one["messages"] for one in load(f"{before}:test", num_samples=None).samples]
    assert all(one in [s["messages"] for s in load(f"{after}:test", num_samples=None).samples] for one in held_out)
    assert load(f"{after}:train", num_samples=3).samples == load(f"{after}:train", num_samples=None).samples[:3]


def test_bad_records_are_counted_against_the_file_and_not_against_a_split_of_it(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*(record(f"question {number}") for number in range(96)), "{", "{", "{"])
    loaded = load(f"{path}:test", num_samples=None, on_error="skip")
    assert 0 < len(loaded.samples) < 57, "three are more than 5 % of what the split has"
    assert len(loaded.skipped) == 3


def test_a_split_without_a_record_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [record("one")])
    for split in sorted(("train", "dev", "test"), key=lambda split: not in_split(record("one")["messages"], split))[1:]:
        with pytest.raises(ValueError, match="holds no record: too few for a split of their own"):
            load(f"{path}:{split}", num_samples=None)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("chats.jsonl:all", r"or such a path with :train, :dev, :test"),
        ("agent_sft:training", "split must be one of train, dev, test, got 'training'"),
        ("agent_benchmark:tools:test", "family must be one of tool_selection, planning, timing, general, got 'tools'"),
        ("agent_benchmark:planning:all", "split must be one of train, dev, test, got 'all'"),
        ("hf:train", "write hf:<owner>/<name>:<split>"),
        ("chats.txt", r"not a known reference: write agent_sft:<split>, .*\.jsonl, \.jsonl\.gz, \.json, \.csv"),
        ("nowhere.jsonl", "no such file"),
    ],
)
def test_an_unknown_reference_is_refused_with_what_is_allowed(reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_reference(reference)


@pytest.mark.parametrize(("text", "message"), [("", "the file is empty"), ("\n\n", "holds no record")])
def test_a_file_without_records_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load(str(path), num_samples=None)


def test_checking_a_reference_loads_no_heavy_library() -> None:
    code = "import sys, sagetune.sources as s; s.check_reference('agent_sft:train'); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "datasets", "pandas"} & set(modules)


def test_own_data_that_a_mixture_does_not_read_are_refused(make_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "own.jsonl", [record("one")])
    run = make_run(train_data=path, budget=BudgetConfig(train_samples=4))
    sources = {"timing": "agent_benchmark:timing:train", "general": "agent_benchmark:general:train"}
    run.mixture = MixtureConfig(use=True, weights=dict.fromkeys(sources, 0.5), sources=sources)
    with pytest.raises(ValueError, match=rf"sft\.train_data: {path} would not be trained on.*mixture\.sources\."):
        check_run(run)
    run.mixture.sources["general"] = path
    check_run(run)
