"""Files import one way, in the order of the pipeline, and what answers the command line does so without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sagetune.commands import COMMANDS

PACKAGE = Path(__file__).parents[1] / "src" / "sagetune"
FACADES = ("sage.libs.finetune.agent", "sage.benchmark.benchmark_agent.experiments.method_comparison")
ORDER = [
    *(
        "processor",
        "config",
        "files",
        "methods",
        "sample",
        "formats",
        "world",
        "record_files",
        "beside",
        "sources",
        "mixing",
        "chat_template",
        "chat",
        "encoding_store",
        "inspection",
        "fireact_doctor",
        "batching",
    ),
    *(
        "attention",
        "embedded",
        "models",
        "lora_linear",
        "adapters",
        "losses",
        "objectives",
        "selection",
        "stream",
        "replay",
        "generation",
        "likelihood",
        "evaluation",
    ),
    *(
        "interrupts",
        "modules",
        "progress",
        "plots",
        "trajectories",
        "preferences",
        "pair_doctor",
        "rollouts",
        "capability",
        "runfolder",
        "status",
        "untouched",
        "report",
        "rate_search",
        "tracking",
        "comparison",
        "training_set",
        "run_data",
        "between_tasks",
        "measuring",
        "fitting",
        "trainer",
        "preference_training",
        "rollout_training",
        "rl_trainer",
        "run",
        "facades",
        "attempt",
        "sweep",
        "jobs",
        "commands",
        "__main__",
    ),
]
LIGHT = (
    "sagetune.preferences",
    *(
        "sagetune.config",
        "sagetune.methods",
        "sagetune.facades",
        "sagetune.sample",
        "sagetune.formats",
        "sagetune.formats.fireact",
        "sagetune.mixing",
    ),
    *("sagetune.sources", "sagetune.world", "sagetune.evaluation.answers", "sagetune.trajectories.search"),
    *("sagetune.trajectories.bfcl", "sagetune.trajectories.collector", "sagetune.trajectories.convert"),
    *("sagetune.trajectories.agents", "sagetune.trajectories.endpoint"),
    *("sagetune.evaluation.scoring.tool_use", "sagetune.evaluation.scoring.instruction_following"),
    *("sagetune.evaluation.scoring.timing", "sagetune.evaluation.scoring.selection"),
    *("sagetune.status", "sagetune.attempt", "sagetune.sweep", "sagetune.jobs"),
)


def imported_modules(path: Path) -> set[str]:
    """First-level names below `sagetune` that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("sagetune.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "sagetune":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sagetune."):
            names.add(str(node.module).split(".")[1])
    return names


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_stands_above_it(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own in ORDER, f"{own} has no place in the order yet"
    wrong = {name for name in imported_modules(path) - {own} if ORDER.index(name) > ORDER.index(own)}
    assert not wrong


COMMAND_FILES = ", ".join(f"sagetune.commands.{name}" for name in COMMANDS)


@pytest.mark.parametrize("module", [*LIGHT, COMMAND_FILES, *FACADES])
def test_light_modules_do_not_load_torch(module: str) -> None:
    heavy = ("torch", "lightning", "transformers", "openai", "smolagents", "langchain_core")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
