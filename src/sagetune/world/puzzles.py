"""Puzzles: requests that are answered by thinking, not by a tool; each has a worked answer and a judge."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sagetune.world.phrasing import expand, fill
from sagetune.world.task import Call, Reply, Task, rng_of
from sagetune.world.values import parse_fields

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Puzzle:
    """One kind of puzzle: `answer(values)` is a model answer, `accepts(text, values)` judges any other."""

    name: str
    fields: str
    answer: Callable[[Values], str]
    accepts: Callable[[str, Values], bool]
    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]

    def phrases(self, split: str) -> tuple[str, ...]:
        """The grammar strings of `split`."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[split]


def puzzle_task(
    puzzle: Puzzle, family: str, kind: str, split: str, seed: int, index: int, count: int, tools: tuple[str, ...] = ()
) -> Task:
    """The `count`-th task of a puzzle."""
    kinds = {name: kind_of for name, (kind_of, _) in parse_fields(puzzle.fields).items()}
    filled = fill(expand(puzzle.phrases(split)), kinds, split, count, f"{family}/{split}/{seed}/{puzzle.name}")
    return Task(
        family, split, seed, index,
        kind=kind,
        user=filled.text,
        tools=tools,
        values=filled.values,
        solve=partial(answered, puzzle.answer),
        accepts=puzzle.accepts,
    )  # fmt: skip


def answered(answer: Callable[[Values], str], call: Call, values: Values) -> Reply:
    """The expert's procedure: answer, and call nothing."""
    return Reply(answer(values))


def in_turn(puzzles: tuple[Puzzle, ...], split: str, seed: int, turn: int) -> tuple[Puzzle, int]:
    """The puzzle of a turn in an order drawn from the seed, and how often it came before."""
    order = list(puzzles)
    rng_of("puzzles", split, seed).shuffle(order)
    return order[turn % len(order)], turn // len(order)


def words_in(text: str) -> list[str]:
    """The words and numbers of a text in lower case, without the punctuation round them."""
    return [word.strip(".,:;!?'\"").lower() for word in text.split() if word.strip(".,:;!?'\"")]


def ends_with(answer: Callable[[Values], Any], text: str, values: Values) -> bool:
    """True if the text ends with the answer (the reasoning may stand before it)."""
    wanted = words_in(str(answer(values)))
    return words_in(text)[-len(wanted) :] == wanted


def names_only(answer: Callable[[Values], Any], text: str, values: Values) -> bool:
    """True if the text names the answer and none of the other values that the request states."""
    said, wanted = f" {' '.join(words_in(text))} ", str(answer(values)).lower()
    rivals = (str(value).lower() for value in values.values())
    return f" {wanted} " in said and not any(f" {rival} " in said for rival in rivals if rival != wanted)


def has_words(count: int, text: str) -> bool:
    """True if the text has exactly `count` words."""
    return len(text.split()) == count


def listed(text: str) -> list[str]:
    """The items of a comma-separated list; a final full stop does not count."""
    return [item.strip() for item in re.sub(r"\.$", "", text.strip()).split(",")]
