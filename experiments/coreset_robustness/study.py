"""Does selecting training samples beat a random draw, from a pool that holds noise, wrong answers and copies?

    python study.py <work folder> [strategy ...]     run as many of these side by side as there are cores

Jobs are claimed by files in the work folder, so processes share them and a killed study goes on. Each finished job is
one line of picks.jsonl (what a strategy chose) or runs.jsonl (what training on that gave). table.py makes the tables.
"""

# ruff: noqa: E402
from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from sagetune.processor import prepare_process

prepare_process()

import json
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from sagetune import world
from sagetune.config import (
    CONF_DIR,
    CORESET_STRATEGIES,
    AgentSFTConfig,
    BudgetConfig,
    CoresetConfig,
    EvaluationConfig,
    RunConfig,
    TrainerConfig,
    WandbConfig,
)
from sagetune.evaluation.actions import evaluate_actions
from sagetune.formats import to_openai
from sagetune.run import quiet_libraries
from sagetune.sample import Sample
from sagetune.selection.features import Material, needs_model, pool_of
from sagetune.selection.picks import Picks
from sagetune.selection.strategies import choose
from sagetune.trainer import AgentSFTTrainer

POOL, SEEDS, FRACTIONS = 400, (0, 1, 2), (0.1, 0.05, 0.2)
NOISE, WRONG, COPIES = 0.01, 0.15, 0.10  # shares of the pool
STEPS, BATCH_SIZE, LEARNING_RATE = 20, 4, 1e-3
HELD_OUT, DEVELOPMENT = 32, 16
EVERYWHERE = ("random", "length", "loss_topk", "diversity", "hybrid")  # trained on at every fraction, others at 10 %
OVERRIDES = {"less": {"warmup_epochs": 1}, "s2l": {"warmup_epochs": 2}}  # four epochs would take an hour here
OTHERS = ("ccs", "deita", "rds", "kcenter", "el2n", "ifd", "grad_sketch", "facility_location", "s2l", "less")
ORDER = (*EVERYWHERE, *OTHERS)
assert set(ORDER) == set(CORESET_STRATEGIES)


def make_pool(seed: int) -> list[Sample]:
    """Solved tool_selection tasks; some with a garbled or a foreign answer, some repeated. meta["kind"] says which."""
    rng = random.Random(seed)
    num_copies = round(COPIES * POOL)
    pool = world.generate("tool_selection", "train", POOL - num_copies, seed)
    marked = rng.sample(range(len(pool)), round(NOISE * POOL) + round(WRONG * POOL))
    noise, wrong = marked[: round(NOISE * POOL)], marked[round(NOISE * POOL) :]
    answers = [sample["messages"][-1] for sample in pool]
    for index, sample in enumerate(pool):
        sample["meta"]["kind"] = "noise" if index in noise else "wrong" if index in wrong else "clean"
    for index in noise:
        letters = "abcdefghijklmnopqrstuvwxyz0123456789 {}[]\"':,"
        text = "".join(rng.choice(letters) for _ in range(rng.randint(60, 140)))
        pool[index]["messages"][-1] = {"role": "assistant", "content": text}
    for index in wrong:
        pool[index]["messages"][-1] = answers[rng.choice([i for i in range(len(pool)) if i != index])]
    for index in rng.sample([i for i in range(len(pool)) if i not in noise], num_copies):
        original = pool[index]
        messages = [dict(message) for message in original["messages"]]
        messages[0] = {**messages[0], "content": messages[0]["content"].rstrip(".?!") + " please"}
        copied: Any = {**original, "id": f"{original['id']}-copy", "messages": messages}
        copied["meta"] = {**original["meta"], "copy_of": original["id"]}
        pool.append(copied)
    rng.shuffle(pool)
    return pool


def options_of(strategy: str) -> CoresetConfig:
    """The options of conf/coreset/<strategy>.yaml."""
    file = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "coreset" / f"{strategy}.yaml"))
    assert isinstance(file, dict)
    return CoresetConfig(**{**file.get("coreset", {}), **OVERRIDES.get(strategy, {}), "dev_samples": DEVELOPMENT})


def run_config(work: Path, seed: int, train_data: Path) -> RunConfig:
    sft = AgentSFTConfig(
        "embedded:smollm2_135m",
        str(train_data),
        eval_data="agent_benchmark:tool_selection:dev",
        output_dir=work / "runs",
        num_epochs=STEPS,
        batch_size=BATCH_SIZE,
        gradient_accumulation_steps=1,
        learning_rate=LEARNING_RATE,
        max_seq_length=768,
    )
    return RunConfig(
        sft=sft,
        seed=seed,
        run_name=f"{train_data.stem}-{time.time_ns()}",
        budget=BudgetConfig(train_samples=None, eval_samples=HELD_OUT, benchmark_samples=HELD_OUT, max_steps=STEPS),
        evaluation=EvaluationConfig(batch_size=32),
        trainer=TrainerConfig(accelerator="cpu", checkpoint_every_n_steps=1000),
        wandb=WandbConfig(mode="disabled"),
    )


