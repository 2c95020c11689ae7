"""BFCL multi-turn: 200 scenarios of eight simulated services, several user turns each, with a gold run.

The services are those of the package bfcl-eval, which cannot be a dependency: it pins numpy==1.26.4 and 30 others.
Install it beside the rest, without what it asks for:

    pip install --no-deps bfcl-eval mpmath

A turn ends with a message without a call; then the user says the next thing. As in BFCL, after every turn the public
state of every service must equal that of the gold run, the gold run's results of the turn must be among the results so
far, and the turn must have a call; a turn without gold calls is not compared. Unlike BFCL, calls are never evaluated as
Python: JSON arguments go to the documented methods only, and the gold run's calls are parsed.

Source: github.com/ShishirPatil/gorilla, berkeley-function-call-leaderboard, multi_turn_checker.py.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sagetune.beside import FUNCTION_DOCS
from sagetune.files import read_jsonl
from sagetune.formats.decoding import read_tools
from sagetune.formats.schemas import BFCL_TYPES, json_functions
from sagetune.sample import FunctionCall, Message, ToolCall
from sagetune.trajectories.environment import AgentTask, StepResult

INSTALL = "pip install --no-deps bfcl-eval mpmath"
SERVICES = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
CATEGORY = "BFCL_v4_multi_turn_base.json"
STATELESS = ("MathAPI",)
CLOSING = "Done."
Service = Any  # a class of bfcl-eval, known only when it is installed


@dataclass(frozen=True, slots=True)
class Scenario:
    """A record of BFCL with its gold calls, turn by turn, and the documents of its services' methods."""

    id: str
    questions: tuple[str, ...]
    services: tuple[str, ...]
    config: Mapping[str, Any]
    gold: tuple[tuple[str, ...], ...]
    documents: tuple[dict[str, Any], ...]
    excluded: frozenset[str]


