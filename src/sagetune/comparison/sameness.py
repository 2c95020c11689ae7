"""Whether runs were measured on the same thing: what each run tells of the test items behind its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256

from sagetune.comparison.figures import OVERALL, Figure
from sagetune.comparison.runs import Run, Tree

Marks = dict[str, str]
"""Section, or capability.<name>, -> its test items in words that other items do not share."""


def marks_of(run: Run) -> Marks:
    """The marks of a finished run.

    Of actions and capabilities every item counts, by its id, prompt and gold answer; of tokens a hash; of pairs their
    number alone. What happens in rollouts is the policy's own, and has no mark.
    """
    after = run.result["after"]
    marks: Marks = {}
    for name, score in (after.get("capabilities") or {"scores": {}})["scores"].items():
        hashes = score["details"]["hashes"]
        marks[f"capability.{name}"] = f"prompts {hashes['prompts']}, data {hashes['data']}"
    if after.get("tokens"):
        marks["tokens"] = f"{after['tokens']['num_turns']} turns, {after['tokens']['num_tokens']} tokens"
        if "hash" in run.result["data"]["eval"]:  # a run of an older version has none
            marks["tokens.hash"] = run.result["data"]["eval"]["hash"]
    if after.get("preferences"):
        marks["preferences"] = f"{after['preferences']['num_pairs']} pairs"
    if run.after.get("actions"):
        marks["actions"] = _mark_of_actions(run.after["actions"]["items"])
    return marks


def are_same(figure: Figure, ours: Marks, theirs: Marks) -> bool:
    """Whether two runs measured `figure` on the same items, as far as their marks tell."""
    if figure.key == OVERALL:
        return _of_capabilities(ours) == _of_capabilities(theirs)
    name = figure.key if figure.is_capability else figure.section
    told = {name, f"{name}.hash"} & ours.keys() & theirs.keys()
    return all(ours[mark] == theirs[mark] for mark in told)


def are_same_in_all(figure: Figure, ours: Mapping[int, Marks], theirs: Mapping[int, Marks]) -> bool:
    """Whether it was so with every seed that both have."""
    return all(are_same(figure, ours[seed], theirs[seed]) for seed in set(ours) & set(theirs))


def _mark_of_actions(items: list[Tree]) -> str:
    keys = sorted({(item["id"], item["prompt"], item["gold"]) for item in items})
    digits = sha256(json.dumps(keys, ensure_ascii=False).encode()).hexdigest()[:8]
    return f"{len(keys)} items ({digits})"


def _of_capabilities(marks: Marks) -> Marks:
    return {name: mark for name, mark in marks.items() if name.startswith("capability.")}
