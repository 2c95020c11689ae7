"""Where metric rows go: metrics.jsonl, which is the truth, and Weights & Biases, which mirrors it.

A lost network, a missing account or a failing mirror never stops a run and loses nothing.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from sagetune.config import WANDB_MODES, RunConfig
from sagetune.files import without_infinities
from sagetune.runfolder import RunFolder, plain

if TYPE_CHECKING:
    import wandb

PROBE_SECONDS = 2.0
INIT_SECONDS = 15.0
FINISH_SECONDS = 60.0
MAX_TAG = 64  # characters that W&B takes


class Tracker:
    """The log of one run.

    resume_step: the optimiser step that the run goes on from; None = from the start. Rows of metrics.jsonl beyond it,
    written by a stretch that was lost, are dropped. mirrored: False = into the file alone, whatever the environment
    says. Raises ValueError for an unknown mode in WANDB_MODE.
    """

    def __init__(self, run_dir: Path, config: RunConfig, resume_step: int | None, *, mirrored: bool = True) -> None:
        mode = os.environ.get("WANDB_MODE", config.wandb.mode) if mirrored else "disabled"
        if mode not in WANDB_MODES:
            raise ValueError(f"WANDB_MODE must be one of {', '.join(WANDB_MODES)}, got {mode!r}")
        path = RunFolder(run_dir).metrics
        run_dir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            drop_rows_after(path, resume_step or 0)
        self._file = path.open("a", encoding="utf-8")
        self._logs = logs_of(run_dir, config)
        self._variables = {} if mode == "disabled" else _keep_in(self._logs)
        self._wandb = None if mode == "disabled" else _start(run_dir, config, mode)

    def log(self, row: dict[str, Any]) -> None:
        """Append `row`, which has a "step", to metrics.jsonl and mirror it."""
        row = without_infinities(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._mirror(lambda run: run.log(row))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Mirror a table. The files of the run folder hold its content already."""

        def send(run: wandb.Run) -> None:
            import wandb

            data = [list(row) for row in rows]
            run.log({name: wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)})

        self._mirror(send)

    def bars(self, name: str, title: str, values: Mapping[str, float]) -> None:
        """Mirror a chart with a bar for each of `values`; nothing for none."""

        def send(run: wandb.Run) -> None:
            import wandb

            table = wandb.Table(columns=["name", "value"], data=[list(pair) for pair in values.items()])
            run.log({name: wandb.plot.bar(table, "name", "value", title=title)})

        if values:
            self._mirror(send)

    def summary(self, figures: dict[str, Any]) -> None:
        """Mirror the run's final figures, nested dicts as dotted names."""
        self._mirror(lambda run: run.summary.update(figures))

    def finish(self, exit_code: int) -> None:
        """Close both; a second call does nothing."""
        self._file.close()
        self._mirror(lambda run: run.finish(exit_code=exit_code))
        self._wandb = None
        while self._variables:
            os.environ.pop(self._variables.popitem()[0], None)

    def _mirror(self, send: Callable[[wandb.Run], None]) -> None:
        if self._wandb is None:
            return
        try:
            send(self._wandb)
        except _failures() as error:
            reason = f"{type(error).__name__}: {error}"
            _tell(f"W&B stopped mirroring ({reason}); metrics.jsonl goes on; {_sync_advice(self._logs)}")
            self._wandb = None


