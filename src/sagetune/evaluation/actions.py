"""Generated actions on held-out conversations, scored against what the expert did.

Every assistant message with a loss is one decision point: the true history is the prompt, the model writes the turn.
An action is right if its calls are the expert's (names and typed arguments; key order and the order of parallel calls
are free), or, where the expert called nothing, if it calls nothing and says the same.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sagetune.chat import prompt_ids, stop_token_ids
from sagetune.config import EvaluationConfig
from sagetune.evaluation.calls import Reply, canonical, parse_reply, render_reply
from sagetune.evaluation.scoring.intervals import Rate, wilson
from sagetune.generation import generate
from sagetune.sample import FunctionCall, Message, Sample

PROMPT_TAIL = 600  # characters of the prompt that a report shows


@dataclass(frozen=True, slots=True)
class ActionItem:
    """One decision point: `messages` and `tools` are the prompt, `gold` is the expert's turn."""

    id: str
    task: str
    messages: list[Message]
    tools: list[dict[str, Any]]
    gold: Message


@dataclass(frozen=True, slots=True)
class ActionScore:
    """One reply against one gold turn.

    exact_match: all of the action is right. name_correct, arguments_correct: the names, or the arguments, of the calls
    are the gold's, each as a multiset. parse_failure: the reply cannot be read; then everything else is False.
    abstained: readable and without a call.
    """

    exact_match: bool
    name_correct: bool
    arguments_correct: bool
    parse_failure: bool
    abstained: bool


@dataclass(frozen=True, slots=True)
class ActionReport:
    """What a model did at `n` decision points."""

    n: int
    exact_match: Rate
    """Right actions, over all."""
    name_accuracy: Rate
    """Right tools, over the decision points where the expert calls one."""
    argument_accuracy: Rate
    """Right arguments, over the same."""
    decision_accuracy: Rate
    """Called where the expert calls and held back where not, over all."""
    parse_failure_rate: Rate
    """Replies that cannot be read, or were cut off before any call, over all. They are wrong in every other figure."""
    by_task: dict[str, Any]
    """The five rates of each task."""
    items: list[dict[str, Any]]
    """One row a decision point: id, task, prompt (its end), gold, generated, error, and the scores."""

    def to_dict(self, *, items: bool = True) -> dict[str, Any]:
        """Plain containers for JSON; without `items` it has the size of a summary."""
        plain = asdict(self)
        if not items:
            del plain["items"]
        return plain


def evaluate_actions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    config: EvaluationConfig,
    on_progress: Callable[[int], None] | None = None,
) -> ActionReport:
    """Let `model` act greedily at every decision point of `samples` and score what it writes.

    on_progress receives the number of newly finished decision points. Raises ValueError if there are none.
    """
    items = decision_points(samples)
    if not items:
        raise ValueError("no decision point: evaluation.data has no assistant message with a loss weight above 0")
    prompts = [prompt_ids(item.messages, item.tools, tokenizer) for item in items]
    generated = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        keep_stop=True,
        on_progress=on_progress,
    )
    stops = stop_token_ids(tokenizer)
    rows = []
    for item, prompt, tokens in zip(items, prompts, generated, strict=True):
        ended = bool(tokens) and tokens[-1] in stops
        text = tokenizer.decode(tokens[:-1] if ended else tokens)
        reply = parse_reply(text) if ended else read_cut_off(text)
        rows.append(_row(item, tokenizer.decode(prompt)[-PROMPT_TAIL:], text, reply))
    return summarize(rows)


def num_cut_off(samples: Iterable[Sample], tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> tuple[int, int]:
    """How many of the expert's turns `max_new_tokens` would cut off, and how many there are."""
    items = decision_points(samples)
    turns = [tokenizer.encode(render_reply(item.gold), add_special_tokens=False) for item in items]
    return sum(len(turn) + 1 > max_new_tokens for turn in turns), len(items)  # and the stop token


def read_cut_off(text: str) -> Reply:
    """`parse_reply` of a reply that did not end: without a call in it, nobody knows whether one was to come."""
    reply = parse_reply(text)
    if reply.error is None and not reply.calls:
        return Reply(reply.content, [], "cut off by evaluation.max_new_tokens, with no call so far")
    return reply


def decision_points(samples: Iterable[Sample]) -> list[ActionItem]:
    """Each assistant message with a loss as one item, in order; a masked one is not an example to follow."""
    return [
        ActionItem(f"{sample['id']}#{index}", sample["task"], sample["messages"][:index], sample["tools"], message)
        for sample in samples
        for index, message in enumerate(sample["messages"])
        if message["role"] == "assistant" and message.get("loss", True)
    ]


def score_action(gold: Message, reply: Reply) -> ActionScore:
    """Compare a parsed reply with the expert's turn."""
    if reply.error is not None:
        return ActionScore(False, False, False, parse_failure=True, abstained=False)
    expected = [call["function"] for call in gold.get("tool_calls", [])]
    same_calls = Counter(map(_canonical_call, expected)) == Counter(map(_canonical_call, reply.calls))
    same_text = bool(expected) or normalize_text(gold["content"]) == normalize_text(reply.content)
    return ActionScore(
        exact_match=same_calls and same_text,
        name_correct=Counter(c["name"] for c in expected) == Counter(c["name"] for c in reply.calls),
        arguments_correct=Counter(canonical(c["arguments"]) for c in expected)
        == Counter(canonical(c["arguments"]) for c in reply.calls),
        parse_failure=False,
        abstained=not reply.calls,
    )


def normalize_text(text: str) -> str:
    """Text without differences that a reader does not see: composed, one space between words, no upper case."""
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def summarize(rows: list[dict[str, Any]]) -> ActionReport:
    """The figures over scored rows (see ActionReport.items), in total and by task."""
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_task[row["task"]].append(row)
    tasks = {task: {name: asdict(rate) for name, rate in _rates(by_task[task]).items()} for task in sorted(by_task)}
    return ActionReport(n=len(rows), **_rates(rows), by_task=tasks, items=rows)


def _rates(rows: list[dict[str, Any]]) -> dict[str, Rate]:
    calling = [row for row in rows if row["gold_calls"]]
    decided = sum(not row["parse_failure"] and row["abstained"] == (not row["gold_calls"]) for row in rows)
    return {
        "exact_match": wilson(sum(row["exact_match"] for row in rows), len(rows)),
        "name_accuracy": wilson(sum(row["name_correct"] for row in calling), len(calling)),
        "argument_accuracy": wilson(sum(row["arguments_correct"] for row in calling), len(calling)),
        "decision_accuracy": wilson(decided, len(rows)),
        "parse_failure_rate": wilson(sum(row["parse_failure"] for row in rows), len(rows)),
    }


def _row(item: ActionItem, prompt: str, text: str, reply: Reply) -> dict[str, Any]:
    return {
        "id": item.id,
        "task": item.task,
        "prompt": prompt,
        "gold": render_reply(item.gold),
        "gold_calls": len(item.gold.get("tool_calls", [])),
        "generated": text,
        "error": reply.error,
        **asdict(score_action(item.gold, reply)),
    }


def _canonical_call(call: FunctionCall) -> tuple[str, Any]:
    return call["name"], canonical(call["arguments"])
