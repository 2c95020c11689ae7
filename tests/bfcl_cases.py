"""BFCL's answerable items, right and perturbed replies to them, and the verdicts of BFCL's own checker.

`python tests/bfcl_cases.py` writes tests/data/bfcl_vectors.jsonl, which checks the scorer where bfcl-eval is absent.
It needs `pip install --no-deps --target <folder> bfcl-eval mpmath`, <folder> on PYTHONPATH, and BFCL's data.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from sagetune.evaluation.calls import Reply
from sagetune.evaluation.scoring.tool_use import ToolUseGold, category_of, score_tool_use
from sagetune.sample import FunctionCall

DATA = Path(__file__).parents[1].parent / "shared/data/bfcl_v4"
VECTORS = Path(__file__).parent / "data/bfcl_vectors.jsonl"
ANSWERABLE = (
    *("simple_python", "multiple", "parallel", "parallel_multiple"),
    *("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
)
Calls = list[FunctionCall]


def items(category: str) -> Iterator[tuple[str, ToolUseGold]]:
    """Id and gold record of every item of a category."""
    path = DATA / "possible_answer" / f"BFCL_v4_{category}.json"
    answers = {row["id"]: row["ground_truth"] for row in lines(path)} if path.exists() else {}
    for row in lines(DATA / f"BFCL_v4_{category}.json"):
        prompt = row["question"][0][-1]["content"]
        yield row["id"], ToolUseGold(category_of(row["id"]), row["function"], answers.get(row["id"], []), prompt)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def solution(gold: ToolUseGold, pick: int = 0, with_optional: bool = True) -> Calls:
    """The gold calls with the first allowed values (pick=-1: the last)."""
    return [
        {
            "name": name,
            "arguments": {
                parameter: concrete(values, pick)
                for parameter, values in allowed.items()
                if any(value != "" for value in values) and (with_optional or "" not in values)
            },
        }
        for answer in gold.answers
        for name, allowed in answer.items()
    ]


def concrete(values: list[Any], pick: int = 0) -> Any:
    """An allowed value; in an object each key has its own list, one level deep."""
    value = [value for value in values if value != ""][pick]
    if isinstance(value, dict):
        return filled(value, pick)
    if isinstance(value, list):
        return [filled(item, pick) if isinstance(item, dict) else item for item in value]
    return value


def filled(value: dict[str, Any], pick: int) -> dict[str, Any]:
    some = {key: [option for option in options if option != ""] for key, options in value.items()}
    return {key: options[pick] for key, options in some.items() if options}


def replies(gold: ToolUseGold) -> Iterator[tuple[str, Calls]]:
    """(what was done to the solution, the calls), right and wrong ones."""
    right = solution(gold)
    yield "gold", right
    yield "last_value", solution(gold, -1)
    yield "required_only", solution(gold, with_optional=False)
    yield "reordered_calls", right[::-1]
    yield "reordered_keys", [{**call, "arguments": dict([*call["arguments"].items()][::-1])} for call in right]
    yield "no_call", []
    yield "missing_call", right[1:]
    yield "extra_call", [*right, right[0]]
    yield "one_call_repeated", [right[0]] * len(right)
    yield "other_function", [{**call, "name": gold.functions[-1]["name"]} for call in right]
    yield "wrong_name", [{**call, "name": call["name"] + "_"} for call in right]
    yield "name_case", [{**call, "name": call["name"].swapcase()} for call in right]
    yield "underscored", [{**call, "name": call["name"].replace(".", "_")} for call in right]
    yield "no_arguments", [{**call, "arguments": {}} for call in right]
    yield "extra_argument", changed(right, 0, lambda arguments: {**arguments, "unheard_of": 1})
    yield "all_documented", everything_documented(gold, right)
    for place, call in enumerate(right):
        for parameter in call["arguments"]:
            yield from changed_values(right, place, parameter)


def everything_documented(gold: ToolUseGold, right: Calls) -> Calls:
    documents = {function["name"]: function["parameters"]["properties"] for function in gold.functions}
    return [
        {**call, "arguments": {**dict.fromkeys(documents[call["name"]], ""), **call["arguments"]}} for call in right
    ]


def changed_values(right: Calls, place: int, parameter: str) -> Iterator[tuple[str, Calls]]:
    def with_value(new: Any) -> Calls:
        return changed(right, place, lambda arguments: {**arguments, parameter: new})

    value = right[place]["arguments"][parameter]
    yield (
        "missing_argument",
        changed(right, place, lambda arguments: {key: item for key, item in arguments.items() if key != parameter}),
    )
    for kind, new in ("as_text", str(value)), ("in_list", [value]), ("null", None), ("empty", ""), ("empty_list", []):
        yield kind, with_value(new)
    yield "empty_object", with_value({})
    yield "true", with_value(True)
    yield "one", with_value(1)
    yield "float", with_value(1.0 * value if type(value) is int else 0.5)
    for kind, new in neighbours(value):
        yield kind, with_value(new)


def neighbours(value: Any) -> Iterator[tuple[str, Any]]:
    """Values of the same type, some of which the rules forgive."""
    if isinstance(value, str):
        yield from (("text_case", value.swapcase()), ("text_marks", f" {value},. "), ("text_quotes", f"'{value}'"))
        yield from (("text_other", value + "x"), ("text_inner", value.replace(" ", "_")))
    elif isinstance(value, bool):
        yield "not", not value
    elif isinstance(value, int | float):
        yield from (("plus_1", value + 1), ("minus", -value), ("huge", 10**30))
    elif isinstance(value, list):
        yield from (("list_reversed", value[::-1]), ("list_longer", value + value[:1]), ("list_shorter", value[1:]))
        yield from (("list_text", [str(item) for item in value]), ("list_mixed", [*value, None, {}, "x"]))
        yield from (("list_change", [new, *value[1:]]) for _, new in neighbours(value[0] if value else 0))
    elif isinstance(value, dict):
        yield "dict_extra", {**value, "unheard_of": 1}
        for key, item in value.items():
            yield "dict_missing", {other: kept for other, kept in value.items() if other != key}
            yield from ((f"dict_{kind}", {**value, key: new}) for kind, new in neighbours(item))


def changed(right: Calls, place: int, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Calls:
    return [
        {**call, "arguments": change(call["arguments"])} if index == place else call for index, call in enumerate(right)
    ]


def reference() -> Callable[[str, ToolUseGold, Calls, bool], bool | None]:
    """BFCL's verdict on calls; None where its checker raises. The stub stands for a table that imports 30 packages."""
    models = ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = {  # type: ignore[attr-defined]
        "dots": SimpleNamespace(underscore_to_dot=False), "none": SimpleNamespace(underscore_to_dot=True),
    }  # fmt: skip
    sys.modules.setdefault(models.__name__, models)
    checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
    python = importlib.import_module("bfcl_eval.constants.enums").Language.PYTHON

    def verdict(item_id: str, gold: ToolUseGold, calls: Calls, dots_allowed: bool = True) -> bool | None:
        outputs = [{call["name"]: call["arguments"]} for call in calls]
        category, model = item_id.rsplit("_", 1)[0], "dots" if dots_allowed else "none"
        try:
            return bool(checker.ast_checker(gold.functions, outputs, gold.answers, python, category, model)["valid"])
        except (AttributeError, KeyError, TypeError, IndexError, UnboundLocalError, OverflowError):
            return None

    return verdict


