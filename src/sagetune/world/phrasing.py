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
from functools import lru_cache
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


@lru_cache(maxsize=None)
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


def fill(templates: Sequence[Template], kinds: Mapping[str, str], split: str, count: int, key: str) -> Filled:
    """The `count`-th request made of `templates`; `kinds` names the kind of each slot, `key` seeds the order.

    Two slots of the same kind never hold the same value. Counts beyond the number of texts start again from the first.
    """
    template = templates[_order(len(templates), key)[count % len(templates)]]
    frames = FRAMES[split] if template.text[0].islower() else _NO_FRAME
    slot_kinds = [kinds[slot] for slot in template.slots]
    sizes = [len(pool(kind, split)) - slot_kinds[:at].count(kind) for at, kind in enumerate(slot_kinds)]
    digits = _digits(count // len(templates), (len(frames), *sizes), f"{key}:{template.text}")
    values: dict[str, Any] = {}
    taken: dict[str, list[int]] = {}
    for slot, kind, digit in zip(template.slots, slot_kinds, digits[1:], strict=True):
        for used in sorted(taken.setdefault(kind, [])):
            digit += digit >= used
        taken[kind].append(digit)
        values[slot] = pool(kind, split)[digit]
    return Filled(template, _sentence(template.text, frames[digits[0]], values), values)


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


@lru_cache(maxsize=None)
def _permutation(total: int, key: str) -> tuple[int, int]:
    """Stride and offset of an affine permutation of range(total): a stride prime to `total` visits every number once."""
    rng = Random(key)
    offset = rng.randrange(total)
    stride = rng.randrange(1, total + 1)
    while gcd(stride, total) != 1:
        stride = rng.randrange(1, total + 1)
    return stride, offset


@lru_cache(maxsize=None)
def _order(length: int, key: str) -> tuple[int, ...]:
    order = list(range(length))
    Random(key).shuffle(order)
    return tuple(order)
