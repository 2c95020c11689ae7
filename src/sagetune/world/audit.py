"""The leak audit: what two splits of a family share, measured on what was really generated."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Any

from sagetune.world.task import Task
from sagetune.world.values import CLOSED, SPLITS, pool

NGRAM = 8  # words


def audit(by_split: dict[str, list[Task]]) -> dict[str, dict[str, int]]:
    """For each pair of splits ("train/test"): the number of shared requests, 8-grams and entities, and tool leaks.

    texts: requests that occur in both, letter case and punctuation apart. ngrams: word 8-grams of requests that are in
    both. entities: values stated in requests or held by the state that occur in both (closed vocabularies apart: units,
    stars, intervals). tools: tools of `unseen_tool` tasks of the later split that the earlier one calls or offers.
    """
    found: dict[str, dict[str, int]] = {}
    for first, second in combinations([split for split in SPLITS if split in by_split], 2):
        left, right = by_split[first], by_split[second]
        found[f"{first}/{second}"] = {
            "texts": len(_texts(left) & _texts(right)),
            "ngrams": len(_ngrams(left) & _ngrams(right)),
            "entities": len(_entities(left) & _entities(right)),
            "tools": len({name for task in left for name in task.tools} & _unseen(right)),
        }
    return found


def _words(task: Task) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", task.user.lower()))


def _texts(tasks: Iterable[Task]) -> set[tuple[str, ...]]:
    return {_words(task) for task in tasks}


def _ngrams(tasks: Iterable[Task]) -> set[tuple[str, ...]]:
    grams: set[tuple[str, ...]] = set()
    for task in tasks:
        words = _words(task)
        grams.update(words[at : at + NGRAM] for at in range(len(words) - NGRAM + 1))
    return grams


def _entities(tasks: Iterable[Task]) -> set[Any]:
    closed = {value for kind in CLOSED for value in pool(kind, "train")}
    stated = {value for task in tasks for value in task.values.values()}
    held = {value for task in tasks for rows in task.rows.values() for row in rows for value in row.values()}
    return {str(value).lower() for value in (stated | held) - closed}


def _unseen(tasks: Iterable[Task]) -> set[str]:
    return {name for task in tasks if task.unseen_tool for name in task.called}
