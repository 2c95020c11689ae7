"""The methods that are compared: a file of conf/method each, and the same in Python. No torch.

conf/method/dora.yaml  <->  MethodConfig(id="G_dora", use_dora=True, ...)  ->  RunConfig, which AgentSFTTrainer takes

A method file states every field that makes the method what it is, so that no other file and no default changes it. Its
name is the option on the command line: the method's id without its prefix of a capital letter, digits and `_`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sagetune.config import CONF_DIR, CORESET_STRATEGIES, AgentSFTConfig, MethodInfo, MixtureConfig, Problems, RunConfig
from sagetune.files import write_text

METHOD_DIR = CONF_DIR / "method"
HEADER = "# @package _global_"
Fields = dict[str, dict[str, Any]]
"""Group -> field -> value, as a method file states them."""

INFO = ("id", "name", "description", "source")
PLACES = {
    "use_lora": "sft.use_lora",
    "use_dora": "sft.use_dora",
    "use_lora_plus": "sft.use_lora_plus",
    "lora_plus_lr_ratio": "sft.lora_plus_lr_ratio",
    "use_coreset": "sft.use_coreset_selection",
    "coreset_strategy": "sft.coreset_strategy",
    "coreset_target_size": "sft.coreset_target_size",
    "use_continual": "sft.use_online_continual",
    "continual_buffer_size": "sft.continual_buffer_size",
    "continual_replay_ratio": "sft.continual_replay_ratio",
    "use_trajectory_collection": "trajectories.use",
    "use_multi_task": "mixture.use",
}
"""Field of MethodConfig -> field of the run."""
DETAILS = {
    "lora_plus_lr_ratio": "use_lora_plus",
    "coreset_strategy": "use_coreset",
    "coreset_target_size": "use_coreset",
    "continual_buffer_size": "use_continual",
    "continual_replay_ratio": "use_continual",
}
"""Field of MethodConfig -> the switch without which it means nothing."""
STATED = (
    *("method.id", "method.name", "method.description", "sft.use_lora", "sft.use_dora", "sft.use_lora_plus"),
    *("sft.use_coreset_selection", "sft.use_online_continual"),
)
"""What every method file states."""
STATED_WITH = {
    "use_lora_plus": ("sft.lora_plus_lr_ratio",),
    "use_coreset": ("sft.coreset_strategy", "coreset"),
    "use_continual": ("sft.continual_buffer_size", "sft.continual_replay_ratio", "data.stream", "continual"),
    "use_trajectory_collection": ("data.stream", "trajectories.agent"),
    "use_multi_task": ("data.stream", "mixture.weights", "mixture.sources"),
}
"""What the file of a method with this switch states, too."""
STAGES = {"use_trajectory_collection": "fireact", "use_multi_task": "agenttuning", "use_continual": "continual"}
"""The predefined method whose settings a switch brings along, where a method has none of its own; the later wins."""
ANY_RUN = RunConfig(sft=AgentSFTConfig("any", "any", eval_data="any"))
"""What a method is checked on: whether it works with certain data is not its own affair."""


@dataclass
class MethodConfig:
    """One fine-tuning method: the reference's fields, then ours.

    Raises ValueError, by field, for values out of range and for what does not go together.
    """

    name: str
    """What tables call it."""
    description: str
    use_coreset: bool = AgentSFTConfig.use_coreset_selection
    """Train on a selected part of the samples."""
    coreset_strategy: str = AgentSFTConfig.coreset_strategy
    use_continual: bool = AgentSFTConfig.use_online_continual
    """Learn task after task and replay earlier samples."""
    use_dora: bool = AgentSFTConfig.use_dora
    use_lora_plus: bool = AgentSFTConfig.use_lora_plus
    use_trajectory_collection: bool = False
    """Let an agent act on the training tasks and train on what succeeds, as FireAct does."""
    use_multi_task: bool = False
    """Train on a mixture of several tasks, as AgentTuning does."""
    _: dataclasses.KW_ONLY
    id: str = ""
    """What run folders and comparisons call it; "" = made of `name`."""
    source: str = ""
    """The paper."""
    use_lora: bool = AgentSFTConfig.use_lora
    """Train an adapter; False trains every weight."""
    lora_plus_lr_ratio: float = AgentSFTConfig.lora_plus_lr_ratio
    coreset_target_size: int | None = AgentSFTConfig.coreset_target_size
    """Samples to select; None = as the run says."""
    continual_buffer_size: int = AgentSFTConfig.continual_buffer_size
    continual_replay_ratio: float = AgentSFTConfig.continual_replay_ratio
    settings: Fields = field(default_factory=dict)
    """Further fields of a run, by group, such as {"continual": {"draw": "mir"}}. A group that is not here is that of
    the predefined method with the same switch (conf/coreset/<strategy>.yaml for coreset)."""

    def __post_init__(self) -> None:
        self.id = self.id or re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")
        problems = Problems()
        problems.check(bool(self.name.strip()), "name", self.name, "a non-empty string")
        sound = re.fullmatch(r"\w+", self.id, re.ASCII) is not None
        problems.check(sound, "id", self.id, "letters, digits and _: it names folders and a command-line option")
        problems.one_of("coreset_strategy", self.coreset_strategy, CORESET_STRATEGIES)
        for name, place in PLACES.items():
            group, key = place.split(".")
            also = self.settings.get(group, {}).get(key)
            problems.check(also is None, f"settings.{place}", also, f"left out: the field {name} says it")
        about = self.settings.get("method")
        problems.check(about is None, "settings.method", about, f"left out: {', '.join(INFO)} say it")
        problems.report()
        try:
            _run_of(self.fields(), ANY_RUN)
        except ValueError as error:
            raise ValueError(_in_our_names(str(error))) from error

    @property
    def option(self) -> str:
        """Its name on the command line: method=<option>."""
        return option_of(self.id)

    @property
    def works_beforehand(self) -> bool:
        """Whether samples are scored, acted on or mixed before the first training step."""
        return self.use_coreset or self.use_trajectory_collection or self.use_multi_task

    def fields(self) -> Fields:
        """What its method file states."""
        stated: Fields = {"method": {name: vars(self)[name] for name in INFO}}
        for name, place in PLACES.items():
            value, group, key = vars(self)[name], *place.split(".")
            if value is not None and vars(self).get(DETAILS.get(name, ""), True):
                stated.setdefault(group, {})[key] = value
        for group, values in (_settings_of_stages(self) | self.settings).items():
            stated[group] = stated.get(group, {}) | values
        return stated

    def apply(self, run: AgentSFTConfig | RunConfig) -> RunConfig:
        """The run with this method in place of its own: what AgentSFTTrainer takes.

        Everything that makes a method what it is comes from here; model, data, budget and the rest stay as they are.
        """
        return _run_of(self.fields(), run if isinstance(run, RunConfig) else RunConfig(sft=run))

    def save(self, config_dir: str | Path) -> Path:
        """Write `config_dir/method/<option>.yaml`: `sagetune train --config-dir <config_dir> method=<option>` runs it.

        Raises ValueError for the option of a predefined method, which Hydra would take instead.
        """
        if (METHOD_DIR / f"{self.option}.yaml").is_file():
            raise ValueError(f"id must be another: method={self.option} is predefined, got {self.id!r}")
        path = Path(config_dir) / "method" / f"{self.option}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, f"{HEADER}\n{OmegaConf.to_yaml(self.fields())}")
        return path


class MethodRegistry:
    """The methods of conf/method and, where a folder is given, of its `method` folder. The reference's class."""

    @classmethod
    def get_all_methods(cls, config_dir: str | Path | None = None) -> dict[str, MethodConfig]:
        """Id -> method: the ten predefined ones in the reference's order, then those of `config_dir` by id.

        Raises ValueError with file and field for a method file that is not sound, and for a name that is taken.
        """
        return {method.id: method for method in read_methods(config_dir).values()}

    @classmethod
    def get_quick_methods(cls, config_dir: str | Path | None = None) -> dict[str, MethodConfig]:
        """Those that do no work before their first training step: a look at each costs no more than its steps.

        Of the predefined ones: the baseline, replay inside the step, DoRA's adapter, LoRA+'s optimiser groups.
        """
        methods = cls.get_all_methods(config_dir)
        return {name: method for name, method in methods.items() if not method.works_beforehand}


