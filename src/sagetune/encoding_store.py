"""Tokens of large pools on disk: tokenised once for all jobs of a sweep, all trials of a search and all later runs."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from importlib.metadata import version
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sagetune.chat import IGNORE_INDEX, Encoded, EncodingReport, Unfit, encode_all
from sagetune.files import cache_folder, write_bytes
from sagetune.sample import KEEP_FIRST, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT_FROM = 1000
"""Samples from which a pool is kept. A sample takes about a millisecond: less is not worth a file."""
KEPT_DAYS = 30
"""Days after which a file goes when another is written."""
CODE = ("chat.py", "chat_template.py", "sample.py")
"""What tokens and labels are made by, beside the tokenizer; its text is part of the key, in place of a version."""
LIBRARIES = ("transformers", "tokenizers", "jinja2")
CLOCK = "strftime_now"
"""What a chat template calls that writes the time: its tokens are other ones tomorrow."""
CHECKSUM = "checksum"
Arrays = dict[str, np.ndarray]


def encode_once(
    samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Encoded], EncodingReport]:
    """What `encode_all` returns, out of the user's cache (SAGETUNE_CACHE) if these samples were encoded before.

    Of several processes one encodes while the others wait. A file that is broken is told and made anew; where none can
    be written, that is told and the tokens are made for this process alone. Pools of fewer than KEPT_FROM samples are
    not kept, nor are tokens of a template that writes the time.
    """
    if len(samples) < KEPT_FROM or CLOCK in json.dumps(tokenizer.chat_template):
        return encode_all(samples, tokenizer, max_length)
    path = cache_folder() / "tokens" / f"{pool_key(samples, tokenizer, max_length)}.safetensors"
    try:
        return _read(path) or _make(path, samples, tokenizer, max_length)
    except OSError as error:  # a full disk or a folder of another user costs the cache, not the run
        warnings.warn(f"tokens are not kept ({error}); SAGETUNE_CACHE names another folder", stacklevel=2)
        return encode_all(samples, tokenizer, max_length)


def pool_key(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """A hash of all that the tokens follow from: samples in their order, tokenizer, template, length, code."""
    digest = blake2b(digest_size=16)
    for name in CODE:
        digest.update(files("sagetune").joinpath(name).read_bytes())
    kind = type(tokenizer)
    settings = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "versions": {name: version(name) for name in LIBRARIES},
        "max_length": max_length,
        "template": tokenizer.chat_template,
        "special tokens": [tokenizer.special_tokens_map, tokenizer.all_special_tokens],
        "settings": {name: str(value) for name, value in tokenizer.init_kwargs.items()},
    }
    digest.update(json.dumps(settings, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for sample in samples:
        asked = [sample[name] for name in ("id", "task", "messages", "tools")]
        digest.update(json.dumps([*asked, sample["meta"].get(KEEP_FIRST, 0)]).encode() + b"\n")
    return digest.hexdigest()


def _make(
    path: Path, samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Encoded], EncodingReport]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        known = _read(path)  # another process may have made it meanwhile
        if known is not None:
            return known
        encoded, report = encode_all(samples, tokenizer, max_length)
        arrays = _pack(encoded, report)
        write_bytes(path, save(arrays | {CHECKSUM: _checksum(arrays)}))
    _clear(path.parent)
    return encoded, report


def _read(path: Path) -> tuple[list[Encoded], EncodingReport] | None:
    """What the file holds; None if there is none, or it is not what was written."""
    if not path.is_file():
        return None
    try:
        arrays = load(path.read_bytes())
    except SafetensorError:
        arrays = {}
    if CHECKSUM not in arrays or not np.array_equal(arrays.pop(CHECKSUM), _checksum(arrays)):
        warnings.warn(f"{path} is broken: its samples are tokenised anew", stacklevel=3)
        path.unlink(missing_ok=True)
        return None
    return _unpack(arrays)


def _pack(encoded: Sequence[Encoded], report: EncodingReport) -> Arrays:
    """All tokens in a row, the length of each sample, and as JSON what is text."""
    tokens = np.array([token for sample in encoded for token in sample.input_ids], dtype=np.uint32)
    labels = np.array([label for sample in encoded for label in sample.labels], dtype=np.int64)
    weights = [sample.weights for sample in encoded if sample.weights is not None]
    text = {
        "num_samples": report.num_samples,
        "names": [[sample.sample_id, sample.task] for sample in encoded],
        "unfit": [[fault.sample_id, fault.reason, fault.detail] for fault in report.unfit],
    }
    return {
        "lengths": np.array([len(sample.input_ids) for sample in encoded], dtype=np.uint32),
        "dropped": np.array([sample.dropped_messages for sample in encoded], dtype=np.uint32),
        "tokens": tokens.astype(np.uint16) if tokens.max(initial=0) < 2**16 else tokens,
        "supervised": labels != IGNORE_INDEX,
        "weighted": np.array([sample.weights is not None for sample in encoded], dtype=bool),
        "weights": np.array([weight for row in weights for weight in row], dtype=np.float64),
        "text": np.frombuffer(json.dumps(text).encode(), dtype=np.uint8),
    }


def _unpack(arrays: Arrays) -> tuple[list[Encoded], EncodingReport]:
    text: dict[str, Any] = json.loads(arrays["text"].tobytes())
    edges = [0, *np.cumsum(arrays["lengths"], dtype=np.int64).tolist()]
    tokens, supervised = arrays["tokens"].tolist(), arrays["supervised"].tolist()
    weights, used = arrays["weights"].tolist(), 0
    rows = [text["names"], pairwise(edges), arrays["dropped"].tolist(), arrays["weighted"].tolist()]
    encoded = []
    for (name, task), (start, end), dropped, weighted in zip(*rows, strict=True):
        ids = tokens[start:end]
        labels = [token if on else IGNORE_INDEX for token, on in zip(ids, supervised[start:end], strict=True)]
        own = weights[used : used + len(ids)] if weighted else None
        used += len(ids) if weighted else 0
        encoded.append(Encoded(name, task, ids, labels, own, dropped))
    truncated = [sample.sample_id for sample in encoded if sample.dropped_messages]
    return encoded, EncodingReport(text["num_samples"], truncated, [Unfit(*fault) for fault in text["unfit"]])


def _checksum(arrays: Arrays) -> np.ndarray:
    digest = blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def _clear(folder: Path) -> None:
    """Remove files of pools that were encoded long ago."""
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process was faster
            if path.stat().st_mtime < oldest:
                path.unlink()
