"""Family `timing`: whether to act. Four kinds take turns: call now, ask for the missing argument, answer directly
without a tool, say that no tool fits."""

from __future__ import annotations

import re
from functools import cache, partial
from typing import Any

from sagetune.world.domains import DOMAIN_OF, DOMAINS, tools_in
from sagetune.world.phrasing import Filled, fill
from sagetune.world.puzzles import Puzzle, answered, in_turn, names_only, puzzle_task, words_in
from sagetune.world.selecting import call_task
from sagetune.world.task import Task, offer, rng_of
from sagetune.world.tools import Tool, complete_templates, label_of, lacking_templates

KINDS_OF_TIMING = ("call", "ask", "answer", "no_tool")
NO_TOOL = "None of my tools can do that."
_REFUSES = re.compile(
    r"\b(none of|no (suitable |fitting |available )?tool|can ?not|can't|unable|not able)\b", re.IGNORECASE
)


def timing(split: str, seed: int, index: int) -> Task:
    """Task `index`: the kinds take turns."""
    turn, kind = divmod(index, len(KINDS_OF_TIMING))
    if KINDS_OF_TIMING[kind] == "call":
        return call_task("timing", split, seed, index, turn)
    if KINDS_OF_TIMING[kind] == "ask":
        return _ask(split, seed, index, turn)
    if KINDS_OF_TIMING[kind] == "answer":
        return _answer(split, seed, index, turn)
    return _no_tool(split, seed, index, turn)


def asks_for(label: str, text: str, values: dict[str, Any]) -> bool:
    """True if the text is a question that names the missing argument."""
    return "?" in text and bool(set(words_in(label)) & set(words_in(text)))


def refuses(text: str, values: dict[str, Any]) -> bool:
    """True if the text says that no tool fits."""
    return "?" not in text and _REFUSES.search(text) is not None


def _ask(split: str, seed: int, index: int, turn: int) -> Task:
    tools = _shuffled("ask", split, seed)
    tool, count = tools[turn % len(tools)], turn // len(tools)
    key = f"timing/ask/{split}/{seed}/{tool.name}"
    filled = fill(lacking_templates(tool, split), tool.kinds, split, count, key)
    missing = next(name for name in tool.required if name in filled.template.dropped)
    label = label_of(tool, missing)
    question = f"Which {label} should I use?"
    return _spoken("ask", split, seed, index, filled, (tool,), (), question, partial(asks_for, label))


def _no_tool(split: str, seed: int, index: int, turn: int) -> Task:
    tools = _shuffled("no_tool", split, seed)
    tool, count = tools[turn % len(tools)], turn // len(tools)
    key = f"timing/no_tool/{split}/{seed}/{tool.name}"
    filled = fill(complete_templates(tool, split), tool.kinds, split, count, key)
    avoid = (*(sibling.name for sibling in DOMAIN_OF[tool.name].tools), *tool.near)
    return _spoken("no_tool", split, seed, index, filled, (), avoid, NO_TOOL, refuses)


def _spoken(
    kind: str, split: str, seed: int, index: int, filled: Filled, needed: tuple[Tool, ...], avoid: tuple[str, ...],
    text: str, accepts: Any,
) -> Task:  # fmt: skip
    rng = rng_of("timing", split, seed, index)
    return Task(
        "timing", split, seed, index,
        kind=kind,
        user=filled.text,
        tools=offer(needed, filled.template.carrier, split, rng, rng.choice((3, 4, 5)), avoid),
        values=filled.values,
        solve=partial(answered, partial(_said, text)),
        accepts=accepts,
    )  # fmt: skip


def _said(text: str, values: dict[str, Any]) -> str:
    return text


def _answer(split: str, seed: int, index: int, turn: int) -> Task:
    puzzle, count = in_turn(QUESTIONS, split, seed, turn)
    rng = rng_of("timing", split, seed, index)
    calculators = tuple(tool.name for tool in DOMAINS["numbers"].tools)
    tools = offer((), "", split, rng, rng.choice((3, 4, 5)), calculators)
    return puzzle_task(puzzle, "timing", "answer", split, seed, index, count, tools)


