"""Verifiable instructions: IFEval and IFBench by their published checkers, and the world's own constraints.

IFEval (arXiv:2311.07911) looks at the form of a reply alone. Of its 541 prompts the published checkers pass 134 for
repeating the request, 81 for brackets and 62 for "tool:". Such replies, without a word, with only the label of a turn,
or with nothing but the request, fail here. Any other reply gets what lm-evaluation-harness 0.4.13 gives it, but for the
two prompts whose verdict is a draw there.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from sagetune.evaluation.calls import Reply
from sagetune.evaluation.scoring.intervals import Rate, wilson
from sagetune.evaluation.scoring.planning import score_in_world
from sagetune.evaluation.scoring.verdict import Scored, not_an_answer, unreadable
from sagetune.sample import Message
from sagetune.world import Task

FIGURES = ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")
INSTALL = "pip install 'sagetune[eval]'"
NLTK_DATA = {
    "ifeval": ("tokenizers/punkt_tab",),
    "ifbench": ("tokenizers/punkt_tab", "taggers/averaged_perceptron_tagger_eng", "corpora/stopwords"),
}
"""What the checkers of a benchmark read from NLTK's data folders."""


@dataclass(frozen=True, slots=True)
class InstructionGold:
    """A prompt of IFEval or IFBench: `kwargs` are the arguments of its instructions, one mapping each."""

    key: str
    prompt: str
    instruction_ids: Sequence[str]
    kwargs: Sequence[Mapping[str, Any]]
    benchmark: str = "ifeval"


@dataclass(frozen=True, slots=True)
class InstructionReport:
    """The four figures of IFEval over prompts. Instruction level: each instruction counts once, whatever its prompt.

    The intervals at instruction level take the instructions of a prompt for independent.
    """

    n: int
    prompt_strict: Rate
    prompt_loose: Rate
    instruction_strict: Rate
    instruction_loose: Rate
    parse_failure_rate: Rate


def score_instructions(text: str, gold: InstructionGold) -> Scored:
    """1 if every instruction is followed to the letter, else 0.

    Figures: prompt_strict, which is the score; prompt_loose, the same if one of eight variants of the text (first or
    last line dropped, asterisks dropped) follows; instruction_strict and instruction_loose, the shares followed.
    Raises ValueError, with the command that helps, if the extra `eval` or data of NLTK is not installed, and for an
    instruction that the checkers do not know.
    """
    checkers = load_checkers(gold.benchmark)
    if failure := not_an_answer(text, gold.prompt):
        return unreadable(failure, FIGURES)
    sample = checkers.IFEvalSample(0, gold.prompt, list(gold.instruction_ids), [dict(item) for item in gold.kwargs])
    state = random.getstate()
    random.seed(gold.key)  # the checkers draw what they take for missing: the sign that two prompts ask for instead of
    try:  # a letter (keys 1122, 1129) becomes some letter, in lm-evaluation-harness another one at each look
        results, scores = checkers.evaluate_output_for_sample(gold.benchmark, sample, text)
    except RecursionError:  # json's own, in the checker of json_format
        return unreadable("JSON of absurd depth", FIGURES)
    finally:
        random.setstate(state)
    if not results:
        return unreadable("nothing after the thoughts", FIGURES)
    if len(results) != len(gold.instruction_ids):  # the package skips what it does not know, which would count as done
        known = {result.instruction_id for result in results}
        raise ValueError(f"{gold.key}: unknown instructions {sorted(set(gold.instruction_ids) - known)}")
    values = (scores.binary_strict, scores.binary_loose, scores.partial_strict, scores.partial_loose)
    ignored = [result.instruction_id for result in results if not result.strict_pass]
    reason = f"not followed: {', '.join(ignored)}" if ignored else ""
    return Scored(scores.binary_strict, not ignored, reason=reason, figures=dict(zip(FIGURES, values, strict=True)))


def instruction_report(items: Sequence[tuple[InstructionGold, Scored]]) -> InstructionReport:
    """IFEval's figures over scored prompts."""
    num_instructions = sum(len(gold.instruction_ids) for gold, _ in items)

    def followed(figure: str) -> Rate:
        shares = (scored.figures[figure] * len(gold.instruction_ids) for gold, scored in items)
        return wilson(round(sum(shares)), num_instructions)

    def passed(figure: str) -> Rate:
        return wilson(sum(scored.figures[figure] == 1 for _, scored in items), len(items))

    return InstructionReport(
        n=len(items),
        prompt_strict=passed("prompt_strict"),
        prompt_loose=passed("prompt_loose"),
        instruction_strict=followed("instruction_strict"),
        instruction_loose=followed("instruction_loose"),
        parse_failure_rate=wilson(sum(scored.parse_failure for _, scored in items), len(items)),
    )


def score_constraints(reply: Reply, task: Task) -> Scored:
    """1 if the reply is what the world's `general` task accepts (see world.check), else 0."""
    messages: list[Message] = [{"role": "user", "content": task.user}, {"role": "assistant", "content": reply.content}]
    if reply.calls:
        messages[-1]["tool_calls"] = [
            {"id": f"call_{number}", "type": "function", "function": call} for number, call in enumerate(reply.calls)
        ]
    return score_in_world(task, messages, reply.error)


@cache
def load_checkers(benchmark: str = "ifeval") -> ModuleType:
    """The package if-verifiable, with what NLTK has to have and a language detector that repeats itself."""
    if benchmark not in NLTK_DATA:
        raise ValueError(f"benchmark must be one of {', '.join(NLTK_DATA)}, got {benchmark!r}")
    try:
        checkers = importlib.import_module("if_verifiable")
        nltk, langdetect = importlib.import_module("nltk"), importlib.import_module("langdetect")
    except ImportError as error:
        raise ValueError(f"IFEval's checkers are not installed ({error}): {INSTALL}") from error
    for path in NLTK_DATA[benchmark]:
        try:
            nltk.data.find(path)
        except LookupError as error:
            raise ValueError(
                f"NLTK's {path} is not installed: python -m nltk.downloader {path.rpartition('/')[2]}, or, offline, "
                "NLTK_DATA=<folder> with it; the package llama-index-core has punkt_tab and stopwords in "
                "llama_index/core/_static/nltk_cache"
            ) from error
    langdetect.DetectorFactory.seed = 0  # it draws at random, else two runs could score one reply differently
    return checkers
