"""A folder of run folders -> what each run is, how it ended, and what it measured. No torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sagetune import status
from sagetune.config import AgentSFTConfig, MethodInfo, RunConfig
from sagetune.files import read_jsonl
from sagetune.runfolder import RunFolder

Tree = dict[str, Any]
UNFINISHED = "unfinished"
DEFAULTS = RunConfig(sft=AgentSFTConfig(base_model="-", train_data="-"))  # every run has these two
METHOD_FIELDS = [field.name for field in dataclasses.fields(MethodInfo)]


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder. What the run did not write is empty."""

    name: str
    """Of the folder."""
    method: MethodInfo
    seed: int
    config: Tree
    """Dotted name of a field -> its value; of a field that an older version lacked, the default of this version."""
    status: str
    """done, or how else it stands: running, failed, interrupted, killed, unfinished."""
    reason: str = ""
    traceback: str = ""
    command: str = ""
    """What carries the run out again, or on."""
    result: Tree = field(default_factory=dict)
    after: Tree = field(default_factory=dict)
    """Content of after.json, which has every test item."""
    metrics: list[Tree] = field(default_factory=list)
    environment: Tree = field(default_factory=dict)
    refused: bool = False
    """Whether its configuration or its data could not be used, so that nothing was trained or measured."""

    @property
    def done(self) -> bool:
        return self.status == "done"


def read_runs(folder: Path) -> list[Run]:
    """The runs whose folders lie in `folder`, by name. Raises ValueError, with the fix, if there is none."""
    if not folder.is_dir():
        raise ValueError(f"folder: there is no {folder}; give the folder that holds the run folders of a sweep")
    found = sorted(path.parent for path in folder.glob("[!.]*/config.yaml"))
    if found:
        return [read_run(RunFolder(path)) for path in found]
    if RunFolder(folder).config.is_file():
        raise ValueError(f"folder: {folder} is one run; give the folder that holds the run folders: {folder.parent}")
    deeper = sorted({path.parents[1] for path in folder.glob("[!.]*/[!.]*/config.yaml")})
    hint = f"give one of {', '.join(map(str, deeper))}" if deeper else "sagetune train -m ... makes some"
    raise ValueError(f"folder: {folder} holds no run folder (a folder with config.yaml); {hint}")


def read_run(folder: RunFolder) -> Run:
    """One run. Raises ValueError if its config.yaml is not a run's."""
    config: Any = OmegaConf.to_container(OmegaConf.load(folder.config))
    if not isinstance(config, dict) or not {"method", "seed", "sft"} <= set(config):
        raise ValueError(f"{folder.config}: is not the configuration of a run (no method, seed and sft)")
    told = _told(folder)
    done = told["status"] == "done"
    environment = _read(folder.environment)
    return Run(
        name=folder.path.name,
        method=MethodInfo(**{name: config["method"][name] for name in METHOD_FIELDS if name in config["method"]}),
        seed=config["seed"],
        config=flat(with_defaults(config, DEFAULTS)),
        **told,
        result=_read(folder.result) if done else {},
        after=_read(folder.after) if done else {},
        metrics=read_jsonl(folder.metrics) if done else [],
        environment=environment,
    )


def with_defaults(config: Tree, default: Any) -> Tree:
    """`config`, and the value in `default`, a dataclass, of each field that it lacks; in the groups of fields, too.

    Entries of a dict, such as weights of a mixture, are a user's own and have no default.
    """
    whole = dict(config)
    for name, value in vars(default).items():
        if dataclasses.is_dataclass(value) and isinstance(config.get(name, {}), dict):
            whole[name] = with_defaults(config.get(name, {}), value)
        elif name not in config:
            whole[name] = value
    return whole


def flat(tree: Tree, prefix: str = "") -> Tree:
    """Nested dicts as one with dotted names; an empty dict and a list are values."""
    found: Tree = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def _told(folder: RunFolder) -> dict[str, Any]:
    """How the run stands: done if it has its result, else what status.json tells."""
    found = status.read(folder)
    if folder.result.is_file() and (found is None or found.status == status.DONE):
        return {"status": status.DONE}
    resume = status.command_of(folder)
    if found is None:
        return {"status": UNFINISHED, "reason": "it never began", "traceback": "", "command": resume}
    reason = (found.reason or "no reason is recorded").strip()
    return {
        "status": found.status,
        "reason": reason.splitlines()[-1],
        "traceback": found.traceback or "",
        "command": found.command,
        "refused": found.exit_code == status.REFUSED and not _has_begun(folder),
    }


def _has_begun(folder: RunFolder) -> bool:
    """Whether the run got so far as to collect, to measure or to train."""
    written = (folder.trajectories, folder.before, folder.search)
    return any(path.is_file() for path in written) or bool(read_jsonl(folder.metrics))


def _read(path: Path) -> Tree:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
