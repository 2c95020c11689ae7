"""A file of conversations -> <out>/train.jsonl and <out>/eval.jsonl: the last `num_eval` records are held out.

Usage: split.py <file> <num_eval> <out>
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sagetune.formats import to_openai
from sagetune.sources import load


def main() -> None:
    samples = load(sys.argv[1], num_samples=None, on_error="skip").samples
    num_eval, out = int(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", samples[:-num_eval]), ("eval", samples[-num_eval:])):
        rows = (json.dumps(to_openai(sample), ensure_ascii=False) + "\n" for sample in part)
        (out / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