def ours(gold: ToolUseGold, calls: Calls, dots_allowed: bool = True) -> bool:
    """Our verdict. A reply without a call says something, so that it can be read."""
    return score_tool_use(Reply("" if calls else "I cannot.", calls, None), gold, dots_allowed=dots_allowed).correct


def write_vectors() -> None:
    """For each category, kind of reply and verdict of BFCL the first reply of that sort, with what judges it."""
    verdict, seen, rows = reference(), set[tuple[str, str, bool]](), []
    for category in ANSWERABLE:
        for item_id, gold in items(category):
            cases = []
            for kind, calls in replies(gold):
                theirs = verdict(item_id, gold, calls, True)
                if theirs is not None and (gold.category, kind, theirs) not in seen:
                    seen.add((gold.category, kind, theirs))
                    cases.append([kind, calls, theirs])
            if cases:
                names = {name for answer in gold.answers for name in answer}
                documents = [bare(document) for document in gold.functions if document["name"] in names]
                rows.append({"id": item_id, "functions": documents, "answers": gold.answers, "cases": cases})
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text(
        "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows), encoding="utf-8"
    )


def bare(document: dict[str, Any]) -> dict[str, Any]:
    """A function document without its prose."""
    parameters = document["parameters"]
    properties = {
        name: {"type": schema["type"]} | ({"items": {"type": schema["items"]["type"]}} if "items" in schema else {})
        for name, schema in parameters["properties"].items()
    }
    return {"name": document["name"], "parameters": {"properties": properties, "required": parameters["required"]}}


def compare(every: int = 1) -> Counter[tuple[str, bool | None, bool]]:
    """(what was done, BFCL's verdict, ours) -> replies, over every n-th item and both spellings of names."""
    verdict, counts = reference(), Counter[tuple[str, bool | None, bool]]()
    for category in ANSWERABLE:
        for item_id, gold in [*items(category)][::every]:
            for kind, calls in replies(gold):
                for dots_allowed in (True, False) if "." in str(gold.answers[0].keys()) else (True,):
                    theirs = verdict(item_id, gold, calls, dots_allowed)
                    counts[kind, theirs, ours(gold, calls, dots_allowed)] += 1
    return counts


if __name__ == "__main__":
    counted = compare()
    for (kind, theirs, own), count in sorted(counted.items(), key=str):
        print(f"{kind:18} bfcl {theirs!s:5} ours {own!s:5} {count:6}")
    print(f"{counted.total()} replies, {sum(n for (_, theirs, own), n in counted.items() if theirs is not own)} differ")
    write_vectors()
