"""Items of a capability: what they ask, what is right, and what cannot be judged is refused, not scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sagetune.capability.data import items_of
from sagetune.capability.evaluator import AgentCapabilityEvaluator
from sagetune.capability.scores import CapabilityScore
from sagetune.config import EvaluationConfig
from sagetune.trajectories.expert import ExpertAgent

TOOL_SELECTION = "agent_benchmark:tool_selection:test"


def tools(*names: str) -> list[dict[str, Any]]:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    return [{"type": "function", "function": {"name": name, "description": "", "parameters": schema}} for name in names]


def asks(number: int, *, name: str = "add", offered: tuple[str, ...] = ("add", "sub"), **fields: Any) -> dict[str, Any]:
    """A record in OpenAI's form, without an id unless `fields` has one: add or subtract a number."""
    function = {"name": name, "arguments": json.dumps({"a": number})}
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "function", "function": function}]}
    return {"messages": [{"role": "user", "content": f"{name} {number}"}, called], "tools": tools(*offered)} | fields


def measure(agent: Any, capability: str, data: Any, **given: Any) -> CapabilityScore:
    config = EvaluationConfig(**({"samples": 12} | given))
    return AgentCapabilityEvaluator(config).evaluate_capability(agent, capability, data)


def holds(messages: Any, tools: Any) -> str:
    return "I hold back."


def calls_all(messages: Any, tools: Any) -> dict[str, Any]:
    functions = [{"name": tool["function"]["name"], "arguments": {}} for tool in tools]
    calls = [{"id": "c", "type": "function", "function": function} for function in functions]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def test_records_without_ids_are_told_apart_by_their_place() -> None:
    score = measure(ExpertAgent(), "tool_use", [asks(1), asks(2), asks(3)])
    assert (score.score, score.num_samples) == (1.0, 3)
    assert [row["id"] for row in score.details["items"]] == ["1", "2", "3"]


def test_calling_every_tool_chooses_no_better_than_chance() -> None:
    """A choice between tools is the first call, by generation as by likelihood; the rest shows in the rank alone."""
    score = measure(calls_all, "tool_selection", TOOL_SELECTION, samples=200)
    low, high = score.details["interval"]
    assert low <= score.details["chance"] <= high
    assert score.details["figures"]["mrr"] > score.score == score.details["selection"]["top_1"]["value"]
    assert score.details["selection"]["mrr"]["value"] == pytest.approx(score.details["figures"]["mrr"])


@pytest.mark.parametrize("name", ["simple_1", "irrelevance_1", "relevance_1", "live_irrelevance_1-1-0"])
def test_an_id_like_bfcls_does_not_turn_a_users_record_round(name: str) -> None:
    assert measure(ExpertAgent(), "tool_use", [asks(1, id=name)]).score == 1.0
    assert measure(holds, "tool_use", [asks(1, id=name)]).score == 0.0