def select(work: Path, strategy: str, seed: int) -> list[dict[str, Any]]:
    """Choose by one strategy at every fraction; write the chosen samples; a row a fraction."""
    pool = make_pool(seed)
    file = work / f"pool-s{seed}.jsonl"
    write_lines(file, [to_openai(sample) for sample in pool])
    trainer = AgentSFTTrainer(run_config(work, seed, file), console=Console(stderr=True))
    options = options_of(strategy)
    encoded = trainer.data.pool().encoded
    dev = trainer.data.load("agent_benchmark:tool_selection:dev", HELD_OUT + DEVELOPMENT, use="dev")[HELD_OUT:]
    model = trainer.model if needs_model(strategy, options, None) else None
    material = Material(items=pool, encoded=encoded, model=model, dev=dev)
    started = time.perf_counter()
    features = pool_of(material, strategy, options, seed)
    shared = time.perf_counter() - started
    rows = []
    for fraction in FRACTIONS:
        started = time.perf_counter()
        picks = choose(strategy, features, round(fraction * POOL))
        seconds = shared + time.perf_counter() - started
        write_lines(chosen_file(work, strategy, seed, fraction), [to_openai(pool[i]) for i in picks.indices])
        row = {"strategy": strategy, "seed": seed, "fraction": fraction, **shares_of(pool, picks)}
        tokens = material.forward_tokens + material.reused_tokens
        rows.append(row | {"seconds": seconds, "forward_tokens": tokens, "reused": material.reused_tokens})
    return rows


def shares_of(pool: list[Sample], picks: Picks) -> dict[str, float]:
    """noise: share of all noise that was chosen. wrong: share of the chosen. copies: share whose twin is chosen too."""
    chosen = [pool[index] for index in picks.indices]
    kinds = [sample["meta"]["kind"] for sample in chosen]
    ids = {sample["id"] for sample in chosen}
    all_noise = sum(sample["meta"]["kind"] == "noise" for sample in pool)
    tokens = [len(json.dumps(sample["messages"][-1])) for sample in chosen]
    return {
        "chosen": len(chosen),
        "noise": kinds.count("noise") / all_noise,
        "wrong": kinds.count("wrong") / len(chosen),
        "copies": sum(sample["meta"].get("copy_of") in ids for sample in chosen) / len(chosen),
        "answer_characters": sum(tokens) / len(tokens),
    }


def train(work: Path, strategy: str, seed: int, fraction: float) -> list[dict[str, Any]]:
    """Train on what was chosen and measure on held-out tasks."""
    trainer = AgentSFTTrainer(run_config(work, seed, chosen_file(work, strategy, seed, fraction)))
    trainer.console.quiet = True
    result = trainer.train()
    trainer.load_model(result.model_dir)
    tokens = trainer.evaluate("agent_benchmark:tool_selection:dev")
    held_out = world.generate("tool_selection", "test", HELD_OUT, 0)
    actions = evaluate_actions(trainer.model, trainer.tokenizer, held_out, trainer.run.evaluation).to_dict()
    row = {"strategy": strategy, "seed": seed, "fraction": fraction, "steps": result.steps, "tokens": result.tokens}
    row |= {"loss": tokens.loss, "accuracy": tokens.accuracy, "train_seconds": result.seconds}
    names = ("exact_match", "name_accuracy", "argument_accuracy", "parse_failure_rate")
    return [row | {name: actions[name]["value"] for name in names}]


def chosen_file(work: Path, strategy: str, seed: int, fraction: float) -> Path:
    return work / f"{strategy}-s{seed}-f{fraction}.jsonl"


def write_lines(path: Path, rows: list[Any]) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    partial.replace(path)


def claim(work: Path, name: str, job: Callable[[], list[dict[str, Any]]], results: Path) -> None:
    """Do a job that no process has claimed; its rows are appended at the end. A job that fails gives its claim back."""
    mark = work / "claims" / name
    try:
        mark.open("x").close()
    except FileExistsError:
        return
    try:
        rows = job()
    except BaseException:
        mark.unlink()
        raise
    with results.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    mark.write_text("done")
    print(f"{time.strftime('%H:%M:%S')} {name} {rows[0]}", file=sys.stderr, flush=True)


def jobs() -> list[tuple[str, int, float]]:
    """(strategy, seed, fraction) of every training run, the most telling first."""
    core = [(name, seed, fraction) for fraction in FRACTIONS for name in EVERYWHERE for seed in SEEDS]
    return core + [(name, seed, FRACTIONS[0]) for name in OTHERS for seed in SEEDS]


def main(work: Path, only: tuple[str, ...] = ORDER) -> None:
    quiet_libraries()
    (work / "claims").mkdir(parents=True, exist_ok=True)
    for strategy, seed, fraction in jobs():
        if strategy not in only:
            continue
        name = f"{strategy}-s{seed}"
        claim(work, f"select-{name}", partial(select, work, strategy, seed), work / "picks.jsonl")
        while not (work / "claims" / f"select-{name}").read_text():
            time.sleep(1)  # another process is at it
        job = partial(train, work, strategy, seed, fraction)
        claim(work, f"train-{name}-f{fraction}", job, work / "runs.jsonl")


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or ORDER)
