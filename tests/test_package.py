"""The wheel works outside the clone: it carries conf/ and templates, and its command composes every configuration."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from sagetune.config import CONF_DIR

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the built wheel in it; its dependencies come from the running environment."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A path in a .pth file is searched, but .pth files inside it are not: an editable install there stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "venv" / "bin"


def run(command: list[str], cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_is_what_is_imported_and_has_its_data(installed: Path, tmp_path: Path) -> None:
    code = "import sagetune.chat as c, sagetune.config as f; print(f.CONF_DIR); print(len(c.CHATML_TOOLS) > 100)"
    conf, template = run([str(installed / "python"), "-c", code], tmp_path).split()
    assert Path(conf).is_relative_to(installed.parent)
    assert template == "True"


def test_the_reference_import_path_works(installed: Path, tmp_path: Path) -> None:
    code = "from sage.libs.finetune.agent import AgentSFTConfig; print(AgentSFTConfig('m', 'd').lora_r)"
    assert run([str(installed / "python"), "-c", code], tmp_path) == "16\n"


@pytest.mark.parametrize("path", sorted(CONF_DIR.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_configuration_composes(path: Path, installed: Path, tmp_path: Path) -> None:
    extra = {"hf": ["sft.base_model=x"], "file": ["sft.train_data=x.jsonl"]}.get(path.stem, [])
    choice = f"{path.parent.name}={path.stem}"
    text = run([str(installed / "sagetune"), "train", "--cfg", "job", choice, *extra], tmp_path)
    assert "learning_rate" in text
    assert not list(tmp_path.iterdir())
