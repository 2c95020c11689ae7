"""From the command line to a checked dataclass: Hydra composes, mistakes are told briefly, exit codes are honest."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sagetune.config import CONF_DIR
from sagetune.interrupts import Interrupted
from sagetune.processor import prepare_process
from sagetune.sweep import JobFailed, SweepFolder

USAGE_ERROR = 2
INTERRUPTED = 130
STOPPED = (INTERRUPTED, 143)
WHERE_TO_SET = {
    "folder": "the folder that holds the run folders",
    "sft.base_model": "a hub id or a folder",
    "sft.train_data": "a path or a source such as agent_sft:train",
}


def run_command(
    name: str,
    schema: type,
    task: Callable[[Any], int],
    *,
    score: Callable[[Any], float | None] | None = None,
    refuse: Callable[[DictConfig, Sequence[str], str], None] | None = None,
    conclude: Callable[[Path], None] | None = None,
) -> None:
    """Compose conf/<name>.yaml against `schema`, call `task` with the dataclass, and exit with what it returns.

    A configuration that does not compose or does not pass its checks is told on standard error, without a traceback,
    with exit code 2. A sweep goes on after a failed job and exits with the first failure's code.

    score: what a sweeper is told of a job that is done. refuse: called in a sweep with the configuration that does not
    pass its checks, the job's overrides and the reason. conclude: called with a sweep's folder when it has ended,
    however it has.
    """
    prepare_process()
    ConfigStore.instance().store(name="run_config" if name == "train" else f"{name}_config", node=schema)

    @hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)
    def compose(cfg: DictConfig) -> float | None:
        hydra_config = HydraConfig.get()
        swept, overrides = hydra_config.mode == RunMode.MULTIRUN, list(hydra_config.overrides.task)
        try:
            config = to_dataclass(cfg, schema)
        except (ValueError, OmegaConfBaseException) as error:
            print(f"sagetune {name}: {explain(error)}\n{suggest(error, schema)}".strip(), file=sys.stderr)
            if swept and refuse is not None:
                refuse(cfg, overrides, explain(error))
            code = USAGE_ERROR
        else:
            code = task(config)
        in_this_process = hydra_config.runtime.choices["hydra/launcher"] == "basic"
        if code and swept and not (in_this_process and code in STOPPED):
            raise JobFailed(f"sagetune {name} {' '.join(overrides)}: exit code {code}", code)
        if code:
            sys.exit(code)  # asked to stop, a sweep in this process stops, too
        return score(config) if swept and score is not None else None

    code = _exit_code(compose, schema)
    if conclude is not None and SweepFolder.path is not None:
        code = concluded(name, conclude, SweepFolder.path, code)
    sys.exit(code)


def concluded(name: str, conclude: Callable[[Path], None], sweep: Path, code: int) -> int:
    """Call `conclude`, and return `code`, or that of a usage error where the folder holds what it cannot use."""
    try:
        conclude(sweep)
    except ValueError as error:
        print(f"sagetune {name}: the runs have ended, and cannot be concluded: {error}", file=sys.stderr)
        return code or USAGE_ERROR
    return code


def _exit_code(compose: Callable[[], None], schema: type) -> int:
    """Let Hydra do the run or the sweep; what it leaves by as an exit code."""
    try:
        compose()
    except Interrupted as stop:
        return stop.exit_code
    except JobFailed as failed:  # with HYDRA_FULL_ERROR=1
        return failed.exit_code
    except SystemExit as stop:
        cause = stop.__context__
        if isinstance(cause, JobFailed):
            return cause.exit_code
        if cause is None:  # Hydra's own answers, or a single run's code
            return stop.code if isinstance(stop.code, int) else 0
        if not isinstance(cause, HydraException | OmegaConfBaseException):
            return 1  # a fault of ours: its traceback is on standard error
        hint = suggest(cause, schema)
        if hint:
            print(hint, file=sys.stderr)
        return USAGE_ERROR
    return 0


def to_dataclass(cfg: DictConfig, schema: type) -> Any:
    """The checked dataclass; fields added with `+` that the schema lacks are refused like any other typo."""
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))


def explain(error: Exception) -> str:
    if isinstance(error, MissingMandatoryValue):
        name = str(error.full_key)
        return f"{name} has no value: set {name}=<{WHERE_TO_SET.get(name, 'value')}>"
    return str(error).split("\n    full_key")[0]


def suggest(error: BaseException | None, schema: type) -> str:
    """For an unknown field or group: the names that are allowed, nearest first; "" for any other error."""
    message = ""
    while error is not None:
        message += f"\n{error}"
        error = error.__cause__
    field = re.search(r"Key '([\w.]+)' (?:is )?not in '(\w+)'", message)
    if field is None:
        return ""
    known = {cls.__name__: cls for cls in _dataclasses(schema)}
    allowed = [f.name for f in dataclasses.fields(known[field[2]])] if field[2] in known else []
    groups = sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir()) if field[2] == schema.__name__ else []
    near = difflib.get_close_matches(field[1], [*groups, *allowed], n=1)
    return "\n".join(
        ([f"Did you mean {near[0]!r}?"] if near else [])
        + ([f"Allowed groups: {', '.join(groups)}"] if groups else [])
        + ([f"Allowed fields: {', '.join(allowed)}"] if allowed else [])
    )


def _dataclasses(schema: type) -> list[type]:
    """`schema` and the dataclasses of its fields."""
    fields = get_type_hints(schema).values()
    hints = [schema, *(part for hint in fields for part in (get_args(hint) or (hint,)))]  # also of an optional one
    return [hint for hint in hints if isinstance(hint, type) and dataclasses.is_dataclass(hint)]
