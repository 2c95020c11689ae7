"""The public API reference, read from its own text: imports, signatures, tables and all eleven examples."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from conftest import conversation
from sagetune import models, world
from sagetune.config import ModelConfig
from sagetune.facades import FACADES
from sagetune.methods import MethodRegistry
from sagetune.trajectories.collector import TrajectoryCollector
from sagetune.trajectories.expert import ExpertAgent
from sagetune.trajectories.record import save_trajectories

SPEC = Path(__file__).parents[2] / "shared" / "spec" / "agent_finetune_api_reference.md"
TEXT = SPEC.read_text() if SPEC.is_file() else ""
pytestmark = pytest.mark.skipif(not TEXT, reason=f"the reference is not here: {SPEC}")


class Table(NamedTuple):
    """A table of the reference: the class that it is about, what it lists, its rows by column."""

    owner: str
    kind: str
    rows: list[dict[str, str]]


def tables() -> list[Table]:
    """Every table, with backticks and escapes taken out of its cells."""
    found: list[Table] = []
    section = title = ""
    header: list[str] = []
    for line in TEXT.splitlines():
        if line.startswith("### "):
            section = line.removeprefix("### ")
        elif line.startswith("**") and line.endswith(":"):
            title, header = line.strip("*:"), []
        elif line.startswith("| ") and not line.startswith("| --"):
            cells = [cell.strip().strip("`").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not header:
                header = cells
                *named, kind = title.split(" ")
                owner = named[0] if named and named[0] not in ("Class", "Predefined", "Capabilities") else section
                found.append(Table(owner, title if owner == section else kind, []))
            else:
                found[-1].rows.append(dict(zip(header, cells, strict=True)))
    return found


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def examples() -> dict[str, str]:
    """Section -> its example; what follows the imports, where a block has both."""
    found = {}
    for section in TEXT.split("\n### ")[1:]:
        code = [block for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if " = " in block]
        code = [block for block in code if not signature_of(block)]
        if code:
            found[section.splitlines()[0]] = code[-1]
    return found


def signature_of(block: str) -> ast.FunctionDef | None:
    """A constructor's signature, such as `TrajectoryFilter(min_reward: float = 0.5)`; None for other code."""
    try:
        ast.parse(block)
    except SyntaxError:
        (found,) = ast.parse(f"def {block.strip()}: ...").body
        assert isinstance(found, ast.FunctionDef)
        return found
    return None


def imports() -> list[tuple[str, str]]:
    """(module, name) of every import that the reference shows."""
    trees = [ast.parse(block) for block in blocks() if not signature_of(block)]
    nodes = [node for tree in trees for node in tree.body if isinstance(node, ast.ImportFrom)]
    return [(str(node.module), alias.name) for node in nodes for alias in node.names]


def named(name: str) -> Any:
    """What the reference's import of `name` gives."""
    (module,) = {module for module, imported in imports() if imported == name} or {""}
    return getattr(importlib.import_module(module), name)


def plain(annotation: str) -> str:
    """An annotation as the reference writes it: without what a dict or list of ours says beyond it."""
    return annotation.replace("dict[str, Any]", "dict").replace("Optional[int]", "int | None")


def agrees(ours: str, theirs: str) -> bool:
    """Whether our type is the reference's, or takes more, or says more of what is in it."""
    wanted = "str" if theirs.startswith("Literal[") else plain(theirs)
    return wanted in plain(ours).split(" | ") or plain(ours) == wanted or plain(ours).startswith(f"{wanted}[")


OF_FIELDS = {table.owner: table.rows for table in tables() if table.kind.endswith("Attributes")}
OF_METHODS = {
    table.owner: table.rows for table in tables() if table.kind.endswith("Methods") and "ID" not in table.rows[0]
}
SIGNATURES = {found.name: found for block in blocks() if (found := signature_of(block))}


def test_the_reference_is_read_whole() -> None:
    """A change of its layout would otherwise leave tests without anything to test."""
    assert (len(imports()), len(examples()), len(SIGNATURES)) == (22, 11, 4)
    assert len(OF_FIELDS) == 10
    assert sum(map(len, OF_FIELDS.values())) == 60
    assert sum(map(len, OF_METHODS.values())) == 26


@pytest.mark.parametrize("name", [name for _, name in imports()])
def test_every_import_works(name: str) -> None:
    assert named(name).__name__ == name


