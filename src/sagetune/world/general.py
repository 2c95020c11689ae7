"""Family `general`: reasoning with a checkable short answer, and instructions whose constraints can be verified."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sagetune.world.puzzles import Puzzle, Values, ends_with, has_words, in_turn, listed, puzzle_task
from sagetune.world.task import Task

Steps = Callable[[Values], list[tuple[str, Any]]]  # (term, its value) one after the other; the last value is the answer
_FILLER = [
    "is",
    "one",
    "of",
    "many",
    "good",
    "words",
    "that",
    "we",
    "all",
    "may",
    "read",
    "or",
    "write",
    "in",
    "this",
    "short",
    "line",
    "every",
    "single",
    "day",
    "of",
    "the",
    "year",
]


def general(split: str, seed: int, index: int) -> Task:
    """Task `index`: the puzzles take turns; no tool is offered."""
    puzzle, count = in_turn(PUZZLES, split, seed, index)
    return puzzle_task(puzzle, "general", puzzle.name, split, seed, index, count)


def _reasoning(name: str, fields: str, steps: Steps, train: tuple[str, ...], dev: str, test: str) -> Puzzle:
    """A puzzle whose answer is worked out step by step and stands at the end."""
    answer = partial(_last_value, steps)
    return Puzzle(name, fields, partial(_worked, steps), partial(ends_with, answer), train, (dev,), (test,))


def _last_value(steps: Steps, values: Values) -> Any:
    return steps(values)[-1][1]


def _worked(steps: Steps, values: Values) -> str:
    lines = steps(values)
    shown = [f"{term} = {value}." for term, value in lines if term]  # a last line without a term only names the answer
    return " ".join([*shown, f"The answer is {lines[-1][1]}."])


def _product_plus(values: Values) -> list[tuple[str, Any]]:
    a, b, c = values["a"], values["b"], values["c"]
    return [(f"{a} * {b}", a * b), (f"{a * b} + {c}", a * b + c)]


def _start_minus(values: Values) -> list[tuple[str, Any]]:
    start, a, b = values["start"], values["a"], values["b"]
    return [(f"{a} * {b}", a * b), (f"{start} - {a * b}", start - a * b)]


def _sum_times(values: Values) -> list[tuple[str, Any]]:
    a, b, c = values["a"], values["b"], values["c"]
    return [(f"{a} + {b}", a + b), (f"{a + b} * {c}", (a + b) * c)]


def _youngest(values: Values) -> list[tuple[str, Any]]:
    return [(f"{values['first']} > {values['second']} > {values['third']}; youngest", values["third"])]


def _largest(values: Values) -> list[tuple[str, Any]]:
    numbers = [values["a"], values["b"], values["c"]]
    return [(f"max of {numbers[0]}, {numbers[1]}, {numbers[2]}", max(numbers))]


def _parity(values: Values) -> list[tuple[str, Any]]:
    a, b = values["a"], values["b"]
    return [(f"{a} + {b}", a + b), (f"{a + b} % 2", (a + b) % 2), ("", "no" if (a + b) % 2 else "yes")]


def _words(values: Values) -> list[str]:
    return [str(value) for name, value in values.items() if name.startswith("w")]


def _sorted_list(values: Values) -> str:
    return ", ".join(sorted(_words(values)))


def _reversed_list(values: Values) -> str:
    return ", ".join(reversed(_words(values)))


def _is_list(build: Callable[[Values], str], text: str, values: Values) -> bool:
    return listed(text) == listed(build(values))


def _upper(values: Values) -> str:
    return str(values["title"]).upper()


def _joined(values: Values) -> str:
    return "-".join(_words(values))


def _equals(build: Callable[[Values], str], text: str, values: Values) -> bool:
    return text.strip() == build(values)


def _starting(values: Values) -> str:
    return " ".join([str(values["word"]), *_FILLER[: values["n"] - 1]])


def _starts(text: str, values: Values) -> bool:
    return text.split()[:1] == [values["word"]] and has_words(values["n"], text) and text == text.lower()


def _repeated(values: Values) -> str:
    return " ".join([str(values["word"])] * values["n"])


def _repeats(text: str, values: Values) -> bool:
    return text.split() == [values["word"]] * values["n"]


def _ending(values: Values) -> str:
    return " ".join([*_FILLER[: values["n"] - 1], str(values["word"])])


def _ends(text: str, values: Values) -> bool:
    return text.split()[-1:] == [values["word"]] and has_words(values["n"], text) and "," not in text


REASONING_KINDS = ("cost", "pages", "remaining", "two_groups", "youngest", "largest", "parity")
"""Kinds of `general` that ask for an answer that has to be worked out; the others state constraints to keep."""
PUZZLES: tuple[Puzzle, ...] = (
    _reasoning("cost", "person:person a:count product:product b:small c:small", _product_plus,
               ("{person} buys {a} pieces of {product} at {b} euros each and pays {c} euros for delivery. [What is "
                "the total|How much is that]?",
                "One {product} costs {b} euros. {person} takes {a} and adds a tip of {c} euros. [What does it "
                "cost|How much is it]?"),
               "At {b} euros apiece, {a} of the {product} go to {person}, plus {c} euros postage. [Give|State] the "
               "sum.",
               "[Compute|Work out] the bill of {person}: {a} times {product}, {b} euros per item, fee {c} euros."),
    _reasoning("pages", "person:person a:count b:small c:small", _product_plus,
               ("{person} reads {a} pages a day for {b} days and then {c} more pages. How many pages [in all|in "
                "total]?",
                "For {b} days {person} reads {a} pages daily, after that another {c}. [Count|Add up] all pages."),
               "Daily {person} manages {a} pages; after {b} such days come {c} extra. [Total|Number] of pages?",
               "How far has {person} got in a book with {a} pages per day, {b} days, and {c} on top? [Give|Say] "
               "the page."),
    _reasoning("remaining", "start:balance a:small b:small city:city", _start_minus,
               ("A store in {city} has {start} bottles and sells {a} boxes of {b} bottles. How many [remain|are left]?",
                "From {start} bottles in {city}, {a} boxes with {b} bottles each are sold. [What remains|What is "
                "left]?"),
               "Having {start} cans, a {city} shop ships {a} crates holding {b} cans. [State|Give] the rest.",
               "In {city} {start} jars stand ready; {a} pallets of {b} jars leave. [Work out|Compute] what stays."),
    _reasoning("two_groups", "a:count b:count c:small city:city", _sum_times,
               ("A class of {a} and a class of {b} pupils visit {city}, {c} euros each. [What do all pay|What is "
                "the total]?",
                "Two groups, {a} and {b} people, travel to {city} for {c} euros a head. How much [in all|together]?"),
               "Tickets for {city} are {c} euros; {a} adults and {b} children come. [State|Give] the whole cost.",
               "[Compute|Work out] what {a} plus {b} guests spend in {city} when everyone spends {c} euros."),
    _reasoning("youngest", "first:person second:person third:person", _youngest,
               ("{first} is older than {second}, and {second} is older than {third}. Who is [the youngest|youngest]?",
                "{second} is older than {third} but {first} is older than {second}. [Name|Give] the youngest."),
               "Older than {second} is {first}; older than {third} is {second}. [State|Say] who was born last.",
               "Born before {second} was {first}, and before {third} was {second}. [Tell|Find] the one with the "
               "fewest years."),
    _reasoning("largest", "a:number b:number c:number", _largest,
               ("Which number is the largest: {a}, {b} or {c}?",
                "[Name|Give] the largest of the numbers {a}, {b} and {c}."),
               "[State|Say] the biggest among {a}, {b}, {c}.",
               "Out of {a}, {b}, {c}, which value is the [greatest|highest]?"),
    _reasoning("parity", "a:number b:number", _parity,
               ("Is the sum of {a} and {b} even? Answer yes or no.",
                "[Yes or no|Say yes or no]: do {a} and {b} add up to an even number?"),
               "[Can|May] the total of {a} with {b} be split in two equal whole numbers, yes or no?",
               "Adding {a} to {b}, is the result [divisible by two|a multiple of two]? Reply yes or no."),
    Puzzle("alphabetical", "w1:word w2:word w3:word w4:word", _sorted_list, partial(_is_list, _sorted_list),
           ("[List|Write] these words in alphabetical order, separated by commas: {w1}, {w2}, {w3}, {w4}.",
            "[Sort|Order] {w1}, {w2}, {w3}, {w4} from A to Z and separate them by commas."),
           ("As in a dictionary, [arrange|line up] {w1}, {w2}, {w3}, {w4} with commas.",),
           ("[Put|Bring] {w1}, {w2}, {w3}, {w4} into the order of the alphabet; use commas only.",)),
    Puzzle("reversed", "w1:word w2:word w3:word w4:word", _reversed_list, partial(_is_list, _reversed_list),
           ("[Repeat|Write] these words in reverse order, separated by commas: {w1}, {w2}, {w3}, {w4}.",
            "Backwards, last one first, with commas: [list|write] {w1}, {w2}, {w3}, {w4}."),
           ("[Turn|Flip] the sequence {w1}, {w2}, {w3}, {w4} around, keeping commas.",),
           ("Starting at the end, [name|recite] {w1}, {w2}, {w3}, {w4} and put commas between.",)),
    Puzzle("upper_case", "title:title person:person", _upper, partial(_equals, _upper),
           ("Write {title} in capital letters for {person}, [nothing else|no more].",
            "[Reply only|Answer only] with {title} in upper case, for the sign of {person}."),
           ("{person} wants {title} all in capitals, [alone|on its own].",),
           ("[Print|Give] {title} as {person} likes it: each letter a big one, without more text.",)),
    Puzzle("joined", "w1:word w2:word w3:word", _joined, partial(_equals, _joined),
           ("[Join|Connect] the words {w1}, {w2} and {w3} with hyphens, and write only that.",
            "Write {w1}, {w2}, {w3} as one word [joined by|with] hyphens."),
           ("[Link|Chain] {w1} and {w2} and {w3} by hyphens and say no more.",),
           ("Make a hyphenated term [out of|from] {w1}, {w2}, {w3}; reply with it alone.",)),
    Puzzle("starts_with", "word:word n:few", _starting, _starts,
           ("Write exactly {n} words, all in lower case, the first word is {word}.",
            "[Use|Take] {n} words in lower case letters, no more and no fewer, and begin with {word}."),
           ("A lower-case line of {n} words please, [opening|starting] with {word}.",),
           ("Begin by {word} and [stop|end] once you have {n} words; avoid capitals.",)),
    Puzzle("ends_with", "word:word n:few", _ending, _ends,
           ("Write exactly {n} words without any comma, the last word is {word}.",
            "[Use|Take] {n} words, no comma, no full stop, and end with {word}."),
           ("A line of {n} words please that has no comma and [closes|finishes] with {word}.",),
           ("Let {word} be the final one of {n} words, and [leave out|skip] commas.",)),
    Puzzle("repeated", "word:word n:few", _repeated, _repeats,
           ("Write the word {word} {n} times, separated by [blanks|spaces].",
            "[Repeat|Say] {word} exactly {n} times and nothing else."),
           ("{n} copies of {word}, [please|side by side], with blanks between.",),
           ("[Echo|Type] {word} again and again until it stands there {n} times.",)),
)  # fmt: skip
