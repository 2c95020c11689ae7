"""Plans: the exact sequence of calls, order-aware F1, the data flow between calls, and execution in the world.

The F1 is T-Eval's (arXiv:2312.14033) with exact names instead of sentence embeddings and without its fault: there a
step that matches nothing still counts 1, so that a wholly wrong plan of one step gets F1 1.0. Here it gets 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sagetune.evaluation.calls import Reply, canonical
from sagetune.evaluation.scoring.verdict import Scored, f1_of, judged, not_an_abstention, unreadable
from sagetune.sample import FunctionCall, Message
from sagetune.world import Task, check

REFERENCE = re.compile(r"\bAPI_call_(\d+)\b")
FIGURES = ("exact_sequence", "precision", "recall", "argument_f1")
Edge = tuple[str, int, str, str]
"""Producer, which of its responses, consumer, the consumer's parameter."""


@dataclass(frozen=True, slots=True)
class PlanGold:
    """A plan. num_responses: how many responses each tool has, which Seal-Tools numbers through: `API_call_k`."""

    calls: Sequence[FunctionCall]
    num_responses: Mapping[str, int] = field(default_factory=dict)
    prompt: str = ""


def score_plan(reply: Reply, gold: PlanGold) -> Scored:
    """Order-aware F1 over calls by name, 0 to 1; correct if the sequence with all arguments is the gold one.

    Matched are the most calls that can be paired one to one by name without crossing, which is the longest increasing
    subsequence over the best matching. Figures: exact_sequence; precision and recall of the names; argument_f1, over
    the (parameter, value) pairs of the matched calls against all pairs of both plans (the F1 of the names if neither
    plan has any); edge_f1 where the gold plan has references. A plan of several turns is one Reply with all calls.
    Raises ValueError if the gold plan is empty.
    """
    if not gold.calls:
        raise ValueError("calls: the gold plan is empty; whether to call at all is scored by timing")
    has_edges = bool(edges(gold.calls, gold.num_responses))
    if failure := not_an_abstention(reply, gold.prompt, [call["name"] for call in gold.calls]):
        return unreadable(failure, (*FIGURES, "edge_f1") if has_edges else FIGURES)
    num_matched, num_shared = _align(reply.calls, gold.calls)
    num_given, num_wanted = len(reply.calls), len(gold.calls)
    name_f1 = f1_of(num_matched, num_given, num_wanted)
    num_pairs = [sum(len(call["arguments"]) for call in calls) for calls in (reply.calls, gold.calls)]
    exact = [_key(call) for call in reply.calls] == [_key(call) for call in gold.calls]
    figures = {
        "exact_sequence": float(exact),
        "precision": num_matched / num_given if num_given else 0.0,
        "recall": num_matched / num_wanted,
        "argument_f1": f1_of(num_shared, *num_pairs) if any(num_pairs) else name_f1,
    }
    if has_edges:
        figures["edge_f1"] = edge_f1(reply.calls, gold.calls, gold.num_responses)
    reason = f"{num_matched} of {num_wanted} calls in order, {num_given} made; {num_shared} of {num_pairs[1]} arguments"
    return Scored(name_f1, exact, reason="" if exact else reason, figures=figures)


def edge_f1(given: Sequence[FunctionCall], wanted: Sequence[FunctionCall], num_responses: Mapping[str, int]) -> float:
    """F1 over the references of one call to the response of an earlier one; 0 if none is shared.

    Edges are named by tool, response and parameter, so that independent calls may come in any order; each gold edge is
    matched at most once (Seal-Tools' own script lets a repeated call match the same gold call twice).
    """
    given_edges, wanted_edges = edges(given, num_responses), edges(wanted, num_responses)
    return f1_of((given_edges & wanted_edges).total(), given_edges.total(), wanted_edges.total())


def edges(calls: Sequence[FunctionCall], num_responses: Mapping[str, int]) -> Counter[Edge]:
    """The data flow of a plan. A reference to what no earlier call has produced has the producer ""."""
    produced: list[tuple[str, int]] = []
    found = Counter[Edge]()
    for call in calls:
        for parameter, value in call["arguments"].items():
            for text in _texts(value):
                for number in REFERENCE.findall(text):
                    source = produced[int(number)] if len(number) < 9 and int(number) < len(produced) else ("", 0)
                    found[(*source, call["name"], parameter)] += 1
        produced += [(call["name"], index) for index in range(num_responses.get(call["name"], 1))]
    return found


def score_in_world(task: Task, messages: list[Message], error: str | None = None) -> Scored:
    """1 if the conversation solves the world's task when it is replayed (see world.check), else 0.

    error: why the model's last reply could not be read; it is not among the messages then. A copy of the request in an
    answer in words does not count as part of the answer.
    """
    if error is not None:
        return unreadable(error)
    turns = [message for message in messages if message["role"] == "assistant"]
    if not turns:
        return unreadable("no turn of the model")
    if task.accepts is not None and not any(turn.get("tool_calls") for turn in turns):
        if failure := not_an_abstention(Reply(turns[-1]["content"], [], None), task.user, task.tools):
            return unreadable(failure)
        answer: Message = {"role": "assistant", "content": turns[-1]["content"].replace(task.user, " ")}
        messages = [*messages, answer]
    verdict = check(task, messages)
    return judged(verdict.passed, verdict.reason)


def _align(given: Sequence[FunctionCall], wanted: Sequence[FunctionCall]) -> tuple[int, int]:
    """(calls matched by name in order, arguments shared by them): the most calls, then the most arguments."""
    best = [(0, 0)] * (len(wanted) + 1)  # best[j]: over the calls so far and the first j gold calls
    pairs = [_pairs(call) for call in wanted]
    for call in given:
        own, row = _pairs(call), [(0, 0)]
        for index, target in enumerate(wanted):
            options = [best[index + 1], row[index]]
            if call["name"] == target["name"]:
                num_calls, num_shared = best[index]
                options.append((num_calls + 1, num_shared + len(own & pairs[index])))
            row.append(max(options))
        best = row
    return best[-1]


def _pairs(call: FunctionCall) -> set[Any]:
    return {(name, canonical(value)) for name, value in call["arguments"].items()}


def _key(call: FunctionCall) -> Any:
    return call["name"], canonical(call["arguments"])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