def read_methods(config_dir: str | Path | None = None) -> dict[Path, MethodConfig]:
    """File -> method, in the order of `get_all_methods`. Raises ValueError as that does."""
    found = dict(_read_folder(METHOD_DIR))
    if config_dir is None:
        return found
    own = dict(_read_folder(Path(config_dir) / "method"))
    for path in own:
        if METHOD_DIR / path.name in found:
            raise ValueError(f"{path}: the file's name must be another: Hydra takes {METHOD_DIR / path.name} instead")
    return found | own


def option_of(method_id: str) -> str:
    """The option of a method: its id without a prefix such as B1_."""
    return re.sub(r"^[A-Z]\d*_(?=.)", "", method_id)


def read_method(path: Path) -> MethodConfig:
    """The method of one file. Raises ValueError with the file and the field that is missing, unknown or wrong."""
    try:
        stated = _stated(path)
        run = _run_of(stated, ANY_RUN)
        given = {name: vars(run.method)[name] for name in INFO}
        for name, place in PLACES.items():
            group, key = place.split(".")
            if _has(stated, place):
                given[name] = vars(vars(run)[group])[key]
        return MethodConfig(**given, settings=_beside_fields(stated))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def differences(method: MethodConfig, other: MethodConfig) -> dict[str, Any]:
    """Field of the run -> its value with `method`, where a run with `other` has another one; without names and ids."""
    ours, theirs = (dict(_fields_of(each.apply(ANY_RUN))) for each in (method, other))
    return {name: value for name, value in ours.items() if theirs[name] != value and not name.startswith("method.")}


