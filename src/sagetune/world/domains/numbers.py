"""Units and arithmetic: a calculator that keeps a history of its results."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from sqlite3 import Connection
from typing import Any

from sagetune.world.tools import Domain, Run, Tool, ToolError

_METERS = {"meters": 1.0, "feet": 0.3048, "miles": 1609.344, "kilometers": 1000.0, "inches": 0.0254}
_GRAMS = {"grams": 1.0, "pounds": 453.59237, "kilograms": 1000.0, "ounces": 28.349523125}


def computed(compute: Callable[..., Any]) -> Run:
    """A tool that computes its result from its arguments and writes both into the history."""

    def run(db: Connection, arguments: dict[str, Any]) -> Any:
        result = compute(**arguments)
        written = " ".join(str(value) for value in arguments.values())
        db.execute("INSERT INTO results (input, result) VALUES (?, ?)", (written, str(result)))
        return {"result": result}

    return run


def _converted(factors: dict[str, float]) -> Run:
    return computed(lambda value, from_unit, to_unit: round(value * factors[from_unit] / factors[to_unit], 2))


def _days(start: str, end: str) -> int:
    return (date.fromisoformat(end) - date.fromisoformat(start)).days


def _remainder(a: int, b: int) -> int:
    if b == 0:
        raise ToolError("b must not be 0")
    return a % b


NUMBERS = Domain(
    name="numbers",
    objects=r"plus|times|minus|sum|add|multipl\w+|subtract|convert|days|difference|percent|remainder|product of|"
    "total|divided|units?|many|result|express|turn|apart|weigh|measures?|distance|length|weight|calculate",
    tables={"results": "input:blank result:blank"},
    tools=(
        Tool(
            "add_numbers", "Add two numbers", "a:number b:number", computed(lambda a, b: a + b),
            cue="add|plus|sum|total|together",
            near=("add_contact", "append_note"),
            train=("[add|sum] {a} and {b}", "What is {a} plus {b}?", "[compute|calculate] {a} plus {b}",
                   "[What is|Tell me] the sum of {a} and {b}?"),
            dev=("[total|sum up] the numbers {a} and {b}", "How much do {a} and {b} make in total?"),
            test=("[put|take] {a} and {b} together into one sum", "Which sum do {a} and {b} make together?"),
        ),
        Tool(
            "multiply", "Multiply two numbers", "a:number b:number", computed(lambda a, b: a * b),
            cue=r"multipl\w+|times|product of",
            near=("rate_product",),
            train=("multiply {a} [by|with] {b}", "What is {a} times {b}?", "[compute|calculate] {a} times {b}",
                   "[What is|Tell me] {a} multiplied by {b}?"),
            dev=("[work out|get] the product of {a} and {b}", "How much is {a} times {b}?"),
            test=("take {a} exactly {b} times and give the result", "Which result has {a} multiplied with {b}?",
                  "let me know the product of {a} with {b}"),
        ),
        Tool(
            "subtract", "Subtract b from a", "a:number b:number", computed(lambda a, b: a - b),
            cue="subtract|minus|less|difference|take away",
            near=("delete_note",),
            train=("subtract {b} from {a}", "What is {a} minus {b}?", "[compute|calculate] {a} minus {b}",
                   "[What remains|What is left] of {a} minus {b}?"),
            dev=("[work out|get] {a} minus {b}", "How much is {a} minus {b}?"),
            test=("start with {a}, then subtract {b}", "Which result has {a} minus {b}?",
                  "let me know {a} with {b} subtracted, the difference"),
        ),
        Tool(
            "convert_length", "Convert a length", "value:number from_unit:length to_unit:length", _converted(_METERS),
            cue="(convert|turn|express|many|write).*(length|distance)|(length|distance).*(convert|turn|express)",
            near=("compress_file", "update_phone"),
            train=("convert a length of {value} {from_unit} to {to_unit}",
                   "[convert|turn|express] the distance {value} {from_unit} into {to_unit}",
                   "How many {to_unit} is a [length|distance] of {value} {from_unit}?"),
            dev=("[express|turn|write] {value} {from_unit} of length in {to_unit}, that is convert the distance",),
            test=("[state|express|write] the distance of {value} {from_unit} in {to_unit} units, convert it",),
        ),
        Tool(
            "convert_weight", "Convert a weight", "value:number from_unit:weight to_unit:weight", _converted(_GRAMS),
            cue="weight|weighs?|heavy",
            near=("compress_file",),
            train=("convert a weight of {value} {from_unit} to {to_unit}",
                   "[convert|turn] the weight {value} {from_unit} into {to_unit}",
                   "How many {to_unit} is a weight of {value} {from_unit}?",
                   "[It weighs|This weighs] {value} {from_unit}, convert that to {to_unit}."),
            dev=("[express|put] {value} {from_unit} of weight in {to_unit}, please convert",
                 "Something weighs {value} {from_unit}: how many {to_unit} are that?"),
            test=("[state|write] the weight {value} {from_unit} as a number of {to_unit}",
                  "A box is {value} {from_unit} heavy. Convert to {to_unit}."),
        ),
        Tool(
            "days_between", "Count days between two dates", "start:date end:date", computed(_days),
            cue="days|apart",
            near=("list_events", "move_event"),
            train=("count the days [between|from] {start} [and|to] {end}",
                   "How many days are between {start} and {end}?",
                   "[calculate|compute] the days from {start} to {end}"),
            dev=("[work out|get] how many days pass from {start} until {end}",
                 "How many days lie between {start} and {end}?"),
            test=("[say|tell me] how far apart {start} and {end} are in days",
                  "From {start} up to {end}, how many days is that?"),
        ),
        Tool(
            "percent_of", "Compute a percentage", "percent:small value:number",
            computed(lambda percent, value: round(percent * value / 100, 2)),
            cue="percent", near=("set_limit",),
            dev=("[work out|get] {percent} percent of {value}", "How much is {percent} percent of {value}?"),
        ),
        Tool(
            "remainder", "Remainder of a divided by b", "a:number b:small", computed(_remainder),
            cue="remainder|left over", near=("get_balance",),
            test=("[find|state] the remainder of {a} divided by {b}",
                  "What remainder is left when {a} is divided by {b}?"),
        ),
    ),
)  # fmt: skip
