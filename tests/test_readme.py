"""Every command and every block of Python in the README works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sagetune.methods import MethodRegistry

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = [
    [line.split("  #")[0].strip().removeprefix(".venv/bin/") for line in block.splitlines() if line.strip()]
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
]
MAKE = ["make demo", "make test"]  # CI itself runs these two


def test_the_readme_starts_with_the_two_commands() -> None:
    assert BLOCKS[0] == MAKE


@pytest.mark.parametrize("block", BLOCKS[1:], ids=lambda block: block[0].removeprefix("sagetune "))
def test_the_commands_of_the_readme_work(block: list[str], tmp_path: Path) -> None:
    """Those of one block run one after another in one folder: a later one may read what an earlier one wrote."""
    for command in block:
        program, *arguments = shlex.split(command)
        assert program == "sagetune"
        run = [sys.executable, "-m", "sagetune", *arguments]
        done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False, env=os.environ)
        assert done.returncode == 0, command + done.stdout + done.stderr


def test_the_python_of_the_readme_works_from_top_to_bottom(tmp_path: Path) -> None:
    run = [sys.executable, "-c", "".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))]
    environment = os.environ | {"WANDB_MODE": "offline"}
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for printed in ("Final loss", "my_conf/method/my_method.yaml", "Selected 10 samples", "Kept ", "'timing': 23"):
        assert printed in done.stdout
    assert "Overall: " in done.stdout
    assert (tmp_path / "outputs/my_agent_model/adapter_model.safetensors").is_file()


def test_the_method_of_the_readme_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (path,) = re.findall(r"# (my_conf\S+)", text)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    method = MethodRegistry.get_all_methods(tmp_path / "my_conf")["careful"]
    assert (method.use_dora, method.coreset_strategy) == (True, "loss_topk")


def test_the_readme_lists_every_file_of_the_package() -> None:
    package = Path(__file__).parents[1] / "src" / "sagetune"
    names = {path.name for path in package.iterdir() if not path.name.startswith("__")}
    missing = {name for name in names if name not in README}
    assert not missing
