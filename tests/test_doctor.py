"""`sagetune doctor` finds what is wrong with data, shows what the loss covers, and says so with its exit code."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sagetune.chat import encode_all
from sagetune.commands.doctor import DoctorConfig, doctor
from sagetune.config import AgentSFTConfig, BudgetConfig, ModelConfig
from sagetune.formats import from_openai
from sagetune.inspection import FAULTS, MEANINGS, find, length_histogram, num_supervised, segments
from sagetune.models import load_tokenizer
from sagetune.pair_doctor import FAULTS as MEANINGS_OF_PAIRS

USER = {"role": "user", "content": "Rome?"}
TOOLS = [
    {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 7}},
            "required": ["city"],
        },
    }
]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"name": name, "arguments": arguments}]}


def sample(*messages: dict[str, Any], tools: Any = TOOLS, name: str = "s") -> Any:
    return from_openai({"id": name, "messages": list(messages), "tools": tools})


def kinds(*samples: Any) -> list[tuple[str, str]]:
    return [(finding.kind, finding.sample_id) for finding in find(samples)]


RESULT = {"role": "tool", "content": "21"}
ANSWER = {"role": "assistant", "content": "21 C."}


def test_a_sound_sample_has_no_findings() -> None:
    assert find([sample(USER, call("weather", city="Rome", days=2), RESULT, ANSWER)]) == []
    assert find([sample(USER, call("weather", city="Rome"))]) == []


@pytest.mark.parametrize(
    ("messages", "tools", "kind", "detail"),
    [
        ([{"role": "user", "content": " "}, ANSWER], TOOLS, "empty", "messages[0] (user)"),
        ([USER, call("forecast", city="Rome")], TOOLS, "unknown_tool", "messages[1] calls forecast, offered: weather"),
        ([USER, call("weather", city="Rome")], [], "unknown_tool", "messages[1] calls weather, offered: none"),
        ([USER, call("weather")], TOOLS, "bad_arguments", "messages[1] weather: 'city' is a required property"),
        ([USER, call("weather", city=1)], TOOLS, "bad_arguments", "messages[1] weather: 1 is not of type 'string'"),
        ([USER, call("weather", city="Rome", days=8)], TOOLS, "bad_arguments", "greater than the maximum of 7"),
        ([USER, call("f")], [{"name": "f", "parameters": {"type": "thing"}}], "bad_schema", "'thing' is not valid"),
        ([USER, RESULT, ANSWER], TOOLS, "stray_result", "messages[1]"),
        ([USER, call("weather", city="Rome"), RESULT, RESULT, ANSWER], TOOLS, "stray_result", "messages[3]"),
        ([USER, call("weather", city="Rome"), USER, ANSWER], TOOLS, "unanswered_call", "weather before messages[2]"),
    ],
)
def test_each_fault_is_found_and_placed(messages: Any, tools: Any, kind: str, detail: str) -> None:
    findings = find([sample(*messages, tools=tools)])
    assert [finding.kind for finding in findings] == [kind]
    assert detail in findings[0].detail
    assert kind in FAULTS


def test_repeated_and_contradicting_samples_are_told_apart() -> None:
    first, again = (sample(USER, ANSWER, name=name) for name in ("first", "again"))
    other = sample(USER, {"role": "assistant", "content": "9 C."}, name="other")
    elsewhere = sample(USER, {"role": "assistant", "content": "9 C."}, tools=[], name="elsewhere")
    assert kinds(first, again, other, elsewhere) == [("duplicate", "again"), ("contradiction", "other")]


def test_segments_are_the_text_and_the_histogram_counts_each_sample() -> None:
    tokenizer = load_tokenizer("embedded:tiny", ModelConfig())
    samples = [sample(USER, {"role": "assistant", "content": "é" * n}, tools=[], name=str(n)) for n in (1, 5, 40, 90)]
    encoded, _ = encode_all(samples, tokenizer, 1000)
    for given, got in zip(samples, encoded, strict=True):
        runs = segments(got, tokenizer)
        assert [text for text, supervised in runs if supervised] == [given["messages"][1]["content"] + "<|im_end|>"]
        assert "".join(text for text, _ in runs) == tokenizer.decode(got.input_ids)
    bins = length_histogram(encoded, num_bins=4)
    assert [b.num_samples for b in bins] == [2, 0, 1, 1]
    assert sum(b.num_supervised for b in bins) == sum(map(num_supervised, encoded))
    assert all(low.high == high.low for low, high in pairwise(bins))
    assert length_histogram([]) == []


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def config(path: str, html: Path | None = None, length: int = 120) -> DoctorConfig:
    return DoctorConfig(
        sft=AgentSFTConfig(base_model="embedded:tiny", train_data=path, max_seq_length=length),
        budget=BudgetConfig(train_samples=None),
        html=str(html) if html else None,
    )


def test_sound_data_exits_with_0_and_shows_the_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    path = write(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "1 < 2?"}, ANSWER]}] * 2)
    assert doctor(config(path, page)) == 0
    out = capsys.readouterr().out
    assert "⟦21 C.<|im_end|>⟧" in out
    assert "2 samples, 0 shortened" in out
    assert f"duplicate: 1  {MEANINGS['duplicate']}" in out
    html = page.read_text()
    assert "<b>21 C.&lt;|im_end|&gt;</b>" in html
    assert "1 &lt; 2?" in html
    assert "http" not in html


def test_samples_that_cannot_train_exit_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = {"messages": [{"role": "user", "content": "a" * 200}, ANSWER]}
    cut = {"messages": [{"role": "user", "content": "a" * 200}, ANSWER, USER, ANSWER]}
    assert doctor(config(write(tmp_path / "a.jsonl", [{"messages": [USER, ANSWER]}, cut]))) == 0
    assert f"truncated: 1  {MEANINGS['truncated']}\n  a:2" in capsys.readouterr().out
    assert doctor(config(write(tmp_path / "b.jsonl", [{"messages": [USER, ANSWER]}, long]))) == 1
    assert f"too_long: 1  {MEANINGS['too_long']}\n  b:2" in capsys.readouterr().out
    assert doctor(config(write(tmp_path / "c.jsonl", [long]))) == 1
    assert "nothing to train on" in capsys.readouterr().out


def test_data_that_cannot_be_read_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(config(write(tmp_path / "a.jsonl", [{"messages": [USER]}]))) == 2
    assert "a.jsonl:1: messages: has no assistant message" in capsys.readouterr().err


def test_pairs_are_looked_at_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss covers what follows the prompt; which side is longer is told, since a policy can win by that alone."""
    pair = {"prompt": "Rome?", "chosen": "21 C.", "rejected": "It is rather warm there."}
    assert doctor(config(write(tmp_path / "a.jsonl", [pair, {**pair, "rejected": "Hot."}]))) == 0
    out = capsys.readouterr().out
    assert "2 pairs; the chosen reply is the longer one in 1 (" in out
    assert "⟦21 C.<|im_end|>⟧" in out
    assert "⟦It is rather warm there.<|im_end|>⟧" in out
    assert "no findings" in out  # that both pairs prefer the same reply is no repetition