def drop_rows_after(path: Path, step: int) -> None:
    """Rewrite a metrics.jsonl without the rows of later steps and without a last line that a kill cut short."""
    whole = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in whole if line.endswith("\n") and json.loads(line)["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def reachable(url: str) -> bool:
    """Whether the host of `url`, or the proxy on the way to it, takes a TCP connection within PROBE_SECONDS."""
    host, scheme = urlsplit(url).hostname or "", urlsplit(url).scheme
    proxy = None if proxy_bypass(host) else getproxies().get(scheme)
    parts = urlsplit(proxy or url)
    answered = threading.Event()

    def connect() -> None:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        try:
            socket.create_connection((parts.hostname or "", port), timeout=PROBE_SECONDS).close()
        except OSError:
            return
        answered.set()

    # A thread, because a name server that does not answer blocks for longer than any socket's time limit.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(PROBE_SECONDS)
    return answered.is_set()


def logs_of(run_dir: Path, config: RunConfig) -> Path:
    """Where W&B writes: a folder for all runs of a sweep, so that `wandb leet` shows them together."""
    return (run_dir if config.sweep is None else run_dir.parent) / "wandb"


def _keep_in(logs: Path) -> dict[str, str]:
    """Point W&B's staging and cache there; returns the variables that were set.

    There is no setting for them, and in the home directory they would be lost with a container before a sync.
    WANDB_CONFIG_DIR stays where it is: it names the user's own server and account.
    """
    folders = {f"WANDB_{name.upper()}_DIR": str((logs / name).absolute()) for name in ("data", "cache")}
    added = {name: folder for name, folder in folders.items() if name not in os.environ}
    os.environ.update(added)
    return added


def _start(run_dir: Path, config: RunConfig, mode: str) -> wandb.Run:
    if mode == "online":
        try:
            obstacle = _obstacle()
            if obstacle is None:
                return _init(run_dir, config, "online")
        except _failures() as error:
            import wandb

            obstacle = f"{type(error).__name__}: {error}"
            wandb.teardown()  # the failed attempt still holds the run's id
        _tell(f"W&B: {obstacle.splitlines()[0]}. This run is logged offline; {_sync_advice(logs_of(run_dir, config))}")
    return _init(run_dir, config, "offline")


def _failures() -> tuple[type[Exception], ...]:
    """What W&B raises when its server, its account or its own helper process fails: there is no common base."""
    import wandb
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
    from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

    return wandb.Error, OSError, HandleAbandonedError, MailboxClosedError, ServerResponseError


def _obstacle() -> str | None:
    """Why an online run cannot start, or None if nothing speaks against trying."""
    import wandb

    server = wandb.setup().settings.base_url
    if not reachable(server):
        return f"{server} does not answer"
    if not wandb.login(prompt=False):  # in a terminal wandb.init would wait for a key to be typed
        return "no API key is set (`wandb login` sets one)"
    return None


def _init(run_dir: Path, config: RunConfig, mode: Literal["online", "offline"]) -> wandb.Run:
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_git=True,  # environment.json holds the commit; W&B warns where there is no repository
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        silent=True,  # what a user must know is told here, once
    )
    run = wandb.init(
        mode=mode,
        dir=str(logs_of(run_dir, config).parent),  # W&B adds the last part
        id=os.environ["WANDB_RUN_ID"] if "WANDB_SWEEP_ID" in os.environ else run_id(run_dir),  # an agent's job has one
        resume="allow" if mode == "online" else None,
        name=run_dir.absolute().name,
        project=config.wandb.project,
        entity=config.wandb.entity,
        group=config.wandb.group or config.sweep,
        job_type=config.method.label,
        tags=tags(config),
        config=plain(config),
        reinit="finish_previous",
        settings=settings,
    )
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run


def tags(config: RunConfig) -> list[str]:
    """What runs are found by: method, model, data and the options in place of the method's own."""
    method, data = config.method, "mixture" if config.mixture.use else config.sft.train_data
    names = [method.id, Path(config.sft.base_model).name, data, method.coreset, method.continual, method.mixture]
    return [name[-MAX_TAG:] for name in dict.fromkeys(names) if name]


def run_id(run_dir: Path) -> str:
    """W&B's id of a run folder: the same when it is resumed, another for a folder of the same name elsewhere."""
    place = run_dir.absolute()
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', place.name)[-48:]}-{sha256(str(place).encode()).hexdigest()[:8]}"


def _sync_advice(logs: Path) -> str:
    return f"send it later with: wandb sync {logs}/*run-*"


def _tell(message: str) -> None:
    print(message, file=sys.stderr)
