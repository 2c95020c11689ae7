"""The result that every scorer returns, and when text without a call counts as an answer at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sagetune.evaluation.calls import Reply

ROLE = r"\W*(tool|function|assistant|user|system|observation|thought|action)"
ROLE_LABEL = re.compile(ROLE + r"\s*:\W*", re.IGNORECASE)
BARE_ROLE = re.compile(ROLE + r"\W*", re.IGNORECASE)
CALL_KEY = re.compile(r"""["'](name|function|arguments|parameters|tool|tool_calls)["']\s*:""")


@dataclass(frozen=True, slots=True)
class Scored:
    """One reply against one gold record.

    score: 0 to 1, what a mean is taken of. correct: right in full. parse_failure: the reply cannot be read as an
    answer, which is told apart from a readable one that is wrong or holds back; then score is 0 and correct False.
    reason: why it is not correct, "" if it is. figures: further figures by name, each 0 to 1.
    """

    score: float
    correct: bool
    parse_failure: bool = False
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)


def unreadable(reason: str, figures: Iterable[str] = ()) -> Scored:
    """The verdict on a reply that cannot be read; all its figures are 0."""
    return Scored(0.0, False, parse_failure=True, reason=reason, figures=dict.fromkeys(figures, 0.0))


def judged(correct: bool, reason: str, figures: dict[str, float] | None = None) -> Scored:
    """The verdict on a readable reply that is right or wrong and nothing between."""
    return Scored(float(correct), correct, reason="" if correct else reason, figures=figures or {})


def not_an_answer(text: str, prompt: str = "") -> str:
    """Why `text` answers nothing, "" if it may be an answer. prompt: the request; to repeat it is no answer."""
    if not any(character.isalnum() for character in text):
        return "the reply is empty" if not text.strip() else "the reply has no word"
    if ROLE_LABEL.fullmatch(text):
        return f"only the label of a turn: {text.strip()[:40]!r}"
    if prompt and _says_only(text, prompt):
        return "the reply repeats the request"
    return ""


def not_an_abstention(reply: Reply, prompt: str = "", functions: Iterable[str] = ()) -> str:
    """Why a reply without a call is no decision to hold back; "" if it is one or has a call.

    functions: the offered names; one that an opening parenthesis follows is a call in another notation. A scorer that
    takes whatever it cannot decode for a decision to hold back rewards a broken model (gorilla#1362: 228 of 229
    "correct" abstentions of one model were unreadable).
    """
    if reply.error is not None:
        return reply.error
    if reply.calls:
        return ""
    if tried := next((name for name in functions if re.search(rf"(?<!\w){re.escape(name)}\(", reply.content)), None):
        return f"a call of {tried} in another notation"
    if reply.content.lstrip().startswith(("{", "[{")) or CALL_KEY.search(reply.content):
        return "JSON outside of a call"
    if BARE_ROLE.fullmatch(reply.content):
        return f"only the name of a role: {reply.content[:40]!r}"
    return not_an_answer(reply.content, prompt)


def f1_of(shared: float, num_given: float, num_wanted: float) -> float:
    """Harmonic mean of shared / given and shared / wanted; 0 if nothing is shared."""
    return 2 * shared / (num_given + num_wanted) if shared else 0.0


def shorten(value: Any) -> str:
    """`value` as a reason may show it: one line, at most 80 characters."""
    return f"{value!r:.80}"


def _says_only(text: str, prompt: str) -> bool:
    """True if `text` is the prompt and at most the label of a turn, whatever the case and the space."""
    said, asked = " ".join(text.split()).casefold(), " ".join(prompt.split()).casefold()
    rest = said.replace(asked, " ") if asked else said
    return rest != said and (not any(map(str.isalnum, rest)) or ROLE_LABEL.fullmatch(rest) is not None)
