"""What a capability is measured on: samples, records or a reference -> items.

Beside the references of `sagetune.sources` there are the question sets, which are no conversations, and all files of
BFCL with one turn, of which each gives equally many items as far as it has them:

gsm8k:<path>  hotpotqa:<path>  strategyqa:<path>  ifeval:<path>
bfcl:<folder>, or bfcl:installed for that of the package bfcl-eval
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from sagetune import sources
from sagetune.capability.items import Item, asks_for, gsm8k_item, hotpotqa_item, ifeval_item, item_of, strategyqa_item
from sagetune.config import EvaluationConfig
from sagetune.config.stages import CAPABILITIES
from sagetune.evaluation.scoring.instruction_following import load_checkers
from sagetune.formats import from_record
from sagetune.record_files import decode, read_entries
from sagetune.sample import Sample

MOST_PASSED_OVER = 64
"""Tasks of the world that are looked at for each one that is wanted; of the rarest one in fourteen asks."""
QUESTIONS: dict[str, tuple[str, Callable[[dict[str, Any], str], Item], tuple[str, ...]]] = {
    "gsm8k": ("reasoning", gsm8k_item, ("question", "answer")),
    "hotpotqa": ("reasoning", hotpotqa_item, ("question", "answer")),
    "strategyqa": ("reasoning", strategyqa_item, ("question", "answer")),
    "ifeval": ("instruction_following", ifeval_item, ("key", "prompt", "instruction_id_list", "kwargs")),
}
"""Name -> the capability that it measures, the item of a record, and the fields that a record needs."""
BFCL_CAPABILITIES = ("tool_use", "timing")
BFCL_CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")
BFCL_FILES = (*BFCL_CATEGORIES, "live_simple", *(f"live_{name}" for name in BFCL_CATEGORIES[1:]), "live_relevance")


def items_of(capability: str, data: Any, limit: int | None = None) -> list[Item]:
    """The first `limit` items that ask for `capability`.

    data: samples, records of any format (without ids they are known by their places), or a reference. Of a reference
    to the world those samples count that ask for it. Raises ValueError for an unknown capability, for data that does
    not ask for it, and for none.
    """
    if capability not in CAPABILITIES:
        raise ValueError(f"capability must be one of {', '.join(CAPABILITIES)}, got {capability!r}")
    if isinstance(data, str):
        found = list(islice(_referred(capability, data, limit), limit))
    elif isinstance(data, Sequence):
        found = [
            item_of(capability, _as_sample(record, str(place))) for place, record in enumerate(data[:limit], start=1)
        ]
    else:
        raise ValueError(f"{capability}: expected samples or a reference, got {data!r:.80}")
    if not found:
        raise ValueError(f"{capability}: {data!r:.80} has no item that asks for it")
    return found


def check_capabilities(config: EvaluationConfig) -> None:
    """`check_data` for all that is to be measured; the error names the field."""
    for capability, reference in config.capabilities.items():
        try:
            check_data(capability, reference, config.samples)
        except ValueError as error:
            raise ValueError(f"evaluation.capabilities.{capability}: {error}") from error


def check_data(capability: str, reference: str, limit: int | None) -> None:
    """Raise ValueError, at once, if `reference` cannot be data of `capability`."""
    kind, _, place = reference.partition(":")
    if kind == "bfcl":
        if capability not in BFCL_CAPABILITIES:
            raise ValueError(f"{reference!r} measures {' and '.join(BFCL_CAPABILITIES)}, not {capability}")
        _bfcl_files(place)
        return
    if kind not in QUESTIONS:
        sources.check_reference(reference)
        if sources.endless(reference) and limit is None:
            raise ValueError(f"{reference!r} has no end: set evaluation.samples to a number")
        return
    measured = QUESTIONS[kind][0]
    if capability != measured:
        raise ValueError(f"{reference!r} measures {measured}, not {capability}")
    if not Path(place).is_file():
        raise ValueError(f"{reference!r}: no such file; the current folder is {Path.cwd()}")
    if kind == "ifeval":
        load_checkers("ifeval")


def _referred(capability: str, reference: str, limit: int | None) -> Iterator[Item]:
    check_data(capability, reference, limit)
    kind, _, place = reference.partition(":")
    if kind in QUESTIONS:
        yield from _questions(kind, Path(place))
    elif kind == "bfcl":
        yield from _of_bfcl(capability, place, limit)
    elif sources.endless(reference):
        assert limit is not None
        yield from _of_world(capability, reference, limit)
    else:
        for sample in sources.load(reference, num_samples=limit).samples:
            yield item_of(capability, sample)


def _of_world(capability: str, reference: str, limit: int) -> Iterator[Item]:
    """Of the world's tasks, in their order, the first `limit` that ask for the capability; it may be few of them."""
    found: list[Sample] = []
    num = limit
    while len(found) < limit and num <= MOST_PASSED_OVER * limit:
        samples = sources.load(reference, num_samples=num).samples
        found = [one for one in samples if asks_for(capability, one["meta"]["family"], one["meta"]["kind"])]
        num *= 2
    for sample in found:
        yield item_of(capability, sample)


def _of_bfcl(capability: str, place: str, limit: int | None) -> Iterator[Item]:
    """The files take turns, so that a limit leaves each category its items."""
    rows = [sources.load(str(path), num_samples=limit).samples for path in _bfcl_files(place)]
    for turn in zip_longest(*rows):
        for sample in turn:
            if sample is not None:
                yield item_of(capability, sample)


def _bfcl_files(place: str) -> list[Path]:
    """The files of a folder. Raises ValueError for one without any."""
    folder = _bfcl_installed() if place == "installed" else Path(place)
    found = [path for name in BFCL_FILES if (path := folder / f"BFCL_v4_{name}.json").is_file()]
    if not found:
        raise ValueError(f"'bfcl:{place}': no BFCL_v4_<category>.json there; the current folder is {Path.cwd()}")
    return found


def _bfcl_installed() -> Path:
    found = find_spec("bfcl_eval")
    if found is None or found.origin is None:
        raise ValueError("'bfcl:installed': pip install --no-deps bfcl-eval, or give its data by bfcl:<folder>")
    return Path(found.origin).parent / "data"


def _questions(kind: str, path: Path) -> Iterator[Item]:
    _, make, fields = QUESTIONS[kind]
    for entry in read_entries(path):
        record = decode(entry.record)
        missing = [name for name in fields if name not in record]
        if missing:
            raise ValueError(
                f"{entry.place}: {', '.join(missing)}: missing, a record of {kind} needs {', '.join(fields)}"
            )
        try:
            yield make(record, entry.default_id)
        except ValueError as error:
            raise ValueError(f"{entry.place}: {error}") from error


def _as_sample(record: Any, otherwise: str) -> Sample:
    """otherwise: the id of a record that has none."""
    whole = isinstance(record, dict) and {"source", "meta", "task"} <= set(record)
    sample: Sample = record if whole else from_record(record)
    return sample if sample["id"] else {**sample, "id": otherwise}
