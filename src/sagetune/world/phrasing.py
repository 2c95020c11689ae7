"""Instruction templates: a small grammar, and the counted filling of its slots.

Grammar: `[a|b]` is a choice, `{name}` a slot, `<...>` a part that may be left out. A template that begins in lower
case is an imperative clause, and one of the split's frames ("please ...", "can you ...?") goes round it. Expanding
`"[add|put] {title} on my calendar< for {date}>"` gives four templates; the two without the date are usable where the
date is optional, or as requests that lack it.

Filling is counted, not drawn: the n-th filling of the same templates is a bijection of n onto templates x frames x slot
values, so no text comes twice before all have come once, and the n-th text never depends on how many are made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import gcd, prod
from random import Random
from typing import Any

from sagetune.world.values import pool

FRAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (("", "."), ("please ", "."), ("can you ", "?"), ("could you please ", "?"), ("hi, ", ", please."),
              ("I want you to ", ".")),
    "dev": (("would you ", "?"), ("hello, ", "."), ("I need you to ", "."), ("", "!")),
    "test": (("I'd like you to ", "."), ("kindly ", "."), ("will you ", "?"), ("hey, ", ", thanks.")),
}  # fmt: skip
_NO_FRAME = (("", ""),)
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """One expanded phrasing: its text, its slots in order, and the slots of the parts that were left out."""

    text: str
    slots: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def carrier(self) -> str:
        """The text without its slots: the words that say what is wanted."""
        return _SLOT.sub(" ", self.text)


@dataclass(frozen=True, slots=True)
class Filled:
    """A request: the template, the text a user would write, and the values in it by slot name."""

    template: Template
    text: str
    values: dict[str, Any]


@cache
def expand(phrases: tuple[str, ...]) -> tuple[Template, ...]:
    """All templates of the given grammar strings, in order."""
    return tuple(template for phrase in phrases for template in _expand_one(phrase))


def _expand_one(phrase: str) -> list[Template]:
    options: list[list[tuple[str, str]]] = []  # per piece: (text, text that was left out)
    for piece in re.split(r"(\[[^\]]*\]|<[^>]*>)", phrase):
        if piece.startswith("["):
            options.append([(choice, "") for choice in piece[1:-1].split("|")])
        elif piece.startswith("<"):
            options.append([(piece[1:-1], ""), ("", piece[1:-1])])
        elif piece:
            options.append([(piece, "")])
    templates = []
    for choice in product(*options):
        text, left_out = ("".join(part) for part in zip(*choice, strict=True))
        templates.append(Template(text, tuple(_SLOT.findall(text)), tuple(_SLOT.findall(left_out))))
    return templates


def fill(templates: tuple[Template, ...], kinds: Mapping[str, str], split: str, count: int, key: str) -> Filled:
    """The `count`-th request made of `templates`; `kinds` names the kind of each slot, `key` seeds the order.

    Two slots of the same kind never hold the same value. Templates take turns; one whose texts are used up drops out.
    Counts beyond the number of all texts start again from the first.
    """
    radices = _radices(templates, tuple(kinds.items()), split)
    at, turn = _template_of(count, tuple(prod(sizes) for sizes in radices), key)
    template = templates[at]
    digits = _digits(turn, radices[at], f"{key}:{template.text}")
    values: dict[str, Any] = {}
    taken: dict[str, list[int]] = {}
    for slot, digit in zip(template.slots, digits[1:], strict=True):
        for used in sorted(taken.setdefault(kinds[slot], [])):
            digit += digit >= used
        taken[kinds[slot]].append(digit)
        values[slot] = pool(kinds[slot], split)[digit]
    return Filled(template, _sentence(template.text, _frames(template, split)[digits[0]], values), values)


def _frames(template: Template, split: str) -> tuple[tuple[str, str], ...]:
    return FRAMES[split] if template.text[0].islower() else _NO_FRAME


@cache
def _radices(
    templates: tuple[Template, ...], kinds: tuple[tuple[str, str], ...], split: str
) -> tuple[tuple[int, ...], ...]:
    """Per template: the number of frames, then the number of values that each slot can take."""
    kind_of = dict(kinds)
    radices = []
    for template in templates:
        slot_kinds = [kind_of[slot] for slot in template.slots]
        free = [len(pool(kind, split)) - slot_kinds[:at].count(kind) for at, kind in enumerate(slot_kinds)]
        radices.append((len(_frames(template, split)), *free))
    return tuple(radices)


def _template_of(count: int, capacities: tuple[int, ...], key: str) -> tuple[int, int]:
    """The template whose turn the `count`-th is, and how often it came before."""
    alive, level, count = _order(len(capacities), key), 0, count % sum(capacities)
    while True:
        rounds = min(capacities[at] for at in alive) - level  # so many rounds until the first of them is used up
        if count < rounds * len(alive):
            return alive[count % len(alive)], level + count // len(alive)
        count, level = count - rounds * len(alive), level + rounds
        alive = tuple(at for at in alive if capacities[at] > level)


def _sentence(text: str, frame: tuple[str, str], values: Mapping[str, Any]) -> str:
    framed = frame[0] + text + frame[1]
    if framed[0] != "{":  # a value must stand in the text exactly as the argument has it
        framed = framed[0].upper() + framed[1:]
    return framed.format_map(values)


def _digits(count: int, sizes: Sequence[int], key: str) -> list[int]:
    """The digits of the `count`-th element of a permutation of the mixed-radix numbers with the given radices."""
    total = prod(sizes)
    stride, offset = _permutation(total, key)
    number = (count * stride + offset) % total
    digits = []
    for size in sizes:
        number, digit = divmod(number, size)
        digits.append(digit)
    return digits


@cache
def _permutation(total: int, key: str) -> tuple[int, int]:
    """Stride and offset of an affine permutation of range(total); a stride prime to `total` visits each number once."""
    rng = Random(key)
    offset = rng.randrange(total)
    stride = rng.randrange(1, total + 1)
    while gcd(stride, total) != 1:
        stride = rng.randrange(1, total + 1)
    return stride, offset


@cache
def _order(length: int, key: str) -> tuple[int, ...]:
    order = list(range(length))
    Random(key).shuffle(order)
    return tuple(order)