@pytest.mark.parametrize("owner", list(OF_FIELDS))
def test_every_attribute_has_its_type_and_default(owner: str) -> None:
    ours = {field.name: field for field in dataclasses.fields(named(owner))}
    rows = OF_FIELDS[owner]
    assert list(ours)[: len(rows)] == [row["Attribute"] for row in rows], "ours come after the reference's"
    for row in rows:
        field = ours[row["Attribute"]]
        assert agrees(str(field.type), row["Type"]), (row, field.type)
        if "Default" in row:
            literal = row["Default"].replace(".sage/finetune/", "Path('.sage/finetune/')")
            wanted = dataclasses.MISSING if literal == "Required" else eval(literal, {"Path": Path})
            assert field.default == wanted
            assert field.default_factory is dataclasses.MISSING


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_constructor_has_its_signature(name: str) -> None:
    theirs = SIGNATURES[name].args
    ours = list(inspect.signature(named(name)).parameters.values())
    defaults = [inspect.Parameter.empty] * (len(theirs.args) - len(theirs.defaults))
    defaults += [ast.literal_eval(default) for default in theirs.defaults]
    for given, default, own in zip(theirs.args, defaults, ours, strict=False):
        assert given.annotation is not None
        assert (own.name, own.default) == (given.arg, default)
        assert agrees(str(own.annotation), ast.unparse(given.annotation)), own
    assert len(ours) >= len(theirs.args)
    assert all(own.kind is own.KEYWORD_ONLY for own in ours[len(theirs.args) :])


@pytest.mark.parametrize(
    ("owner", "row"),
    [pytest.param(owner, row, id=f"{owner}.{row['Method']}") for owner, rows in OF_METHODS.items() for row in rows],
)
def test_every_method_takes_and_returns_what_the_reference_says(owner: str, row: dict[str, str]) -> None:
    call = ast.parse(f"def {row['Method']}: ...").body[0]
    assert isinstance(call, ast.FunctionDef)
    signature = inspect.signature(getattr(named(owner), call.name))
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    wanted = [argument.arg for argument in call.args.args]
    assert [parameter.name for parameter in parameters[: len(wanted)]] == wanted
    assert all(parameter.default is not parameter.empty for parameter in parameters[len(wanted) :])
    for default, parameter in zip(
        call.args.defaults, parameters[len(wanted) - len(call.args.defaults) :], strict=False
    ):
        assert parameter.default == ast.literal_eval(default)
    assert agrees(str(signature.return_annotation), row["Returns"])


@pytest.mark.parametrize("row", [row for t in tables() if t.kind == "Strategies" for row in t.rows], ids=str)
def test_every_strategy_needs_a_model_where_the_reference_says_so(row: dict[str, str]) -> None:
    selector = named("CoresetSelector")(strategy=row["Strategy"], target_size=2)
    samples = [dict(conversation(index)) for index in range(6)]
    if row["Requires Model"] == "Yes":
        with pytest.raises(ValueError, match="pass select"):
            selector.select(samples)
    else:
        assert len(selector.select(samples)) == 2


@pytest.mark.parametrize("row", [row for t in tables() if "Capability" in t.rows[0] for row in t.rows], ids=str)
def test_every_capability_is_evaluated(row: dict[str, str]) -> None:
    score = quick_evaluator().evaluate_capability(ExpertAgent(), row["Capability"], "agent_sft:test")
    assert (score.capability, score.score, score.num_samples) == (row["Capability"], 1.0, 4)


def test_the_predefined_methods_are_the_references() -> None:
    (rows,) = [table.rows for table in tables() if "ID" in table.rows[0]]
    methods = MethodRegistry.get_all_methods()
    ours = [(name, method.name, method.description) for name, method in methods.items()]
    assert ours == [(row["ID"], row["Name"], row["Key Features"]) for row in rows]


def quick_evaluator() -> Any:
    from sagetune.config import EvaluationConfig

    return named("AgentCapabilityEvaluator")(EvaluationConfig(samples=4))


