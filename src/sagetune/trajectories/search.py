"""Question answering with a search engine that needs no network: FireAct's recorded runs answer the searches.

Each task knows the searches of its own recorded runs. A query that was recorded, or is the same but for case,
punctuation, articles and spaces, gets the recorded result, the first one where recordings differ; every other query
gets NOTHING_FOUND, which is what FireAct's own tool returns for a search without a result. So the environment is
deterministic, and an agent that searches otherwise than the recorded ones did has only what it knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sagetune.evaluation.answers import exact_match, normalized
from sagetune.formats.fireact import TOOLS
from sagetune.sample import Message, Sample, ToolCall
from sagetune.sources import load
from sagetune.trajectories.environment import AgentTask, StepResult

NOTHING_FOUND = "None"
SUFFIXES = (".json", ".jsonl")


class SearchEnvironment:
    """One question. results: what a search finds, by query and by normalised query. A turn without a call ends it."""

    def __init__(self, question: str, answer: str, results: Mapping[str, str]) -> None:
        self._question = question
        self._answer = answer
        self._results = results

    @property
    def tools(self) -> list[dict[str, Any]]:
        return TOOLS

    def reset(self) -> list[Message]:
        return [{"role": "user", "content": self._question}]

    def step(self, call: ToolCall) -> StepResult:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        wanted = {"search": "query", "finish": "answer"}.get(name)
        if wanted is None:
            return StepResult(f"Unknown tool name: {name}", failed=True)
        if set(arguments) != {wanted} or not isinstance(arguments[wanted], str):
            return StepResult(f"{name} takes one text, {wanted}", failed=True)
        if name == "finish":
            return StepResult("Episode finished", done=True)
        query = arguments[wanted]
        return StepResult(self._results.get(query, self._results.get(normalized(query), NOTHING_FOUND)))

    def reply(self, content: str) -> str | None:
        return None

    def score(self, messages: list[Message]) -> float:
        """1 if the first answer matches exactly after normalisation, else 0."""
        answer = next(iter(_finished(messages)), None)
        return float(answer is not None and exact_match(answer, self._answer))

    def close(self) -> None:
        """Nothing is held."""


def search_tasks(path: str | Path) -> list[AgentTask]:
    """One task for each question of FireAct's files: `path`, or all below it if it is a folder.

    Runs of the same question share their searches. The answer is the recorded gold answer; fine-tuning data has none
    but what its successful runs say, and a question without one is left out. gold: the calls of the first successful
    run, and what came of them.
    """
    asked: dict[str, list[Sample]] = defaultdict(list)
    for file in _files(Path(path)):
        for sample in load(str(file), num_samples=None).samples:
            if "fireact" not in sample["meta"]:
                raise ValueError(f"{file}: sample {sample['id']!r} is no recorded run of FireAct's")
            asked[sample["messages"][0]["content"].strip()].append(sample)
    tasks = [_task(question, samples) for question, samples in asked.items()]
    return [task for task in tasks if task is not None]


def _files(path: Path) -> list[Path]:
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files or not path.exists():
        raise ValueError(f"{path}: no file with recorded runs, {' or '.join(SUFFIXES)}")
    return files


def _task(question: str, samples: list[Sample]) -> AgentTask | None:
    solved = next((sample for sample in samples if sample["meta"]["success"]), None)
    answers = [sample["meta"]["fireact"]["run"]["gt"] for sample in samples if "run" in sample["meta"]["fireact"]]
    if solved is not None:
        answers += _finished(solved["messages"])[:1]
    if not answers:
        return None
    results = _results(samples)

    def make() -> SearchEnvironment:
        return SearchEnvironment(question, answers[0], results)

    gold = () if solved is None else _acted(solved["messages"])
    return AgentTask(samples[0]["id"], question, make, family="search", gold=gold)


def _results(samples: Iterable[Sample]) -> dict[str, str]:
    results: dict[str, str] = {}
    for sample in samples:
        found = {message.get("tool_call_id"): message["content"] for message in sample["messages"]}
        for call in _calls(sample["messages"]):
            if call["function"]["name"] == "search" and call["id"] in found:
                results.setdefault(call["function"]["arguments"]["query"], found[call["id"]])
    for query, result in list(results.items()):
        results.setdefault(normalized(query), result)
    return results


def _acted(messages: list[Message]) -> tuple[Message, ...]:
    """The run without its question and without thoughts that no call followed."""
    return tuple(message for message in messages if message["role"] == "tool" or message.get("tool_calls"))


def _calls(messages: Iterable[Message]) -> list[ToolCall]:
    return [call for message in messages for call in message.get("tool_calls", [])]


def _finished(messages: Iterable[Message]) -> list[str]:
    return [
        str(c["function"]["arguments"].get("answer")) for c in _calls(messages) if c["function"]["name"] == "finish"
    ]
