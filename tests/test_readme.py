"""Every command and every block of Python in the README works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip().removeprefix(".venv/bin/")
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
MAKE = ("make demo", "make test")  # CI itself runs these two


def test_the_readme_starts_with_the_two_commands() -> None:
    assert tuple(COMMANDS[:2]) == MAKE


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in MAKE])
def test_a_command_of_the_readme_works(command: str, tmp_path: Path) -> None:
    program, *arguments = shlex.split(command)
    assert program == "sagetune"
    run = [sys.executable, "-m", "sagetune", *arguments]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_python_of_the_readme_works(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        environment = os.environ | {"WANDB_MODE": "offline"}
        run = [sys.executable, "-c", block]
        done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert "Final loss" in done.stdout
    assert (tmp_path / "outputs/my_agent_model/adapter_model.safetensors").is_file()


def test_the_readme_lists_every_file_of_the_package() -> None:
    package = Path(__file__).parents[1] / "src" / "sagetune"
    names = {path.name for path in package.iterdir() if not path.name.startswith("__")}
    missing = {name for name in names if name not in README}
    assert not missing
