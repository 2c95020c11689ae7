"""What preferences and rewards add to imitation: DPO, GRPO and PPO from one supervised checkpoint.

    python study.py <work folder>      run as many of these side by side as there are cores

For each seed SmolLM2-135M-Instruct first imitates a hundred tool calls of the embedded world. From there go on:
DPO on pairs of a success and a failure among the checkpoint's own attempts at other tasks; GRPO and PPO by acting on
those tasks, rewarded by the world's checker; and, as a control, imitation of the expert on the same tasks. Every run
measures held-out tasks before and after. Processes share the jobs by files in the work folder; a killed study goes on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from jobs import claim, is_done, sagetune, train

SEEDS = (0, 1, 2)
IMITATED = ("data.seed=0", "budget.train_samples=100")
"""What is imitated first."""
TASKS = ("data.seed=1", "budget.train_samples=64")
"""Other tasks, which all then learn from."""
ATTEMPTS = 6
UPDATES = 8
HELD_OUT = 48
COMMON = (
    *("trainer=cpu", "model=smollm2_135m", "sft.max_seq_length=768", "sft.eval_data=null"),
    *("evaluation.data=null", f"evaluation.samples={HELD_OUT}", "evaluation.max_new_tokens=64"),
    *("+evaluation.capabilities.tool_use=agent_benchmark:tool_selection:test", "evaluation.batch_size=32"),
)
ACTING = ("rollout.max_new_tokens=64", "rollout.max_turns=3", "rollout.tasks=4", f"rollout.samples={ATTEMPTS}")
REWARDED = (
    *ACTING,
    *("sft.batch_size=6", "sft.gradient_accumulation_steps=4", "sft.learning_rate=3e-4", "optim.lr_schedule=constant"),
)
IMITATING = ("sft.batch_size=4", "sft.gradient_accumulation_steps=1", "sft.num_epochs=1", "budget.max_steps=null")
VARIANTS: dict[str, list[str]] = {
    "imitation": [*IMITATING, "sft.learning_rate=3e-4"],
    "dpo": [
        *("objective=dpo", "rl.kl_coef=0.1", "sft.learning_rate=1e-4", "sft.num_epochs=2", "budget.max_steps=null"),
        *("sft.batch_size=2", "sft.gradient_accumulation_steps=4"),
    ],
    "grpo": ["objective=grpo", *REWARDED, f"budget.max_steps={UPDATES}", "grpo.epsilon_high=0.28"],
    "ppo": ["objective=ppo", *REWARDED, f"budget.max_steps={2 * UPDATES}", "ppo.epochs=2", "rl.kl_coef=0.02"],
}


def name_of(variant: str, seed: int) -> str:
    return f"{variant}-s{seed}"


def start(folder: Path, seed: int) -> None:
    """The supervised checkpoint, and the pairs among its own attempts."""
    train(folder, *COMMON, "data=tool_selection", *IMITATED, *IMITATING, "sft.learning_rate=1e-3", f"seed={seed}")
    attempts = (
        *("trajectories=local", f"trajectories.agent.model={folder}/run/adapter", "trajectories.agent.temperature=1"),
        *("trajectories.agent.max_new_tokens=64", f"trajectories.collector.attempts={ATTEMPTS}"),
        *("trajectories.collector.max_steps=3", "trajectories.collector.methods=[plain]"),
        *("trajectories.collector.bad_replies=0", f"trajectories.collector.seed={seed}", "evaluation.batch_size=32"),
    )
    written = (f"output={folder}/attempts.jsonl", f"pairs={folder}/pairs.jsonl")
    given = ("trainer=cpu", "model=smollm2_135m", "data=tool_selection", *TASKS)
    sagetune(folder / "log.txt", "collect", *given, *attempts, *written)


def go_on(work: Path, variant: str, seed: int, folder: Path) -> None:
    first = work / name_of("start", seed)
    while not is_done(work, first.name):
        time.sleep(5)  # another process trains it
    pairs = ("data=file", f"sft.train_data={first}/pairs.jsonl", "budget.train_samples=null")
    data = pairs if variant == "dpo" else ("data=tool_selection", *TASKS)
    train(folder, *data, *COMMON, f"adapter.start_from={first}/run", f"seed={seed}", *VARIANTS[variant])


def main(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        claim(work, name_of("start", seed), lambda folder, seed=seed: start(folder, seed))
        for variant in VARIANTS:
            name = name_of(variant, seed)
            claim(work, name, lambda folder, variant=variant, seed=seed: go_on(work, variant, seed, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
