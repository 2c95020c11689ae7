"""What is wrong with recorded runs of question answering: FireAct's published data has it all. Samples -> findings.

The reader (:mod:`sagetune.formats.fireact`) repairs what it can: rewards and observations leave the trained text,
choices go back to the question. The findings tell what the record said, so that a figure can be compared with one that
was trained on the raw text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from sagetune.formats.fireact import FAILED, form_of, from_fireact, to_fireact
from sagetune.inspection import Finding
from sagetune.record_files import decode, read_entries
from sagetune.sample import Sample

LONG = 2048  # characters; about the 512 tokens at which FireAct cuts
PLACES = {"alpaca": "output text", "gpt": "user turns", "run": "text of the run"}
QUESTION_FIELDS = ("question", "Question", "instruction", "query")
FAULTS = {
    "failed_run": "a run that did not reach its goal, among runs to learn from",
    "contaminated": "its question is in the evaluation file of against=",
}
NOTES = {
    "mixed_rewards": "success is told in several words",
    "prompt_in_output": "a part of the question, such as its choices, stood at the head of the output",
    "shared_instruction": "the same question as an earlier sample, with another run",
    "raw_observation": "the record has results of tools in text that is trained on as it stands, or in user turns",
    "long_run": f"over {LONG} characters with its question: 512 tokens cut off the end, with the final answer",
}
REMEDIES = {
    "failed_run": "drop=[failed_run]",
    "contaminated": "drop=[contaminated]",
    "duplicate": "drop=[duplicate]",
    "shared_instruction": "drop=[shared_instruction] keeps one run a question; wanted where methods are mixed",
    "mixed_rewards": "read as meta.success; output=<file>.jsonl writes it",
    "prompt_in_output": "read as a part of the question; output=<file>.jsonl writes it",
    "raw_observation": "read as tool messages, rewards taken out: no loss on them; output=<file>.jsonl writes it",
    "long_run": "sft.max_seq_length=1024 or more, or drop=[long_run]",
}


def find(samples: Sequence[Sample], evaluated: set[str] | None = None) -> list[Finding]:
    """Everything of FAULTS and NOTES in `samples`; in those that are none of FireAct's, only `contaminated`.

    evaluated: questions that nothing may be trained on, as `questions` reads them.
    """
    findings: list[Finding] = []
    first: dict[str, str] = {}
    for sample in samples:
        question = plain(_question(sample))
        if question in (evaluated or set()):
            findings.append(Finding("contaminated", sample["id"], question[:120]))
        if "fireact" not in sample["meta"]:
            continue
        findings += _of_run(sample)
        earlier = first.setdefault(plain(_instruction(sample)), sample["id"])
        if earlier != sample["id"]:
            findings.append(Finding("shared_instruction", sample["id"], f"asked by {earlier}"))
    return findings + list(_mixed_rewards(samples))


def questions(path: Path) -> set[str]:
    """The questions of an evaluation file, as `find` compares them.

    It is .json, .jsonl or .csv; a record has one of QUESTION_FIELDS, or is FireAct's. Raises ValueError if none is.
    """
    found = {plain(question) for question in _read_questions(path)}
    if not found:
        raise ValueError(f"{path}: no record has one of {', '.join(QUESTION_FIELDS)}")
    return found


def plain(question: str) -> str:
    """`question` in lower case, with single spaces: differences that make it no other question."""
    return " ".join(question.lower().split())


def summary(samples: Sequence[Sample], findings: Sequence[Finding]) -> str:
    """How many runs of each method there are, and how many failed; "" if no sample is one of FireAct's."""
    methods = {sample["id"]: sample["meta"]["method"] for sample in samples if "fireact" in sample["meta"]}
    failed = Counter(methods[finding.sample_id] for finding in findings if finding.kind == "failed_run")
    counts = Counter(methods.values())
    return "; ".join(f"{name}: {num} runs, {failed[name]} failed" for name, num in sorted(counts.items()))


def _of_run(sample: Sample) -> Iterator[Finding]:
    meta = sample["meta"]
    told = meta["fireact"]
    if not meta["success"]:
        yield Finding("failed_run", sample["id"], f"{meta['method']}, reward = {meta.get('reward', 'unknown')}")
    if told.get("lead"):
        yield Finding("prompt_in_output", sample["id"], f"{told['lead']!r:.120}")
    num_results = sum(message["role"] == "tool" for message in sample["messages"])
    rewards = told.get("rewards", [])
    if num_results or rewards:
        detail = f"{PLACES[told['form']]}: {num_results} observations, {len(rewards)} lines with the reward"
        replied = sum(line["role"] == "assistant" for line in rewards)
        yield Finding("raw_observation", sample["id"], detail + f", {replied} as a reply" * bool(replied))
    length = len(_record_text(sample))
    if length > LONG:
        yield Finding("long_run", sample["id"], f"{length} characters")


def _mixed_rewards(samples: Sequence[Sample]) -> Iterator[Finding]:
    told = (sample["meta"] for sample in samples if "fireact" in sample["meta"])  # a collected one has a number
    words = Counter(meta["reward"] for meta in told if "reward" in meta)
    if len(words) > len({word.lower() in FAILED for word in words}):
        yield Finding("mixed_rewards", "", ", ".join(f"{word}: {num}" for word, num in sorted(words.items())))


def _question(sample: Sample) -> str:
    return next((message["content"] for message in sample["messages"] if message["role"] == "user"), "")


def _instruction(sample: Sample) -> str:
    """The question as the record has it: Alpaca's field may lack the choices, and then two questions look the same."""
    lead = sample["meta"]["fireact"].get("lead", "").removesuffix("\n")
    return _question(sample).removesuffix(f"\n{lead}") if lead else _question(sample)


def _record_text(sample: Sample) -> str:
    record = to_fireact(sample)
    if "output" in record:
        return record["instruction"] + record["input"] + record["output"]
    turns = record["messages"] if "messages" in record else record["traj"]
    return turns if isinstance(turns, str) else "".join(turn["content"] for turn in turns)


def _read_questions(path: Path) -> Iterator[str]:
    for entry in read_entries(path):
        record = decode(entry.record)
        if not isinstance(record, dict):
            raise ValueError(f"{entry.place}: expected a record, got {record!r:.80}")
        name = next((name for name in QUESTION_FIELDS if isinstance(record.get(name), str)), None)
        if form_of(record) is not None:
            yield _question(from_fireact(record))
        elif name is not None:
            yield record[name]