@pytest.fixture
def free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the examples take from elsewhere, each a real object, and the files that they read."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        rows = [json.dumps(conversation(index)) for index in range(8)]
        Path(f"{split}.jsonl").write_text("\n".join(rows))
    tasks = world.generate("planning", "train", 12)
    acted = TrajectoryCollector(ExpertAgent(error_rate=0.2)).attempts(tasks)
    save_trajectories(acted, "trajectories.jsonl")
    model = models.load_model("embedded:tiny", ModelConfig(dtype="float32", attention="sdpa"))
    model.name_or_path = "embedded:tiny"  # a model of the hub says where it comes from, too
    batch = {"input_ids": torch.arange(8).reshape(2, 4), "attention_mask": torch.ones(2, 4, dtype=torch.long)}
    data_loader = [batch | {"sample_id": torch.tensor([2 * step, 2 * step + 1])} for step in range(4)]

    def train_step(mixed: dict[str, Any]) -> float:
        labels = mixed["input_ids"]
        return float(model(input_ids=labels, attention_mask=mixed["attention_mask"], labels=labels).loss)

    families = {f"{family}_samples": world.generate(family, "train", 20) for family in world.FAMILIES}
    reasoning = [one for one in world.generate("general", "test", 40) if one["meta"]["kind"] in world.REASONING_KINDS]
    tests = {
        "tool_test_data": world.generate("tool_selection", "test", 2),
        "planning_test_data": world.generate("planning", "test", 2),
        "reasoning_test_data": reasoning[:2],
    }
    return {
        **{name: named(name) for _, name in imports()},
        **{"json": json, "my_agent": ExpertAgent(error_rate=0.2), "task_list": tasks, "all_trajectories": acted},
        **{"trajectories": [one for one in acted if one.success], "data_loader": data_loader, "train_step": train_step},
        **{"all_samples": [dict(conversation(index)) for index in range(8)], "my_model": model},
        **{"model": (model, models.load_tokenizer("embedded:tiny", ModelConfig()))},
        **families,
        **tests,
    }


HERE = {  # ours in place of the hub's; the embedded world is there by the names that the reference uses, but large
    "Qwen/Qwen2.5-1.5B-Instruct": "embedded:tiny",
    "agent_sft:train": "train.jsonl",
    "agent_sft:test": "test.jsonl",
}


CAME_OF_IT: dict[str, Callable[[dict[str, Any]], bool]] = {
    "AgentSFTConfig": lambda left: (left["config"].num_epochs, left["config"].use_dora) == (2, True),
    "AgentSFTTrainer": lambda left: (
        left["result"].final_loss > 0
        and 0 <= left["eval_result"].accuracy <= 1
        and Path("my_agent_model/adapter_model.safetensors").is_file()
    ),
    "CoresetSelector": lambda left: len(left["selected"]) == len(left["losses"]) == 8,
    "OnlineContinualLearner": lambda left: len(left["learner"]) == 8 and len(left["mixed_batch"]["input_ids"]) > 2,
    "TrajectoryCollector": lambda left: 0 < len(left["trajectories"]) < 12,
    "TrajectoryFilter": lambda left: left["stats"]["kept"] == len(left["good_trajectories"]) > 0,
    "TrajectoryToSFTConverter": lambda left: (
        len(Path("sft_data.jsonl").read_text().splitlines()) == len(left["sft_data"]) > 0
    ),
    "Convenience Functions": lambda left: (
        left["trajectories"] == left["all_trajectories"] and 0 < len(left["sft_data"]) < 12
    ),
    "MultiTaskMixer": lambda left: left["dist"]["tool_selection"] == 20 == max(left["dist"].values()),
    "AgentCapabilityEvaluator": lambda left: left["report"].summary().startswith("Agent Capability Report\n"),
    "MethodRegistry": lambda left: len(left["all_methods"]) == 10 and left["custom"].continual_buffer_size == 4096,
}


@pytest.mark.parametrize("name", examples())
def test_every_example_runs_as_it_is_written(name: str, free: dict[str, Any]) -> None:
    code = examples()[name]
    for hub, ours in HERE.items():
        code = code.replace(hub, ours)
    exec(code, free)
    assert CAME_OF_IT[name](free)


TRY_FACADES = """
import importlib
from sagetune.facades import FACADES
for facade in FACADES:
    try:
        importlib.import_module(facade)
    except ImportError:
        print(facade)
"""


@pytest.mark.parametrize(
    ("package", "num_hidden"),
    [
        ("sage", 3),
        ("sage/tools", 0),
        pytest.param("sage/libs", 2, marks=pytest.mark.thorough),
        pytest.param("sage/benchmark", 1, marks=pytest.mark.thorough),
    ],
)
def test_another_distributions_sage_costs_facades_alone_and_is_named(
    package: str, num_hidden: int, tmp_path: Path
) -> None:
    """A regular package, one with an __init__.py, hides a namespace of its name, wherever it stands on the path."""
    other = tmp_path / package / "__init__.py"
    other.parent.mkdir(parents=True)
    other.touch()
    source = Path(__file__).parents[1] / "src"
    environment = os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{tmp_path}"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    told = run("-m", "sagetune", "methods")
    assert told.returncode == 0, told.stderr
    assert told.stdout.count(f"cannot be imported: {other} of another distribution") == num_hidden
    tried = run("-c", TRY_FACADES)
    assert tried.returncode == 0, tried.stderr
    missing = tried.stdout.split()
    assert [facade for facade in FACADES if f"{facade} cannot be imported" in told.stdout] == missing
    assert len(missing) == num_hidden
    assert run("-m", "sagetune", "train", "--cfg", "job").returncode == 0
