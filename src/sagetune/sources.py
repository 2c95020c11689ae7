"""A reference to data -> samples: the embedded world, a file, or a data set of the hub.

agent_sft:<split>                     all families of the world, in the proportions of FAMILY_SHARES
agent_benchmark:<family>:<split>      one family of the world, or <family>/<domain> of it
hf:<owner>/<name>:<split>             a data set of the hub, or `hf:<folder>:<split>`
<path>.jsonl | .jsonl.gz | .json | .csv   the records of a file, in any format of `sagetune.formats`, or FireAct's
<path>:<split>                        a part of them: train has four in five, dev and test share the rest
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagetune import world
from sagetune.beside import Beside
from sagetune.config import RunConfig
from sagetune.config.coreset import TARGETED_STRATEGIES
from sagetune.config.mixture import SIZED_STRATEGIES
from sagetune.formats import from_record
from sagetune.record_files import SUFFIXES, Entry, decode, read_entries
from sagetune.sample import Message, Sample

# The mixture of the public reference's MixerConfig example; its order is that of the world's families.
FAMILY_SHARES = {"tool_selection": 35, "planning": 30, "timing": 20, "general": 15}  # percent
FILE_SPLITS = {"train": (0, 80), "dev": (80, 90), "test": (90, 100)}  # percent of what is asked
MAX_SKIPPED_SHARE = 0.05
FORMS = (
    "agent_sft:<split>, agent_benchmark:<family>:<split>, hf:<owner>/<name>:<split>, or a path to "
    f"{', '.join(SUFFIXES)}, or such a path with :{', :'.join(FILE_SPLITS)}"
)


@dataclass(frozen=True)
class Loaded:
    """The samples of a reference, and one line for each record that was left out: where, which field, why."""

    samples: list[Sample]
    skipped: list[str]


@dataclass(frozen=True)
class Part:
    """A reference, the number of its samples (None = all), and the task that they count as (None = their own)."""

    reference: str
    limit: int | None
    task: str | None = None


def parts_of(run: RunConfig, use: str) -> list[Part]:
    """What a run reads for "train", "eval" (loss), "benchmark" (generated actions) or "dev" (what it selects for).

    Empty if it does not do that.

    The tasks of continual.tasks share the budget equally, the first ones getting the remainder.
    """
    reference, limit = {
        "train": (run.sft.train_data, run.budget.train_samples),
        "eval": (run.sft.eval_data, run.budget.eval_samples),
        "benchmark": (run.evaluation.data, run.budget.benchmark_samples),
        "dev": (run.coreset.dev_data or run.sft.eval_data, run.coreset.dev_samples),
    }[use]
    if reference is None:
        return []
    tasks = run.continual.tasks
    if tasks is None or (use == "dev" and run.coreset.dev_data is not None):
        return [Part(reference, limit)]
    split = {"train": "train", "dev": "dev"}.get(use, "test")
    limits = [None if limit is None else (limit + place) // len(tasks) for place in reversed(range(len(tasks)))]
    return [Part(task_reference(task, split), limit, task) for task, limit in zip(tasks, limits, strict=True)]


def task_reference(task: str, split: str) -> str:
    """The reference that an entry of continual.tasks stands for."""
    return task.replace("{split}", split) if "{split}" in task else f"agent_benchmark:{task}:{split}"


def check_reference(reference: str) -> None:
    """Raise ValueError, at once, if `reference` names no data: an unknown form, split or family, or a missing file."""
    kind, _, rest = reference.partition(":")
    if kind == "agent_sft":
        _check_one_of(reference, "split", rest, world.SPLITS)
    elif kind == "agent_benchmark":
        family, _, split = rest.partition(":")
        try:
            world.check_family(family)
        except ValueError as error:
            raise ValueError(f"data {reference!r}: {error}") from error
        _check_one_of(reference, "split", split, world.SPLITS)
    elif kind == "hf":
        name, _, split = rest.rpartition(":")
        if not name or not split:
            raise ValueError(f"data {reference!r}: write hf:<owner>/<name>:<split>")
    else:
        _check_path(file_and_split(reference)[0])


def check_run(run: RunConfig) -> None:
    """`check_reference` for all that a run reads; the error names the field."""
    if run.trajectories.use and run.trajectories.tasks is not None:
        check_tasks(run.trajectories.tasks)
    train_data = None if run.mixture.use else run.sft.train_data
    if run.continual.tasks is None:
        fields = {"sft.train_data": train_data, "sft.eval_data": run.sft.eval_data}
        check_references(fields | {"evaluation.data": run.evaluation.data})
    check_references({"coreset.dev_data": run.coreset.dev_data})
    selects_for = run.sft.use_coreset_selection and run.sft.coreset_strategy in TARGETED_STRATEGIES
    trains_on = [] if run.mixture.use else ["train"]
    for use in (*trains_on, "eval", "benchmark", *(["dev"] if selects_for else [])):
        for part in parts_of(run, use):
            check_references({"continual.tasks" if part.task else "data": part.reference})
    if run.mixture.use:
        check_mixture(run)
    if run.rl is not None and run.rl.algorithm == "dpo":
        check_preferences({"sft.train_data": run.sft.train_data, "sft.eval_data": run.sft.eval_data})


def check_preferences(named: dict[str, str | None]) -> None:
    """Raise ValueError for a field whose reference cannot hold preferences."""
    for field, reference in named.items():
        if reference is not None and endless(reference):
            raise ValueError(
                f"{field}: {reference} has conversations, not pairs of a better and a worse one: "
                f"`sagetune collect pairs=pairs.jsonl` makes some, then data=file {field}=pairs.jsonl"
            )


def check_judged(run: RunConfig) -> None:
    """Raise ValueError if nothing judges what a policy does on the training data, of which a file is read for that."""
    if endless(run.sft.train_data) or (run.rl is not None and run.rl.reward_model is not None):
        return
    try:
        read = load_parts(parts_of(run, "train"), seed=run.data.seed, on_error=run.data.on_error)
    except ValueError as error:  # pairs, say
        raise ValueError(f"sft.train_data: {error}") from error
    foreign = next((sample for sample in read.samples if sample["source"] != "world"), None)
    if foreign is not None:
        raise ValueError(
            f"sft.train_data: nothing judges what is done on {run.sft.train_data} (sample {foreign['id']!r}): only "
            f"tasks of the embedded world (agent_sft:<split>, agent_benchmark:<family>:<split>, or a file of them) "
            f"have a checker; set rl.reward_model, or give AgentRLTrainer a reward_fn"
        )


def check_mixture(run: RunConfig) -> None:
    """`check_reference` for the sources of the mixture, and whether each has a size where one is needed.

    Own data that the mixture would leave out are refused: they stand where a mixture is not read from.
    """
    config = run.mixture
    used = {task: config.sources[task] for task in config.shares()}
    check_references({f"mixture.sources.{task}": reference for task, reference in used.items()})
    given = run.sft.train_data
    if not endless(given) and all(endless(reference) for reference in used.values()):
        raise ValueError(
            f"sft.train_data: {given} would not be trained on, because the mixture is of the embedded world alone: "
            f"make it a part of it (mixture.sources.{next(iter(used))}={given}), or mix nothing (mixture.use=false)"
        )
    for task, reference in used.items():
        if not endless(reference) or task in config.limits:
            continue
        fix = f"{reference} has no end: say how many samples it has by +mixture.limits.{task}=<number>"
        if config.strategy in SIZED_STRATEGIES:
            raise ValueError(f"mixture.strategy={config.strategy} goes by the sizes of the sources, and {fix}")
        if config.replacement:
            raise ValueError(f"mixture.replacement draws from all samples of a source, and {fix}")
        if run.budget.train_samples is None:
            raise ValueError(f"budget.train_samples=null takes as much as there is, and {fix}")


def endless(reference: str) -> bool:
    """Whether `reference` names the embedded world, which makes as many samples as are asked for."""
    return reference.partition(":")[0] in ("agent_sft", "agent_benchmark")


def check_tasks(reference: str) -> None:
    """Raise ValueError, at once, if `reference` names no tasks."""
    kind, _, place = reference.partition(":")
    if kind not in ("search", "bfcl"):
        raise ValueError(f"trajectories.tasks must be search:<path>, bfcl:<folder> or null, got {reference!r}")
    if not place or not Path(place).exists():
        raise ValueError(f"trajectories.tasks: there is no {place!r}; the current folder is {Path.cwd()}")


def check_references(named: dict[str, str | None]) -> None:
    """`check_reference` for several fields; the error names the field. None is no reference and passes."""
    for field, reference in named.items():
        try:
            if reference is not None:
                check_reference(reference)
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from error


def load(reference: str, *, num_samples: int | None, seed: int = 0, on_error: str = "raise") -> Loaded:
    """The first `num_samples` samples of `reference` (None = all of a file, or of its split), in its order.

    seed: of the world's samples. on_error: what a bad record does: "raise" raises ValueError with place, field and
    reason; "skip" leaves it out and lists it, and raises above 5 % of the records. Also raises ValueError for a
    reference that names no data and for data without any record. A record without an id gets `<file stem>:<line>`;
    one whose id came before gets that appended.
    """
    check_reference(reference)
    kind, _, rest = reference.partition(":")
    if endless(reference):
        if num_samples is None:
            raise ValueError(f"data {reference!r} has no end: set budget.train_samples (or eval_samples) to a number")
        return Loaded(_load_world(rest, num_samples, seed), [])
    file, split = file_and_split(reference)
    complete = Beside(Path(file)).complete if kind != "hf" else None
    loaded = _read(entries_of(file), complete, on_error, split, num_samples)
    if not loaded.samples:
        few = "" if split is None else ": too few for a split of their own, so give it another file"
        raise ValueError(f"data {reference!r} holds no record{few}")
    return loaded


def file_and_split(reference: str) -> tuple[str, str | None]:
    """The path in `<path>:<split>` and the split; any other reference as it is, and None."""
    path, _, split = reference.rpartition(":")
    return (path, split) if path.endswith(SUFFIXES) and split in FILE_SPLITS else (reference, None)


def in_split(messages: Sequence[Message], split: str) -> bool:
    """Whether a conversation belongs to this split of its file.

    A hash of what the user asks first decides: records that ask the same stay together, so that none is trained on
    and tested on, and no record changes sides when the file grows or is sorted anew.
    """
    asked = next((message["content"] for message in messages if message["role"] == "user"), json.dumps(messages))
    place = int.from_bytes(hashlib.sha256(str(asked).encode()).digest()[:8], "big") * 100 >> 64
    first, end = FILE_SPLITS[split]
    return first <= place < end


def entries_of(reference: str) -> Iterator[Entry]:
    """The undecoded records of a file or a data set of the hub. Raises ValueError for any other reference."""
    check_reference(reference)
    kind, _, rest = reference.partition(":")
    if endless(reference):
        raise ValueError(f"data {reference!r} is generated: there are no records of it to read")
    return _hub_entries(rest) if kind == "hf" else read_entries(Path(reference))


def check_skipped(num_good: int, skipped: list[str]) -> None:
    """Raise ValueError if more than MAX_SKIPPED_SHARE of the records are in `skipped`."""
    total = num_good + len(skipped)
    if len(skipped) > MAX_SKIPPED_SHARE * total:
        share = f"{len(skipped)} of {total} records are bad"
        raise ValueError(f"{share}, more than {MAX_SKIPPED_SHARE:.0%}; the first: {skipped[0]}")


def load_parts(parts: Iterable[Part], *, seed: int, on_error: str) -> Loaded:
    """The samples of all parts in order, each named for its part's task, ids made distinct; arguments as in `load`."""
    samples: dict[str, Sample] = {}
    skipped = []
    for part in parts:
        loaded = load(part.reference, num_samples=part.limit, seed=seed, on_error=on_error)
        skipped += loaded.skipped
        for sample in loaded.samples:
            named: Sample = {**sample, "task": part.task or sample["task"]}
            if named["id"] in samples:
                named["id"] = f"{part.task}:{named['id']}"
            samples[named["id"]] = named
    return Loaded(list(samples.values()), skipped)


