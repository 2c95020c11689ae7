"""IFEval by the published checkers, as lm-evaluation-harness scores it, and what happens when they are missing."""

from __future__ import annotations

import importlib
import json
import random
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sagetune import world
from sagetune.evaluation.calls import parse_reply
from sagetune.evaluation.scoring.instruction_following import (
    FIGURES,
    InstructionGold,
    instruction_report,
    load_checkers,
    score_constraints,
    score_instructions,
)

PROMPTS = Path(__file__).parents[1].parent / "shared/data/ifeval/input_data.jsonl"
RANDOM_UPSTREAM = (1122, 1129)
"""Prompts that ask for a number of "#" and "!": the checkers count a letter drawn at random instead."""


def missing() -> str:
    """What the checkers lack here, "" if nothing."""
    try:
        load_checkers()
    except ValueError as error:
        return str(error)
    return ""


needs_checkers = pytest.mark.skipif(bool(missing()), reason=missing())
needs_prompts = pytest.mark.skipif(not PROMPTS.is_file(), reason=f"IFEval's prompts are not at {PROMPTS}")
needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not here: pip install lm-eval")
TEXT = "This is a plain answer, with two sentences. It is short!"
GOLD = InstructionGold(
    "7", "Write of tea.", ["punctuation:no_comma", "keywords:existence"], [{}, {"keywords": ["tea"]}]
)


def prompts() -> list[dict[str, Any]]:
    return [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]


def gold_of(row: dict[str, Any]) -> InstructionGold:
    return InstructionGold(str(row["key"]), row["prompt"], row["instruction_id_list"], row["kwargs"])


def replies(row: dict[str, Any]) -> list[str]:
    """Replies that follow some instructions of most prompts, some of them with the words that the prompt asks for."""
    values = [value for kwargs in row["kwargs"] for value in kwargs.values()]
    texts = [item for value in values for item in (value if isinstance(value, list) else [value])]
    words = " ".join(text for text in texts if isinstance(text, str))
    plain = TEXT.replace(",", "")
    return [
        TEXT,
        f'"{plain.lower()}"',
        f"Sure:\n<<Tea>>\n\n* {plain}\n* *b* [c] {words}\n\nP.S. {words}",
        f"{row['prompt']}\n\n{plain} {words}",
        '{"answer": "yes it is"}',
        "\n\n".join([TEXT] * 12),
        "",
    ]


def reference() -> ModuleType:
    """lm-eval's IFEval; its package would import far more than the checkers."""
    (place,) = find_spec("lm_eval").submodule_search_locations  # type: ignore[union-attr, misc]
    for name in ("lm_eval", "lm_eval.tasks", "lm_eval.tasks.ifeval"):
        module = ModuleType(name)
        module.__path__ = [str(Path(place, *name.split(".")[1:]))]
        sys.modules.setdefault(name, module)
    return importlib.import_module("lm_eval.tasks.ifeval.utils")


@needs_checkers
@needs_prompts
@needs_lm_eval
def test_the_figures_are_those_of_lm_eval() -> None:
    utils, num_replies = reference(), 0
    for row in prompts()[::6]:
        if row["key"] in RANDOM_UPSTREAM:
            continue
        for text in replies(row):
            theirs = utils.process_results(row, [text])
            strict, loose = theirs["inst_level_strict_acc"], theirs["inst_level_loose_acc"]
            expected = [float(all(strict)), float(all(loose)), sum(strict) / len(strict), sum(loose) / len(loose)]
            scored = score_instructions(text, gold_of(row))
            assert [scored.figures[name] for name in FIGURES] == pytest.approx(expected), (row["key"], text)
            num_replies += 1
    assert num_replies > 600


@needs_checkers
def test_four_figures() -> None:
    half = score_instructions("All about tea, they say.", GOLD)
    assert (half.score, half.correct, half.reason) == (0.0, False, "not followed: punctuation:no_comma")
    assert half.figures == dict(zip(FIGURES, (0.0, 0.0, 0.5, 0.5), strict=True))
    loose = score_instructions("Sure, here it is:\nTea is good.", GOLD)  # without its first line it follows
    assert loose.figures == dict(zip(FIGURES, (0.0, 1.0, 0.5, 1.0), strict=True))
    right = score_instructions("Tea is good.", GOLD)
    assert (right.score, right.correct, right.reason) == (1.0, True, "")
    silent = score_instructions("<think>Tea.</think>", GOLD)
    assert silent.parse_failure
    report = instruction_report([(GOLD, scored) for scored in (half, loose, right, silent)])
    assert (report.n, report.prompt_strict.value, report.prompt_loose.value) == (4, 0.25, 0.5)
    assert (report.instruction_strict.value, report.instruction_loose.value) == (4 / 8, 5 / 8)
    assert (report.instruction_strict.n, report.parse_failure_rate.value) == (8, 0.25)


@needs_checkers
def test_a_verdict_repeats_itself_and_leaves_the_generator_alone() -> None:
    gold = InstructionGold(
        "1122", "x", ["keywords:letter_frequency"], [{"letter": "#", "let_frequency": 2, "let_relation": "at least"}]
    )
    before = random.getstate()
    assert len({score_instructions("An answer to it", gold).score for _ in range(20)}) == 1
    assert random.getstate() == before


@needs_checkers
def test_an_instruction_that_the_checkers_do_not_know_is_told() -> None:
    with pytest.raises(ValueError, match=r"7: unknown instructions \['no:such'\]"):
        score_instructions("An answer.", InstructionGold("7", "x", ["no:such", "punctuation:no_comma"], [{}, {}]))


def test_a_missing_package_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "if_verifiable", None)
    load_checkers.cache_clear()
    with pytest.raises(ValueError, match=r"pip install 'sagetune\[eval\]'"):
        score_instructions("An answer.", GOLD)


@pytest.mark.skipif(find_spec("nltk") is None or find_spec("if_verifiable") is None, reason="if-verifiable is not here")
def test_a_missing_sentence_splitter_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("nltk").data, "path", [])
    load_checkers.cache_clear()
    with pytest.raises(ValueError, match=r"nltk\.downloader punkt_tab"):
        score_instructions("An answer.", GOLD)


def test_an_unknown_benchmark_is_told() -> None:
    with pytest.raises(ValueError, match="benchmark must be one of ifeval, ifbench, got 'mmlu'"):
        score_instructions("An answer.", InstructionGold("7", "x", [], [], "mmlu"))


def test_the_constraints_of_the_world() -> None:
    for task in world.tasks("general", "dev", 26):
        answer = world.expert(task)[-1]["content"]
        assert score_constraints(parse_reply(answer), task).correct
        assert not score_constraints(parse_reply(answer + " and then some"), task).correct
        called = parse_reply('<tool_call>{"name": "add", "arguments": {}}</tool_call>')
        assert score_constraints(called, task).reason == "called add, but the task needs no call"
