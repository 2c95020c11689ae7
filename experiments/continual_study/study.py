"""How much replay, from how large a buffer, keeps how much of what was learnt, and at what cost?

    python study.py <work folder>      run as many of these side by side as there are cores

Every job is one `sagetune train experiment=continual_study`. Processes share the jobs by files in the work folder, and
a killed study goes on. table.py makes the tables and plots.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SEEDS = (0, 1, 2)
RATIO, BUFFER = 0.25, 128
VARIANTS = {
    "sequential": ["continual=sequential"],
    "replay 0.25": ["continual=reservoir", "sft.continual_replay_ratio=0.25"],
    "joint": ["continual=joint"],
    "replay 0.5": ["continual=reservoir", "sft.continual_replay_ratio=0.5"],
    "replay 0.05": ["continual=reservoir", "sft.continual_replay_ratio=0.05"],
    "buffer 32": ["continual=reservoir", "sft.continual_buffer_size=32"],
    "buffer 512": ["continual=reservoir", "sft.continual_buffer_size=512"],
}
"""The most telling first. `replay 0.25` has a buffer of 128; `buffer ...` a ratio of 0.25."""


def run(work: Path, variant: str, seed: int) -> None:
    name = f"{variant.replace(' ', '-')}-s{seed}"
    folder, mark = work / name, work / "claims" / name
    try:
        mark.open("x").close()
    except FileExistsError:
        return
    command = [sys.executable, "-m", "sagetune", "train"]
    if folder.is_dir():
        command += [f"resume={folder}"]
    else:
        place = [f"sft.output_dir={work}", f"run_name={name}", f"seed={seed}", "hydra.mode=RUN", "wandb.mode=disabled"]
        command += ["experiment=continual_study", "trainer=cpu", *place, *VARIANTS[variant]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (work / f"{name}.log").open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
    if code:
        mark.unlink()
        sys.exit(f"{name} ended with {code}: see {work / name}.log")
    mark.write_text("done")
    print(name, flush=True)


def main(work: Path) -> None:
    (work / "claims").mkdir(parents=True, exist_ok=True)
    for variant in VARIANTS:
        for seed in SEEDS:
            run(work, variant, seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
