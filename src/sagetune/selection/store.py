"""Scores on disk, by model and sample: a sweep over strategies computes them once, and a killed one goes on."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from sagetune.chat import Encoded
from sagetune.files import cache_folder
from sagetune.selection.picks import Progress
from sagetune.selection.scoring import Columns, bare, language_model

VERSION = 2
"""Of what the figures mean; a new number computes them anew."""
WRITE_EVERY = 512
"""Samples after which new scores are written."""
KEY = "key"


class ScoreStore:
    """Figures of one kind (`name`) by one model. folder None = kept nowhere.

    The folder holds one .npz file for every stretch of work, each written beside and renamed, so that processes may
    share it; a sample that two of them scored stands twice, with equal figures.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def complete(
        self,
        samples: Sequence[Encoded],
        make: Callable[[Sequence[Encoded]], Iterator[tuple[list[int], Columns]]],
        on_progress: Progress | None = None,
    ) -> tuple[Columns, int, int]:
        """The figures of `samples`, in their order; the tokens that were scored for that; and those that were known.

        make: scores samples stretch by stretch, as `score_passes`; it gets those that the folder lacks.
        """
        keys = [sample_key(sample) for sample in samples]
        known = self._read(set(keys))
        reused = sum(len(sample.input_ids) for sample, key in zip(samples, keys, strict=True) if key in known)
        missing = list({key: place for place, key in enumerate(keys) if key not in known}.values())
        if on_progress is not None and len(keys) > len(missing):
            on_progress(len(keys) - len(missing))
        lacking = [samples[place] for place in missing]
        fresh: dict[bytes, dict[str, np.ndarray]] = {}
        for places, columns in make(lacking) if lacking else ():
            for row, place in enumerate(places):
                fresh[keys[missing[place]]] = {name: column[row] for name, column in columns.items()}
            if on_progress is not None:
                on_progress(len(places))
            if len(fresh) >= WRITE_EVERY:
                self._write(fresh)
                known, fresh = known | fresh, {}
        self._write(fresh)
        known |= fresh
        names = known[keys[0]] if keys else {}
        scored = sum(len(sample.input_ids) for sample in lacking)
        return {name: np.stack([known[key][name] for key in keys]) for name in names}, scored, reused

    def _read(self, wanted: set[bytes]) -> dict[bytes, dict[str, np.ndarray]]:
        known: dict[bytes, dict[str, np.ndarray]] = {}
        for path in sorted(self._folder.glob("*.npz")) if self._folder and self._folder.is_dir() else ():
            try:
                with np.load(path) as file:
                    columns = {name: file[name] for name in file.files}
                keys = columns.pop(KEY)
            except (BadZipFile, EOFError, KeyError, ValueError):  # a full disk cut it short: as good as not there
                path.unlink(missing_ok=True)
                continue
            for row, key in enumerate(keys):
                if key.tobytes() in wanted:
                    known[key.tobytes()] = {name: column[row] for name, column in columns.items()}
        return known

    def _write(self, scored: dict[bytes, dict[str, np.ndarray]]) -> None:
        if self._folder is None or not scored:
            return
        rows = list(scored.values())
        columns: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        columns[KEY] = np.frombuffer(b"".join(scored), dtype=np.uint8).reshape(len(scored), -1)
        path = self._folder / f"{uuid.uuid4().hex}.npz"
        partial = path.with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.savez(file, **columns)
            os.replace(partial, path)
        except OSError as error:  # a full disk costs the cache, not the scores
            if self._folder.is_dir():
                partial.unlink(missing_ok=True)
            warnings.warn(f"scores are not kept ({error}); coreset.cache=false turns the cache off", stacklevel=2)


def store_for(model: nn.Module, kind: str, use_cache: bool) -> ScoreStore:
    """The store of one kind of figures of `model` as its weights are now, in the user's cache (SAGETUNE_CACHE)."""
    if not use_cache:
        return ScoreStore(None)
    return ScoreStore(cache_folder() / "scores" / model_key(model) / f"{kind}-v{VERSION}")


def model_key(model: nn.Module) -> str:
    """A hash of all that the model's figures follow from: configuration, adapters and how they act, every tensor."""
    causal = language_model(model)
    digest = hashlib.blake2b(bare(causal).config.to_json_string().encode(), digest_size=12)
    if isinstance(causal, PeftModel):
        settings = {name: config.to_dict() for name, config in causal.peft_config.items()}
        digest.update(json.dumps([settings, causal.active_adapters], default=str, sort_keys=True).encode())
    for name, module in causal.named_modules():
        if isinstance(module, LoraLayer):
            acts = [name, module.disable_adapters, module.merged_adapters, sorted(module.scaling.items())]
            digest.update(json.dumps(acts).encode())
    for name, tensor in sorted(causal.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def sample_key(sample: Encoded) -> bytes:
    """A hash of the sample's tokens, labels and weights, 16 bytes; its id and task have no part."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.array([sample.input_ids, sample.labels], dtype=np.int64).tobytes())
    if sample.weights is not None:
        digest.update(np.array(sample.weights, dtype=np.float64).tobytes())
    return digest.digest()
