"""Every command in the README and in docs/, and every block of Python in the README, works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from forked import Forked
from sagetune.methods import MethodRegistry
from sagetune.sources import load

HERE = Path(__file__).parents[1]
README = (HERE / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((HERE / "docs").glob("*.md")))]
BLOCKS = [
    [line.split("  #")[0].strip().removeprefix(".venv/bin/") for line in block.splitlines() if line.strip()]
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
]
NUM_OF_README = len(re.findall(r"```bash\n", README))
"""Blocks of the README itself: their runs are logged for W&B; those of docs/ are not, which saves two seconds a run."""
MAKE = ["make demo", "make test"]  # CI itself runs these two


def test_the_readme_starts_with_the_two_commands() -> None:
    assert BLOCKS[0] == MAKE


@pytest.mark.parametrize("block", BLOCKS[1:], ids=lambda block: block[0].removeprefix("sagetune "))
def test_the_commands_work(block: list[str], tmp_path: Path) -> None:
    """Those of one block run one after another in one folder: a later one may read what an earlier one wrote."""
    write_method(tmp_path)
    environment = {"WANDB_MODE": "offline" if block in BLOCKS[:NUM_OF_README] else "disabled"}
    for command in block:
        program, *arguments = shlex.split(command)
        assert program == "sagetune"
        forks = "-m" in arguments or any(argument.startswith("experiment=") for argument in arguments)
        code, printed = (in_a_process_of_its_own if forks else in_a_fork)(arguments, tmp_path, environment)
        assert code == 0, command + printed


def in_a_process_of_its_own(arguments: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and output; a sweep forks its jobs itself."""
    run = [sys.executable, "-m", "sagetune", *arguments]
    done = subprocess.run(run, capture_output=True, text=True, cwd=folder, check=False, env=os.environ | environment)
    return done.returncode, done.stdout + done.stderr


def in_a_fork(arguments: list[str], folder: Path, environment: dict[str, str]) -> tuple[int | None, str]:
    process = Forked(*arguments, folder=folder, environment=environment)
    printed = process.finish()
    return process.returncode, printed


def test_the_python_of_the_readme_works_from_top_to_bottom(tmp_path: Path) -> None:
    run = [sys.executable, "-c", "".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))]
    environment = os.environ | {"WANDB_MODE": "offline"}
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for printed in ("Final loss", "my_conf/method/my_method.yaml", "Selected 10 samples", "Kept ", "'timing': 23"):
        assert printed in done.stdout
    assert "Overall: " in done.stdout
    assert (tmp_path / "outputs/my_agent_model/adapter_model.safetensors").is_file()


def write_method(folder: Path) -> None:
    """The README's own method, in the file that its first lines name."""
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (path,) = re.findall(r"# (my_conf\S+)", text)
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_text(text)


def test_the_method_of_the_readme_is_one(tmp_path: Path) -> None:
    write_method(tmp_path)
    method = MethodRegistry.get_all_methods(tmp_path / "my_conf")["careful"]
    assert (method.use_dora, method.coreset_strategy) == (True, "loss_topk")


def test_the_record_of_the_readme_can_be_trained_on(tmp_path: Path) -> None:
    (text,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    (tmp_path / "my.jsonl").write_text(text)
    (sample,) = load(str(tmp_path / "my.jsonl"), num_samples=None).samples
    assert sample["messages"][-1]["tool_calls"][0]["function"]["name"] == sample["tools"][0]["function"]["name"]


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((HERE / "docs").glob("*.md")))])
def test_what_a_page_links_to_is_there(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (HERE / page).read_text())
    assert not [link for link in links if not ((HERE / page).parent / link).exists()]


def test_the_picture_of_the_code_has_every_file_of_the_package() -> None:
    names = {path.name for path in (HERE / "src" / "sagetune").iterdir() if not path.name.startswith("__")}
    picture = (HERE / "docs" / "pipeline.md").read_text()
    missing = {name for name in names if name not in picture}
    assert not missing
