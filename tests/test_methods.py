"""Methods are files of conf/method, the same in Python, and a user's own are used like ours."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from sage.benchmark.benchmark_agent.experiments.method_comparison import MethodConfig, MethodRegistry
from sagetune.config import AgentSFTConfig, BudgetConfig, RunConfig
from sagetune.methods import METHOD_DIR
from test_cli import answer_without_torch, sagetune

MINE = """\
# @package _global_
method: {id: mine, name: Mine, description: DoRA with a replayed stream, source: ''}
sft:
  use_lora: true
  use_dora: true
  use_lora_plus: false
  use_coreset_selection: false
  use_online_continual: true
  continual_buffer_size: 16
  continual_replay_ratio: 0.5
data: {stream: sequential}
continual: {strategy: fifo}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder for --config-dir with one method in it."""
    return write(tmp_path, "mine", MINE).parents[1]


def write(folder: Path, option: str, text: str) -> Path:
    path = folder / "method" / f"{option}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def custom(**given: Any) -> MethodConfig:
    return MethodConfig(**({"name": "My Method", "description": "Custom combination"} | given))


def test_quick_methods_are_those_that_start_at_once() -> None:
    assert list(MethodRegistry.get_quick_methods()) == ["A_baseline", "C_continual", "G_dora", "H_lora_plus"]


def test_an_option_is_an_id_without_its_prefix() -> None:
    methods = MethodRegistry.get_all_methods().values()
    assert {method.option for method in methods} == {path.stem for path in METHOD_DIR.glob("*.yaml")}


@pytest.mark.parametrize("method", MethodRegistry.get_all_methods().values(), ids=lambda method: method.option)
def test_the_references_attributes_say_all_that_a_predefined_method_is(method: MethodConfig) -> None:
    """Its further settings are those that its switches bring along."""
    bare = dataclasses.replace(method, settings={})
    assert bare.apply(AgentSFTConfig("m", "d")) == method.apply(AgentSFTConfig("m", "d"))


def test_a_method_made_in_python_is_the_same_as_a_file(tmp_path: Path) -> None:
    made = custom(use_dora=True, use_continual=True, continual_buffer_size=4096)
    path = made.save(tmp_path)
    assert path == tmp_path / "method" / "my_method.yaml"
    read = MethodRegistry.get_all_methods(tmp_path)["my_method"]
    assert read.fields() == made.fields()
    assert read.apply(AgentSFTConfig("m", "d")) == made.apply(AgentSFTConfig("m", "d"))
    code, text = answer_without_torch("train", "--config-dir", str(tmp_path), "method=my_method", "--cfg", "job")
    assert code == 0, text
    for stated in ("use_dora: true", "continual_buffer_size: 4096", "stream: sequential", "id: my_method"):
        assert stated in text


def test_applying_a_method_leaves_the_rest_and_takes_the_earlier_method_away() -> None:
    methods = MethodRegistry.get_all_methods()
    given = RunConfig(sft=AgentSFTConfig("m", "d", lora_r=4), budget=BudgetConfig(train_samples=7))
    mixed = methods["F_agenttuning"].apply(given)
    assert (mixed.mixture.eta, mixed.sft.lora_r, mixed.budget.train_samples) == (0.2, 4, 7)
    assert methods["A_baseline"].apply(mixed) == methods["A_baseline"].apply(given)


def test_settings_are_in_place_of_those_of_the_stage() -> None:
    mir = custom(use_continual=True, settings={"continual": {"draw": "mir"}, "optim": {"warmup_ratio": 0.1}})
    run = mir.apply(AgentSFTConfig("m", "d"))
    assert (run.continual.draw, run.optim.warmup_ratio, run.data.stream) == ("mir", 0.1, "sequential")
    assert custom(use_coreset=True, coreset_strategy="less").fields()["coreset"]["warmup_epochs"] == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"use_dora": True, "use_lora": False}, "use_dora must be false while use_lora is false"),
        ({"use_lora_plus": True, "use_lora": False}, "use_lora_plus must be false while use_lora is false"),
        ({"use_multi_task": True, "use_trajectory_collection": True}, "use_trajectory_collection must be false while"),
        ({"use_coreset": True, "coreset_strategy": "best"}, "coreset_strategy must be one of loss_topk, diversity"),
        ({"use_coreset": True, "coreset_target_size": 0}, "coreset_target_size must be null or at least 1, got 0"),
        ({"use_continual": True, "continual_replay_ratio": 2.0}, "continual_replay_ratio must be in [0, 1], got 2.0"),
        ({"use_continual": True, "continual_buffer_size": 0}, "continual_buffer_size must be at least 1, got 0"),
        ({"use_lora_plus": True, "lora_plus_lr_ratio": 0.5}, "lora_plus_lr_ratio must be at least 1, got 0.5"),
        ({"use_dora": "perhaps"}, "use_dora: Value 'perhaps' is not a valid bool"),
        ({"name": " "}, "name must be a non-empty string"),
        ({"id": "my method"}, "id must be letters, digits and _"),
        ({"settings": {"sft": {"use_dora": True}}}, "settings.sft.use_dora must be left out: the field use_dora"),
        ({"settings": {"method": {"id": "x"}}}, "settings.method must be left out"),
        ({"settings": {"sft": {"lora_rr": 4}}}, "sft.lora_rr: Key 'lora_rr' not in 'AgentSFTConfig'"),
        ({"settings": {"adaptor": {"dropout": 0.1}}}, "adaptor: there is no such group of fields"),
        ({"settings": {"continual": {"draw": "best"}}}, "continual.draw must be one of uniform, task_balanced, mir"),
    ],
)
def test_what_cannot_be_a_method_is_told_by_field(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        custom(**given)


def test_a_predefined_option_is_not_given_away(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"id must be another: method=dora is predefined, got 'X_dora'"):
        custom(id="X_dora").save(tmp_path)


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("mine", MINE.replace("  use_dora: true\n", ""), "sft.use_dora: not stated"),
        ("mine", MINE.replace("  continual_buffer_size: 16\n", ""), "sft.continual_buffer_size: not stated"),
        ("mine", MINE.replace("continual: {strategy: fifo}\n", ""), "continual: not stated"),
        ("mine", MINE.replace("name: Mine, ", ""), "method.name: not stated"),
        ("mine", MINE.replace("use_dora", "use_dorra"), "sft.use_dora: not stated"),
        ("mine", MINE + "coreset: {shares: 0.1}\n", "coreset.shares: Key 'shares' not in 'CoresetConfig'"),
        ("mine", MINE + "corset: {share: 0.1}\n", "corset: there is no such group"),
        ("mine", MINE + "seed: 3\n", "seed must be a group of fields, got 3"),
        ("mine", MINE.replace("source: ''", "sauce: ''"), "method.sauce: Key 'sauce' not in 'MethodInfo'"),
        ("mine", MINE.replace("source: ''", "coreset: less"), "settings.method must be left out"),
        ("mine", MINE.replace("16", "sixteen"), "sft.continual_buffer_size: Value 'sixteen' of type 'str'"),
        ("mine", MINE.replace("0.5", "5"), "sft.continual_replay_ratio must be in [0, 1], got 5.0"),
        ("mine", MINE.replace("# @package _global_\n", ""), "the first line must be '# @package _global_'"),
        ("mine", MINE + "defaults: [dora]\n", "defaults must be left out"),
        ("mine", MINE + "data: [\n", "this is no YAML"),
        ("mine", "# @package _global_\n- dora\n", "must be groups of fields, got ['dora']"),
        ("thine", MINE, "method.id must be thine as the file, or that behind a prefix, X1_thine; got 'mine'"),
        ("dora", MINE.replace("id: mine", "id: dora"), "the file's name must be another: Hydra takes"),
    ],
)
def test_a_method_file_that_is_not_sound_is_told_with_file_and_field(
    option: str, text: str, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, option, text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        MethodRegistry.get_all_methods(tmp_path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_users_method_is_listed_and_swept_like_ours(mine: Path) -> None:
    assert list(MethodRegistry.get_all_methods(mine))[-2:] == ["H_lora_plus", "mine"]
    assert "mine" in MethodRegistry.get_quick_methods(mine)
    code, text = answer_without_torch("methods", "--config-dir", str(mine))
    assert code == 0, text
    assert f"{mine}/method/<option>.yaml" in text
    for shown in ("continual.strategy=fifo", "sft.continual_buffer_size=16", "sft.use_dora=true", "arXiv:2402.09353"):
        assert shown in text
    # A refused job costs no training and says so: one line for each of the ten, and one for ours.
    swept = ("-m", "method=glob(*)", "sft.lora_r=0", f"sft.output_dir={mine}/out")
    code, text = answer_without_torch("train", "--config-dir", str(mine), *swept)
    assert code == 2
    told = [line for line in text.splitlines() if line.startswith("sagetune train ") and "must be at least 1" in line]
    assert len(told) == 11


@pytest.mark.thorough
def test_a_users_method_trains(mine: Path, tmp_path: Path) -> None:
    place = [f"sft.output_dir={tmp_path}", "run_name=r", "model=tiny", "budget=smoke"]
    done = sagetune("train", "--config-dir", str(mine), "method=mine", *place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "r" / "replay.json").is_file()


def test_a_folder_without_methods_is_told(tmp_path: Path) -> None:
    code, text = answer_without_torch("methods", "--config-dir", str(tmp_path))
    assert code == 2
    assert "config_dir must be a folder with method/<option>.yaml in it" in text
