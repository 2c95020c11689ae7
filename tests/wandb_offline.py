"""Reads an offline W&B run back from its .wandb file: LevelDB's log framing around protobuf records."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

BLOCK = 32_768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    step_metrics: dict[str, str] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    exit_code: int | None = None


def read_offline_run(run_dir: Path) -> OfflineRun:
    """The one offline run under `run_dir`/wandb; its writer may be this process."""
    wandb.teardown()  # run.finish() returns before W&B's helper process has written the file's end
    (path,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    run = OfflineRun()
    for payload in _payloads(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id = record.run.run_id
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "summary":
            run.summary |= _items(record.summary.update)
        elif kind == "metric":
            run.step_metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    for row in run.history:
        for name, value in row.items():
            if isinstance(value, dict) and value.get("_type") == "table-file":
                run.tables[name] = json.loads((path.parent / "files" / value["path"]).read_text())
    return run


def _items(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        into = values
        for key in outer:
            into = into.setdefault(key, {})
        into[last] = json.loads(item.value_json)
    return values


def _payloads(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, position)
        chunk = data[position + 7 : position + 7 + length]
        if len(chunk) < length or kind == 0:  # cut short by a kill, or zeros at the end
            return
        assert checksum == zlib.crc32(chunk, zlib.crc32(bytes([kind])))
        position += 7 + length
        parts = chunk if kind in (FULL, FIRST) else parts + chunk
        if kind in (FULL, LAST):
            yield parts