@cache
def _shuffled(kind: str, split: str, seed: int) -> tuple[Tool, ...]:
    """The tools that a kind asks for. A sum needs no tool, so the calculator cannot be missed."""
    tools = [tool for tool in tools_in(split) if tool.train]
    if kind == "ask":
        tools = [tool for tool in tools if lacking_templates(tool, split)]
    else:
        tools = [tool for tool in tools if DOMAIN_OF[tool.name].name != "numbers"]
    rng_of("timing", kind, split, seed).shuffle(tools)
    return tuple(tools)


def _question(name: str, fields: str, value: str, train: tuple[str, ...], dev: str, test: str) -> Puzzle:
    """A question whose answer is a value that the text itself states."""
    pick = partial(_value, value)
    return Puzzle(name, fields, partial(_it_is, pick), partial(names_only, pick), train, (dev,), (test,))


def _value(name: str, values: dict[str, Any]) -> Any:
    return values[name]


def _it_is(pick: Any, values: dict[str, Any]) -> str:
    return f"It is {pick(values)}."


def _first_letter(values: dict[str, Any]) -> str:
    return str(values["word"])[0].upper()


def _last_letter(values: dict[str, Any]) -> str:
    return str(values["word"])[-1].upper()


def _alphabetical(values: dict[str, Any]) -> str:
    return min(values["word"], values["other"])


QUESTIONS: tuple[Puzzle, ...] = (
    _question("home", "person:person city:city text:text", "city",
              ("My sister {person} lives in {city} and has to {text}. [Where|In which city] does she live?",
               "{person} moved to {city} to {text}. [Where|In which city] is {person} now?"),
              "Because of work {person} settled in {city}, planning to {text}. [What|Which] town is that?",
              "[Name|State] the town of my cousin {person}: she is at home in {city} and wants to {text}."),
    _question("day", "title:title date:date person:person", "date",
              ("{person} told me that {title} is on {date}. [On which date|When] is it?",
               "I wrote down {title} with {person} on {date}. [Which date|What date] did I say?"),
              "[Repeat|Say] the day: {person} and I have {title} on {date}.",
              "We fixed {date} for {title}, as {person} wished. [Just tell me|Say again] the day."),
    _question("owner", "product:product person:person other:person", "person",
              ("The {product} belongs to {person}, not to {other}. [Who owns|Who has] it?",
               "{person} bought a {product} and {other} did not. [Who|Which of them] has one now?"),
              "It was {person} who got the {product} while {other} had none. [Who|Which one] got it?",
              "Not {other} but {person} took the {product} home. [Say who|Tell me who] it was."),
    _question("cost", "product:product price:price count:count", "price",
              ("A {product} costs {price} euros and I have {count} shelves. [What is its price|What does it cost]?",
               "I paid {price} euros for the {product}, {count} weeks ago. [How much was it|What did I pay]?"),
              "With {count} people we gave {price} euros for a {product}. [Which amount|How much] was that?",
              "{price} euros is what the {product} was worth {count} days back. [State|Repeat] the worth."),
    Puzzle("first_letter", "word:word other:title", partial(_it_is, _first_letter), partial(names_only, _first_letter),
           ("Before my {other}: what is the first letter of [the word|the noun] {word}?",
            "With which letter does [the word|the noun] {word} start? I ask for my {other}."),
           ("My {other} [quiz|game] asks for the initial of {word}. Which letter is it?",),
           ("[Spell only|Give] the opening letter of {word}, as in my {other} notes.",)),
    Puzzle("last_letter", "word:word other:title", partial(_it_is, _last_letter), partial(names_only, _last_letter),
           ("What is the last letter of [the word|the noun] {word}? It is for my {other}.",
            "For the {other}: with which letter does [the word|the noun] {word} end?"),
           ("My {other} [quiz|game] wants the final letter in {word}. Say it.",),
           ("[Spell only|Give] the closing letter of {word}, for the {other} list.",)),
    Puzzle("alphabetical", "word:word other:word text:text", partial(_it_is, _alphabetical),
           partial(names_only, _alphabetical),
           ("Which word comes first in the alphabet, {word} or {other}? Then I can {text}.",
            "[Of|Among] the words {word} and {other}, which is first in the alphabet? I have to {text}."),
           ("Sorting {word} and {other} by letter, [which leads|which is ahead]? Later I {text}.",),
           ("In a dictionary, would I meet {word} or {other} [earlier|sooner]? I ask before I {text}.",)),
)  # fmt: skip