def test_pairs_that_teach_nothing_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = {"id": "same", "prompt": "Rome?", "chosen": "21 C.", "rejected": "21 C."}
    assert doctor(config(write(tmp_path / "a.jsonl", [same]))) == 1
    assert f"no_preference: 1  {MEANINGS_OF_PAIRS['no_preference']}\n  same" in capsys.readouterr().out
    turns = [USER, ANSWER, {"role": "user", "content": "a" * 90}]  # fits without its first exchange
    assert doctor(config(write(tmp_path / "b.jsonl", [{"prompt": turns, "chosen": "yes", "rejected": "no"}]))) == 1
    out = capsys.readouterr().out
    assert f"too_long: 2  {MEANINGS['too_long']}" in out
    assert "nothing to train on" in out


def test_what_pairs_have_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "Rome?", "chosen": "21 C.", "rejected": "Hot."}])
    assert doctor(dataclasses.replace(config(path), output=str(tmp_path / "clean.jsonl"))) == 2
    assert "output is for conversations, and" in capsys.readouterr().err


def test_the_command_composes_its_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"messages": [USER, call("weather", city="Rome")], "tools": TOOLS}])
    command = [sys.executable, "-m", "sagetune", "doctor", "model=tiny", "data=file", f"sft.train_data={path}"]
    done = subprocess.run([*command, "show=1"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '⟦<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>⟧' in done.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]
    refused = subprocess.run([*command, "show=-1"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert refused.returncode == 2
    assert "show must be at least 0, got -1" in refused.stderr
