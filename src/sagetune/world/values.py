"""Values of the world: what a slot of an instruction, a tool argument or a column may hold, apart per split.

Each :class:`Kind` has a JSON schema (what a tool accepts) and a pool of values per split (what is drawn). Pools of two
splits share no value; the exceptions are closed vocabularies that a schema lists as an enum (:data:`CLOSED`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache, partial
from typing import Any
from zlib import crc32

from sagetune.world import words

SPLITS = ("train", "dev", "test")
_PARTS = {"train": (0, 1, 2), "dev": (3,), "test": (4,)}  # about fifths of every pool


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value: its JSON schema, its values in a split, and the name used when asking for it."""

    schema: dict[str, Any]
    values: Callable[[str], tuple[Any, ...]]
    label: str = ""


def words_of(text: str, split: str) -> tuple[str, ...]:
    """The split's share of a blank-separated list; a word goes to the same split in every list that has it."""
    return tuple(word for word in text.split() if crc32(word.lower().encode()) // 7 % 5 in _PARTS[split])


def numbers_of(candidates: Iterable[int], split: str) -> tuple[int, ...]:
    """The split's share of `candidates`, scattered (a plain residue would give every split its own last digits)."""
    return tuple(number for number in candidates if (number * 2654435761 >> 9) % 5 in _PARTS[split])


def _joined(form: str, *lists: str, split: str) -> tuple[str, ...]:
    """Every combination of the split's words, in `form`; all parts come from the split, so no part is shared."""
    combined: list[tuple[str, ...]] = [()]
    for text in lists:
        combined = [(*head, word) for head in combined for word in words_of(text, split)]
    return tuple(form.format(*parts) for parts in combined)


def _pool(form: str, *lists: str) -> Callable[[str], tuple[str, ...]]:
    return lambda split: _joined(form, *lists, split=split)


def _range(low: int, high: int, step: int = 1) -> Callable[[str], tuple[int, ...]]:
    return partial(numbers_of, range(low, high, step))


def _dates(split: str) -> tuple[str, ...]:
    first = date(2026, 1, 1)
    return tuple((first + timedelta(days=day)).isoformat() for day in numbers_of(range(1000), split))


def _times(split: str) -> tuple[str, ...]:
    return tuple(f"{minute // 60:02d}:{minute % 60:02d}" for minute in numbers_of(range(420, 1320, 5), split))


def _emails(split: str) -> tuple[str, ...]:
    return tuple(email.lower() for email in _joined("{}@{}.example", words.FIRST_NAMES, words.MAIL_HOSTS, split=split))


def _phones(split: str) -> tuple[str, ...]:
    return tuple(f"555-{number:04d}" for number in numbers_of(range(1000, 9999), split))


def _closed(*options: str) -> Kind:
    return Kind({"type": "string", "enum": list(options)}, lambda split: options)


STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}
DATE: dict[str, Any] = {"type": "string", "format": "date", "description": "YYYY-MM-DD"}
TIME: dict[str, Any] = {"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]$", "description": "HH:MM"}

KINDS: dict[str, Kind] = {
    "person": Kind(STRING, _pool("{}", words.FIRST_NAMES)),
    "title": Kind(STRING, _pool("{} {}", words.TOPICS, words.OCCASIONS)),
    "text": Kind(STRING, _pool("{} the {}", words.VERBS, words.THINGS)),
    "product": Kind(STRING, _pool("{} {}", words.LOOKS, words.GOODS)),
    "file": Kind(STRING, _pool("{}_{}", words.DRAFTS, words.FILES)),
    "folder": Kind(STRING, _pool("{}", words.FOLDERS)),
    "city": Kind(STRING, _pool("{}", words.CITIES)),
    "hotel": Kind(STRING, _pool("Hotel {}", words.HOTELS)),
    "company": Kind(STRING, _pool("{} {}", words.COMPANIES, words.TRADES)),
    "account": Kind(STRING, _pool("{} {}", words.PURPOSES, words.POTS)),
    "tag": Kind(STRING, _pool("{}", words.TAGS)),
    "word": Kind(STRING, _pool("{}", words.PLAIN)),
    "email": Kind(STRING, _emails, "email address"),
    "phone": Kind(STRING, _phones, "phone number"),
    "date": Kind(DATE, _dates),
    "time": Kind(TIME, _times),
    "id": Kind(INTEGER, _range(1000, 9999)),
    "amount": Kind(INTEGER, _range(11, 990)),
    "balance": Kind(INTEGER, _range(2000, 9900)),
    "price": Kind(INTEGER, _range(15, 480)),
    "count": Kind(INTEGER, _range(2, 80)),
    "stock": Kind(INTEGER, _range(100, 999)),
    "funds": Kind(INTEGER, _range(20, 60000)),
    "size": Kind(INTEGER, _range(20, 5000)),
    "minutes": Kind(INTEGER, _range(3, 180), "number of minutes"),
    "number": Kind(INTEGER, _range(12, 3000)),
    "small": Kind(INTEGER, _range(2, 40)),
    "few": Kind(INTEGER, _range(4, 21)),
    "stars": Kind({"type": "integer", "minimum": 1, "maximum": 5}, lambda split: (1, 2, 3, 4, 5)),
    "length": _closed("meters", "feet", "miles", "kilometers", "inches"),
    "weight": _closed("grams", "pounds", "kilograms", "ounces"),
    "interval": _closed("daily", "weekly", "monthly"),
    "blank": Kind(STRING, lambda split: ("",)),
    "zero": Kind(INTEGER, lambda split: (0,)),
}
CLOSED = ("length", "weight", "interval", "stars", "blank", "zero")


@cache
def pool(kind: str, split: str) -> tuple[Any, ...]:
    """All values of `kind` in `split`, in a fixed order."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    return KINDS[kind].values(split)


@cache
def parse_fields(spec: str) -> dict[str, tuple[str, bool]]:
    """`"title:title time?:time"` -> `{"title": ("title", True), "time": ("time", False)}`: kind and whether required.

    The result is shared: do not change it.
    """
    fields: dict[str, tuple[str, bool]] = {}
    for item in spec.split():
        name, kind = item.split(":")
        fields[name.removesuffix("?")] = (kind, not name.endswith("?"))
    return fields
