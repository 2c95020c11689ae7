"""Does general data in the mixture keep general ability while the model learns to act? AgentTuning's claim.

    NLTK_DATA=<folder with punkt_tab> python study.py <work folder>     one process a core

Each job trains on a mixture of the embedded world's agent and general tasks for as many steps as make the same tokens,
then evaluates the trained model on held-out tasks, on IFEval, and by the loss on texts of GSM8K and self-instruct that
it never sees. Processes share the jobs; a killed study goes on. table.py makes the tables and the plot.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from jobs import DATA, claim, mean_tokens, sagetune, train, write_lines

SEEDS = (0, 1, 2)
TOKENS, BATCH, LENGTH = 24_000, 4, 1024
ETAS = {"agent only": 1.0, "eta 0.5": 0.5, "eta 0.2": 0.2, "eta 0.1": 0.1, "general only": 0.0}
AGENT = {"tool_selection": 0.35, "planning": 0.30, "timing": 0.20}
"""Their proportions are the reference's."""
TEXTS = 24
"""Texts of GSM8K's test set, and of self-instruct, whose loss is measured."""
COMMON = ("trainer=cpu", "model=smollm2_135m")
WORLD = ("evaluation=world", "evaluation.samples=24", "evaluation.max_new_tokens=96", "evaluation.max_turns=6")
PLANS = 8
"""Tasks of planning: up to six turns each, and few models of this size solve any."""
IFEVAL = ("evaluation=real", "evaluation.samples=24", "evaluation.max_new_tokens=128")


def general_texts(work: Path) -> Path:
    """Questions and answers that a general assistant should find likely; made once."""
    path = work / "general_texts.jsonl"
    if not path.is_file():
        gsm8k = [json.loads(line) for line in (DATA / "gsm8k" / "test.jsonl").read_text().splitlines()[:TEXTS]]
        asked = (DATA / "self_instruct" / "user_oriented_instructions.jsonl").read_text().splitlines()[:TEXTS]
        pairs = [(row["question"], row["answer"]) for row in gsm8k]
        for line in asked:
            row = json.loads(line)
            case = row["instances"][0]
            pairs.append(("\n\n".join(filter(None, (row["instruction"], case["input"]))), case["output"]))
        roles = ("user", "assistant")
        records = [{"messages": [{"role": r, "content": c} for r, c in zip(roles, p, strict=True)]} for p in pairs]
        write_lines(path, records)
    return path


def plans(work: Path) -> Path:
    """Held-out tasks of planning; made once."""
    from sagetune import world
    from sagetune.formats import to_openai

    path = work / "plans.jsonl"
    if not path.is_file():
        write_lines(path, [to_openai(sample) for sample in world.generate("planning", "test", PLANS)])
    return path


def steps_for(eta: float, seed: int) -> int:
    """Optimiser steps that make TOKENS tokens."""
    from sagetune import world

    parts = {task: eta * weight / sum(AGENT.values()) for task, weight in AGENT.items()} | {"general": 1 - eta}
    means = {task: mean_tokens(world.generate(task, "train", 60, seed), LENGTH) for task, part in parts.items() if part}
    mean = sum(parts[task] * means[task] for task in means)
    return round(TOKENS / (BATCH * mean))


def job(work: Path, variant: str, seed: int, folder: Path) -> None:
    steps = steps_for(ETAS[variant], seed)
    (folder / "study.json").write_text(json.dumps({"variant": variant, "seed": seed, "steps": steps}))
    train(
        folder,
        *COMMON,
        *("mixture=agenttuning_eta", f"mixture.eta={ETAS[variant]}", f"seed={seed}", f"data.seed={seed}"),
        *(f"budget.train_samples={steps * BATCH}", "budget.max_steps=null", "sft.num_epochs=1", "evaluation.data=null"),
        *(f"sft.batch_size={BATCH}", "sft.gradient_accumulation_steps=1", f"sft.max_seq_length={LENGTH}"),
        *("sft.learning_rate=1e-3", f"sft.eval_data={general_texts(work)}", "budget.eval_samples=null"),
    )
    measure(work, folder, f"agent.model={folder}/run/adapter")


def measure(work: Path, folder: Path, *model: str) -> None:
    log = folder / "log.txt"
    # The tools that are selected are those of tool_use: the same tasks, the same answers.
    asked = ("~evaluation.capabilities.tool_selection", f"evaluation.capabilities.planning={plans(work)}")
    sagetune(log, "evaluate", *COMMON, *WORLD, "evaluation.batch_size=32", *asked, *model, f"output={folder}/world")
    others = ("tool_use", "planning", "reasoning", "timing", "tool_selection")
    only = [f"~evaluation.capabilities.{name}" for name in others]
    place = (f"evaluation.folder={DATA}", f"output={folder}/ifeval")
    sagetune(log, "evaluate", *COMMON, *IFEVAL, *only, *model, *place)


def main(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    claim(work, "untouched", lambda folder: measure(work, folder))
    for seed in SEEDS:
        for variant in ETAS:
            name = f"{variant.replace(' ', '-')}-s{seed}"
            claim(work, name, lambda folder, variant=variant, seed=seed: job(work, variant, seed, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