def _check_one_of(reference: str, field: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise ValueError(f"data {reference!r}: {field} must be one of {', '.join(allowed)}, got {value!r}")


def _check_path(reference: str) -> None:
    if not reference.endswith(SUFFIXES):
        raise ValueError(f"data {reference!r} is not a known reference: write {FORMS}")
    path = Path(reference)
    if not path.is_file():
        raise ValueError(f"data {reference!r}: no such file; the current folder is {Path.cwd()}")
    if path.stat().st_size == 0:
        raise ValueError(f"data {reference!r}: the file is empty")


def _load_world(rest: str, num_samples: int, seed: int) -> list[Sample]:
    family, _, split = rest.rpartition(":")
    if family:
        return world.generate(family, split, num_samples, seed)
    order = _interleave(num_samples)
    samples = {name: iter(world.generate(name, split, order.count(name), seed)) for name in FAMILY_SHARES}
    return [next(samples[name]) for name in order]


def _interleave(num_samples: int) -> list[str]:
    """Families in the proportions of FAMILY_SHARES, exact by largest remainder, in every prefix as near as can be.

    Each place goes to the family that is furthest behind its share (Balinski and Young's quota method), so that the
    samples of a smaller budget are the first ones of a larger.
    """
    counts = dict.fromkeys(FAMILY_SHARES, 0)
    order = []
    for place in range(1, num_samples + 1):
        name = max(counts, key=lambda family: FAMILY_SHARES[family] * place - 100 * counts[family])
        counts[name] += 1
        order.append(name)
    return order


def _hub_entries(rest: str) -> Iterator[Entry]:
    from datasets import load_dataset  # a second to import, and only this form needs it

    name, _, split = rest.rpartition(":")
    for number, record in enumerate(load_dataset(name, split=split), start=1):
        yield Entry(f"{name}:{split}", f"{name}:{split}: record {number}", f"{Path(name).name}:{number}", record)


def _read(
    entries: Iterator[Entry],
    complete: Callable[[Any], Any] | None,
    on_error: str,
    split: str | None,
    num_samples: int | None,
) -> Loaded:
    samples: dict[str, Sample] = {}
    skipped, num_good = [], 0
    for entry in entries:
        if len(samples) == num_samples:
            break
        try:
            record = decode(entry.record)
            sample = _sample(complete(record) if complete else record, entry)
        except ValueError as error:
            if on_error == "raise":
                raise ValueError(f"{entry.place}: {error}") from error
            skipped.append(f"{entry.place}: {error}")
            continue
        num_good += 1
        if split is not None and not in_split(sample["messages"], split):
            continue
        if sample["id"] in samples:
            sample["id"] += f"@{entry.default_id}"
        samples[sample["id"]] = sample
    check_skipped(num_good, skipped)
    return Loaded(list(samples.values()), skipped)


def _sample(record: Any, entry: Entry) -> Sample:
    _check_encodable(record)
    sample = from_record(record)
    return {**sample, "id": sample["id"] or entry.default_id, "source": sample["source"] or entry.source}


def _check_encodable(record: Any) -> None:
    r"""JSON can hold half a surrogate pair (`\ud83d`), which no tokenizer and no file takes."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"record: holds half of a surrogate pair, {error.object[error.start]!a}") from error