class Backend:
    """The services of a scenario in their first state, and what can be called on them."""

    def __init__(self, scenario: Scenario) -> None:
        self._services: dict[str, Service] = {}
        self._methods: dict[str, Callable[..., Any]] = {}
        documented = {document["name"] for document in scenario.documents}
        for name in scenario.services:
            service = vars(importlib.import_module(f"{SERVICES}.{FUNCTION_DOCS[name]}"))[name]()
            if name not in STATELESS:
                service._load_scenario(copy.deepcopy(scenario.config.get(name, {})))
            self._services[name] = service
            methods = dict(inspect.getmembers(service, inspect.ismethod))
            self._methods |= {method: methods[method] for method in documented & set(methods)}

    def call(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        """(what the method returns, as text; whether it raised)."""
        try:
            result = self._methods[name](**copy.deepcopy(dict(arguments)))  # a service keeps lists, and adds to them
        except Exception as error:  # a service of the package raises whatever bad arguments lead to
            return f"Error during execution: {error}", True
        return _as_text(result), False

    def state(self) -> dict[str, dict[str, Any]]:
        """The public attributes of every service."""
        return {
            name: {key: value for key, value in vars(service).items() if not key.startswith("_")}
            for name, service in self._services.items()
        }

    def parse(self, call: str) -> FunctionCall:
        """`f('a', b=2)` with its arguments by name. Raises ValueError if it is anything but a call with literals."""
        node = ast.parse(call, mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in self._methods:
            raise ValueError(f"gold call {call!r}: expected the call of a documented method")
        names = list(inspect.signature(self._methods[node.func.id]).parameters)
        given = [*zip(names, node.args, strict=False), *((str(word.arg), word.value) for word in node.keywords)]
        return {"name": node.func.id, "arguments": {name: ast.literal_eval(value) for name, value in given}}


class BfclEnvironment:
    """A scenario, turn by turn."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._offered = [doc for doc in scenario.documents if doc["name"] not in scenario.excluded]
        self._names = {document["name"] for document in self._offered}
        self.reset()

    @property
    def tools(self) -> list[dict[str, Any]]:
        shown = [{key: document[key] for key in ("name", "description", "parameters")} for document in self._offered]
        return read_tools(json_functions(shown, BFCL_TYPES)[0])

    def reset(self) -> list[Message]:
        self._backend, self._gold = Backend(self._scenario), Backend(self._scenario)
        self._results: Counter[str] = Counter()
        self._num_calls = 0
        self._right: list[bool] = []
        return [{"role": "user", "content": self._scenario.questions[0]}]

    def step(self, call: ToolCall) -> StepResult:
        name = call["function"]["name"]
        if name not in self._names:
            return StepResult(f"Error during execution: there is no tool {name!r}", failed=True)
        result, failed = self._backend.call(name, call["function"]["arguments"])
        self._results[result] += 1
        self._num_calls += 1
        return StepResult(result, failed=failed)

    def reply(self, content: str) -> str | None:
        if len(self._right) < len(self._scenario.questions):
            self._right.append(self._is_right(self._scenario.gold[len(self._right)]))
            self._num_calls = 0
        turn = len(self._right)
        return self._scenario.questions[turn] if turn < len(self._scenario.questions) else None

    def score(self, messages: list[Message]) -> float:
        """1 if every turn came to its end and was right, else 0."""
        return float(len(self._right) == len(self._scenario.questions) and all(self._right))

    def close(self) -> None:
        """Nothing is held."""

    def _is_right(self, gold: Iterable[str]) -> bool:
        """Run the gold calls of the turn that ends, and compare."""
        calls = [self._gold.parse(call) for call in gold]
        results = Counter(self._gold.call(call["name"], call["arguments"])[0] for call in calls)
        if not calls:
            return True
        return self._num_calls > 0 and results <= self._results and self._backend.state() == self._gold.state()


def bfcl_tasks(path: str | Path | None = None) -> list[AgentTask]:
    """The 200 scenarios of BFCL v4 multi-turn base, from the folder `path` or from the package itself.

    gold: the gold calls with their results and, as BFCL has no words for it, CLOSING at the end of each turn.
    Raises ValueError if the package is not installed.
    """
    if find_spec("bfcl_eval") is None:
        raise ValueError(f"BFCL's services are not installed: {INSTALL}")
    folder = _package_data() if path is None else Path(path)
    answers = {record["id"]: record["ground_truth"] for record in _records(folder / "possible_answer" / CATEGORY)}
    docs = folder / "multi_turn_func_doc"
    documents = {name: _records(docs / f"{module}.json") for name, module in FUNCTION_DOCS.items()}
    return [_task(record, answers[record["id"]], documents) for record in _records(folder / CATEGORY)]


def _package_data() -> Path:
    package = importlib.import_module("bfcl_eval")
    return Path(str(package.__file__)).parent / "data"


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected BFCL's data folder")
    return read_jsonl(path)


def _task(record: dict[str, Any], gold: list[list[str]], documents: dict[str, list[dict[str, Any]]]) -> AgentTask:
    scenario = Scenario(
        id=record["id"],
        questions=tuple("\n".join(message["content"] for message in turn) for turn in record["question"]),
        services=tuple(record["involved_classes"]),
        config=record["initial_config"],
        gold=tuple(tuple(turn) for turn in gold),
        documents=tuple(document for name in record["involved_classes"] for document in documents[name]),
        excluded=frozenset(record.get("excluded_function", [])),
    )

    def make() -> BfclEnvironment:
        return BfclEnvironment(scenario)

    return AgentTask(scenario.id, scenario.questions[0], make, family="bfcl", gold=_gold_messages(scenario))


def _gold_messages(scenario: Scenario) -> tuple[Message, ...]:
    backend = Backend(scenario)
    messages: list[Message] = []
    num_calls = 0
    for turn, calls in enumerate(scenario.gold):
        if turn:
            messages.append({"role": "user", "content": scenario.questions[turn]})
        for text in calls:
            function = backend.parse(text)
            num_calls += 1
            call: ToolCall = {"id": f"call_{num_calls}", "type": "function", "function": function}
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            result = backend.call(function["name"], function["arguments"])[0]
            messages.append({"role": "tool", "content": result, "tool_call_id": call["id"]})
        messages.append({"role": "assistant", "content": CLOSING})
    return tuple(messages)


def _as_text(result: Any) -> str:
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result) if isinstance(result, dict) else str(result)
    except TypeError:
        return str(result)
