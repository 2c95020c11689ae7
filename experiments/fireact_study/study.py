"""Do trajectories teach more by several ways of thinking, filtered by success, observations masked? FireAct's claim.

    python study.py <work folder>      run as many of these side by side as there are cores

Every job is three commands: `sagetune collect` (an expert that errs, or the model trained before), `sagetune train` on
what it kept, for as many steps as make the same tokens, and `sagetune collect` by the trained model on held-out tasks,
greedily. Processes share the jobs by files in the work folder; a killed study goes on. table.py makes the tables and
the plot.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from jobs import claim, is_done, sagetune, train, write_lines

SEEDS = (0, 1, 2)
TOKENS = 24_000
"""Tokens of training in every run."""
BATCH = 4
TASKS, OWN_TASKS = 240, 60
"""Training tasks that the expert acts on, and a model for itself, twice each."""
HELD_OUT = {"tool_selection": 24, "planning": 12, "timing": 12}
"""Tasks of the split test that the trained models act on; where there is no tool there is nothing to act with."""
ERROR_RATE = 0.15
MIX = "[react,cot,reflexion]"
VARIANTS: dict[str, list[str]] = {
    "plain": ["trajectories.collector.methods=[plain]"],
    "react": ["trajectories.collector.methods=[react]"],
    "cot": ["trajectories.collector.methods=[cot]"],
    "mix": [f"trajectories.collector.methods={MIX}"],
    "mix, no filter": [
        f"trajectories.collector.methods={MIX}",
        "trajectories.filter.require_success=false",
        "trajectories.filter.min_reward=0",
    ],
    "mix, no mask": [f"trajectories.collector.methods={MIX}", "trajectories.conversion.mask_observation=false"],
    "self, 1 round": ["mix"],
    "self, 2 rounds": ["self, 1 round"],
}
"""Options of the collection; of a round of self-collection the variant whose model collects."""
COMMON = ["trainer=cpu", "model=smollm2_135m"]
LOCAL = [
    "trajectories=local",
    "trajectories.collector.methods=[plain]",
    "trajectories.agent.max_new_tokens=96",
    "evaluation.batch_size=32",
]


def name_of(variant: str, seed: int) -> str:
    return f"{variant.replace(', ', '-').replace(' ', '-')}-s{seed}"


def collect(work: Path, folder: Path, variant: str, seed: int) -> None:
    """samples.jsonl: what is trained on."""
    options = VARIANTS[variant]
    place = [
        f"output={folder}/collected.jsonl",
        f"samples={folder}/samples.jsonl",
        f"trajectories.collector.seed={seed}",
    ]
    tasks = ["sft.train_data=agent_sft:train"]
    log = folder / "log.txt"
    if options[0] not in VARIANTS:
        agent = ["trajectories=noisy_expert", f"trajectories.agent.error_rate={ERROR_RATE}"]
        spread = "trajectories.collector.spread=one"
        sagetune(log, "collect", *COMMON, *agent, spread, *tasks, f"budget.train_samples={TASKS}", *place, *options)
        return
    while not is_done(work, name_of(options[0], seed)):
        time.sleep(5)  # another process trains it
    drawn = [
        "trajectories.agent.temperature=0.7",
        "trajectories.collector.attempts=2",
        "trajectories.collector.max_steps=6",
    ]
    model = [
        f"trajectories.agent.model={work}/{name_of(options[0], seed)}/run/adapter",
        f"budget.train_samples={OWN_TASKS}",
    ]
    sagetune(log, "collect", *COMMON, *LOCAL, *drawn, *model, *tasks, *place)
    own = (folder / "samples.jsonl").read_text()
    experts = (work / name_of("mix", seed) / "samples.jsonl").read_text()
    (folder / "samples.jsonl").write_text(experts + own)


def steps_for(samples: Path) -> tuple[int, int, float]:
    """Optimiser steps that make TOKENS tokens; samples, and mean tokens of one."""
    from sagetune.chat import encode_all
    from sagetune.config import ModelConfig
    from sagetune.models import load_tokenizer
    from sagetune.sources import load

    loaded = load(str(samples), num_samples=None).samples
    encoded, _ = encode_all(loaded, load_tokenizer("embedded:smollm2_135m", ModelConfig()), 1024)
    mean = sum(len(sample.input_ids) for sample in encoded) / len(encoded)
    return round(TOKENS / (BATCH * mean)), len(encoded), mean


def held_out_tasks(work: Path) -> Path:
    """The held-out tasks as a file, made once."""
    from sagetune import world
    from sagetune.formats import to_openai

    path = work / "held_out_tasks.jsonl"
    if not path.is_file():
        samples = [sample for family, num in HELD_OUT.items() for sample in world.generate(family, "test", num)]
        write_lines(path, [to_openai(sample) for sample in samples])
    return path


def run(work: Path, variant: str, seed: int, folder: Path) -> None:
    described = folder / "study.json"
    if not described.is_file():
        collect(work, folder, variant, seed)
        steps, num, mean = steps_for(folder / "samples.jsonl")
        row: dict[str, Any] = {"variant": variant, "seed": seed, "steps": steps, "samples": num, "mean_tokens": mean}
        described.write_text(json.dumps(row))
    steps = json.loads(described.read_text())["steps"]
    train(
        folder,
        *COMMON,
        *("data=file", f"sft.train_data={folder}/samples.jsonl", "sft.eval_data=null", "evaluation.data=null"),
        *(f"seed={seed}", "sft.learning_rate=1e-3", "sft.max_seq_length=1024"),
        *(f"sft.batch_size={BATCH}", "sft.gradient_accumulation_steps=1"),
        *("budget.train_samples=null", f"budget.max_steps={steps}", "sft.num_epochs=50"),
    )
    held_out = [
        *("data=file", f"sft.train_data={held_out_tasks(work)}", "budget.train_samples=null"),
        f"output={folder}/held_out.jsonl",
        *(
            "trajectories.agent.temperature=0",
            "trajectories.collector.attempts=1",
            "trajectories.collector.bad_replies=0",
        ),
        f"trajectories.agent.model={folder}/run/adapter",
    ]
    sagetune(folder / "log.txt", "collect", *COMMON, *LOCAL, *held_out)


def main(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        for variant in VARIANTS:
            claim(work, name_of(variant, seed), lambda folder, job=(variant, seed): run(work, *job, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