def details(method: MethodConfig) -> dict[str, Any]:
    """Field of the run -> its value, for the fields that say how the parts of `method` do what they do."""
    named = {name: vars(method)[name] for name, switch in DETAILS.items() if vars(method)[switch]}
    return {PLACES[name]: value for name, value in named.items() if value is not None}


def _run_of(fields: Fields, run: RunConfig) -> RunConfig:
    """`run` with the fields of a method; the method and the mixture that it had go. Raises ValueError."""
    blank = dataclasses.replace(run, method=MethodInfo(), mixture=MixtureConfig())
    groups: dict[str, Any] = {}
    for group, values in fields.items():
        if not dataclasses.is_dataclass(vars(blank).get(group)):
            raise ValueError(f"{group}: there is no such group of fields in a run")
        try:
            groups[group] = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(vars(blank)[group]), values))
        except OmegaConfBaseException as error:
            raise ValueError(f"{group}.{error.full_key}: {str(error).splitlines()[0]}") from error
    return dataclasses.replace(blank, **groups)


def _settings_of_stages(method: MethodConfig) -> Fields:
    settings: Fields = {}
    for switch, option in STAGES.items():
        if vars(method)[switch]:
            settings |= _beside_fields(_load(METHOD_DIR / f"{option}.yaml"))
    if method.use_coreset:
        settings["coreset"] = _load(CONF_DIR / "coreset" / f"{method.coreset_strategy}.yaml")["coreset"]
    return settings


def _read_folder(folder: Path) -> Iterator[tuple[Path, MethodConfig]]:
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise ValueError(f"config_dir must be a folder with method/<option>.yaml in it; there is no {folder}/*.yaml")
    methods = [(path, read_method(path)) for path in paths]
    yield from sorted(methods, key=lambda pair: pair[1].id)


def _stated(path: Path) -> Fields:
    """What the file states. Raises ValueError if that is not a whole method."""
    if HEADER not in (line.strip() for line in path.read_text(encoding="utf-8").splitlines()):
        raise ValueError(f"the first line must be {HEADER!r}: the fields are those of the run")
    stated = _load(path)
    if "defaults" in stated:
        raise ValueError("defaults must be left out: a method states its fields itself, and no other file changes it")
    missing = [place for place in STATED if not _has(stated, place)]
    for switch, places in STATED_WITH.items():
        group, key = PLACES[switch].split(".")
        if stated.get(group, {}).get(key):
            missing += [place for place in places if not _has(stated, place)]
    wrong = []
    if missing:
        wrong.append(f"{', '.join(missing)}: not stated; a method file states every field that defines the method")
    name, stem = stated.get("method", {}).get("id"), path.stem
    if name is not None and option_of(str(name)) != stem:
        wrong.append(f"method.id must be {stem} as the file, or that behind a prefix, X1_{stem}; got {name!r}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return stated


def _beside_fields(stated: Fields) -> Fields:
    """What is stated that MethodConfig has no field for."""
    places = [f"method.{name}" for name in INFO] + list(PLACES.values())
    rest = {
        group: {key: value for key, value in values.items() if f"{group}.{key}" not in places}
        for group, values in stated.items()
    }
    return {group: values for group, values in rest.items() if values}


def _load(path: Path) -> Fields:
    try:
        loaded: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OSError) as error:
        raise ValueError(f"this is no YAML: {error}") from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"must be groups of fields, got {loaded!r:.80}")
    for group, values in loaded.items():
        if not isinstance(values, Mapping) and group != "defaults":
            raise ValueError(f"{group} must be a group of fields, got {values!r:.80}")
    return dict(loaded)


def _has(stated: Fields, place: str) -> bool:
    group, _, key = place.partition(".")
    return group in stated and (not key or key in stated[group])


def _in_our_names(message: str) -> str:
    """The message with the fields of a run called as MethodConfig calls them."""
    for name, place in PLACES.items():
        message = re.sub(rf"\b{re.escape(place)}\b", name, message)
    return message


def _fields_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            yield from _fields_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
