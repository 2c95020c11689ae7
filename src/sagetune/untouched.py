"""The figures of the untouched model: measured once for all runs of a sweep that start from it. No torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from sagetune.config import RunConfig
from sagetune.files import write_json
from sagetune.runfolder import RunFolder, fingerprint, plain
from sagetune.sources import file_and_split, parts_of


def measured_once(run: RunConfig, folder: RunFolder, measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` returns, of this run or of an earlier one of its sweep that starts from the same model.

    measure: takes the folder of the model's answers. They are copied into the run's folder. Of several processes one
    measures while the others wait. The seconds inside are those of the one measurement.
    """
    if run.sweep is None:
        return measure(folder.answers / "before")
    shared = folder.path.parent / "untouched" / fingerprint(rests_on(run), ())
    shared.mkdir(parents=True, exist_ok=True)
    record, answers = shared / folder.before.name, shared / folder.answers.name
    with FileLock(shared / "lock"):
        if not record.is_file():
            write_json(record, measure(answers))
    if answers.is_dir():
        shutil.copytree(answers, folder.answers / "before", dirs_exist_ok=True)
    return json.loads(record.read_text(encoding="utf-8"))


def rests_on(run: RunConfig) -> dict[str, Any]:
    """All that these figures follow from: the model that is started from, how it is loaded, where it runs, and what is
    held out, with the content of its files.

    No method has a part in it: they are figures of that model itself, to which no adapter is added before training
    (LoRA's and DoRA's would change nothing at their start: B is zero, the magnitude that of the weights). Nor has the
    run's seed: the held-out data go by data.seed, and answers by a seed of their own. Only where every weight is
    trained do methods load the model alike but in another precision; so sft.use_lora has a part.
    """
    config = plain(run)
    parts = {
        "sft": ("base_model", "use_lora", "eval_data", "max_seq_length", "batch_size"),
        "data": ("seed", "on_error"),
        "budget": ("eval_samples", "benchmark_samples"),
        "continual": ("tasks",),
        "adapter": ("start_from",),
        "trainer": ("accelerator",),
    }
    chosen = {group: {name: config[group][name] for name in names} for group, names in parts.items()}
    whole = ("model", "evaluation", "rl", "dpo", "rollout")  # pairs are read, and rewards measured, as these say
    return {name: config[name] for name in whole} | chosen | {"files": held_out_files(run)}


def held_out_files(run: RunConfig) -> dict[str, str]:
    """Path -> hash of the content, of each file that the run is measured on: a file may grow while a sweep goes on."""
    references = [part.reference for use in ("eval", "benchmark") for part in parts_of(run, use)]
    references += run.evaluation.capabilities.values()
    named = [path for reference in references for path in (file_and_split(reference)[0], reference.partition(":")[2])]
    return {path: sha256(Path(path).read_bytes()).hexdigest() for path in named if Path(path).is_file()}