def bfcl(folder: Path, category: str, num: int = 2) -> Path:
    """A file of BFCL with its answers beside it, where the category has some."""
    path = folder / f"BFCL_v4_{category}.json"
    parameters = {"type": "dict", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    rows = [
        {
            "id": f"{category}_{n}" + (f"-{n}-0" if category.startswith("live_") else ""),
            "question": [[{"role": "user", "content": f"add {n}"}]],
            "function": [{"name": "add", "description": "", "parameters": parameters}],
        }
        for n in range(num)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if "relevance" not in category:
        answers = [{"id": row["id"], "ground_truth": [{"add": {"a": [n]}}]} for n, row in enumerate(rows)]
        (folder / "possible_answer").mkdir(exist_ok=True)
        beside = folder / "possible_answer" / path.name
        beside.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    return path


def test_a_relevant_request_asks_for_a_call_and_an_irrelevant_one_for_none(tmp_path: Path) -> None:
    relevant, irrelevant = (str(bfcl(tmp_path, name)) for name in ("live_relevance", "irrelevance"))
    for reference, calling, holding in ((relevant, 1.0, 0.0), (irrelevant, 0.0, 1.0)):
        assert measure(calls_all, "timing", reference).score == calling
        score = measure(holds, "timing", reference)
        assert score.score == holding
        assert score.details["timing"]["balanced_accuracy"]["value"] == holding


def test_the_chance_level_of_timing_is_what_one_decision_for_all_gets(tmp_path: Path) -> None:
    assert measure(holds, "timing", str(bfcl(tmp_path, "irrelevance"))).details["chance"] == 1.0
    mixed = [asks(1), asks(2), asks(3)]
    greeting = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    score = measure(holds, "timing", [*mixed, greeting | {"tools": tools("add")}])
    assert (score.score, score.details["chance"]) == (0.25, 0.75)


def test_bfcls_categories_are_families(tmp_path: Path) -> None:
    for category in ("simple_python", "live_simple", "irrelevance"):
        score = measure(ExpertAgent(), "tool_use", str(bfcl(tmp_path, category)))
        assert list(score.details["by_family"]) == [category.removesuffix("_python")]


def test_all_of_bfcl_takes_turns_over_its_files(tmp_path: Path) -> None:
    for category, num in (("simple_python", 9), ("live_multiple", 1), ("irrelevance", 9), ("live_relevance", 9)):
        bfcl(tmp_path, category, num)
    score = measure(ExpertAgent(), "tool_use", f"bfcl:{tmp_path}", samples=10)
    families = {name: rate["n"] for name, rate in score.details["by_family"].items()}
    assert families == {"simple": 3, "irrelevance": 3, "live_relevance": 3, "live_multiple": 1}
    asked = items_of("timing", f"bfcl:{tmp_path}", None)
    assert sum(item.should_call is True for item in asked) == 9 + 1 + 9
    assert len(asked) == 28


def test_bfcl_is_read_from_its_package_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "bfcl_eval" / "data"
    data.mkdir(parents=True)
    with pytest.raises(ValueError, match="pip install --no-deps bfcl-eval"):
        items_of("tool_use", "bfcl:installed", 2)
    (tmp_path / "bfcl_eval" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"no BFCL_v4_<category>\.json there"):
        items_of("tool_use", "bfcl:installed", 2)
    bfcl(data, "simple_python")
    assert len(items_of("tool_use", "bfcl:installed", 2)) == 2
    with pytest.raises(ValueError, match="measures tool_use and timing, not planning"):
        items_of("planning", "bfcl:installed", 2)


def test_what_offers_no_tool_or_not_the_right_one_cannot_be_judged() -> None:
    yes = {"messages": [{"role": "user", "content": "A tool?"}, {"role": "assistant", "content": "yes"}]}
    with pytest.raises(ValueError, match="offers no tool"):
        items_of("timing", [yes])
    for capability in ("tool_use", "planning", "tool_selection"):
        with pytest.raises(ValueError, match="'add', which it calls, is none of the tools that it offers"):
            items_of(capability, [asks(1, offered=())])


def question_file(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("answer", ["no", "False", 0, None])
def test_a_gold_answer_that_is_neither_true_nor_false_is_no_yes(tmp_path: Path, answer: Any) -> None:
    path = question_file(tmp_path, {"question": "Is it?", "answer": answer})
    with pytest.raises(ValueError, match=r"questions\.jsonl:1: answer must be true or false"):
        items_of("reasoning", f"strategyqa:{path}")


def test_a_gold_answer_without_a_number_is_found_before_anything_is_asked(tmp_path: Path) -> None:
    path = question_file(tmp_path, {"question": "2 + 2?", "answer": "#### 4"}, {"question": "2 + 2?", "answer": "four"})
    with pytest.raises(ValueError, match=r"questions\.jsonl:2: gold: expected a number"):
        items_of("reasoning", f"gsm8k:{path}")


def test_missing_checkers_of_ifeval_are_found_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(benchmark: str) -> None:
        raise ValueError(f"{benchmark}'s checkers are not installed")

    monkeypatch.setattr("sagetune.capability.data.load_checkers", missing)
    path = question_file(tmp_path, {"key": 1, "prompt": "Sing.", "instruction_id_list": [], "kwargs": []})
    with pytest.raises(ValueError, match="ifeval's checkers are not installed"):
        items_of("instruction_following", f"ifeval:{path}")


def test_an_unreadable_reply_counts_in_every_figure(tmp_path: Path) -> None:
    path = question_file(tmp_path, *({"question": f"{n} + 2?", "answer": f"#### {n + 2}"} for n in range(4)))

    def half(messages: Any, tools: Any) -> Any:
        number = int(messages[-1]["content"][0])
        return f"#### {number + 2}" if number % 2 else 3  # 3 is no message

    score = measure(half, "reasoning", f"gsm8k:{path}")
    assert score.score == 0.5
    assert score.details["figures"] == {"strict": 0.5, "flexible": 0.5}


def test_asking_an_item_again_does_not_narrow_its_interval() -> None:
    """Several attempts at one item are no further items: who repeats each answer eight times knows no more."""
    knows = lambda messages, tools: "yes" if int(messages[-1]["content"].split()[1]) < 5 else "no"  # noqa: E731
    data = [
        {"messages": [{"role": "user", "content": f"Is {n} even?"}, {"role": "assistant", "content": "yes"}]}
        for n in range(10)
    ]
    once, often = (measure(knows, "reasoning", data, attempts=k, temperature=1.0) for k in (1, 8))
    assert once.score == often.score == 0.5
    assert once.details["interval"] == often.details["interval"]
    assert often.details["by_family"]["reasoning"]["n"] == often.num_samples == 10
    assert often.details["pass_k"]["8"] == 0.5
