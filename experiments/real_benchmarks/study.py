"""What fine-tuning on this world, or on real data, does to figures on published benchmarks.

    NLTK_DATA=<folder with punkt_tab> python study.py <work folder>     one process a core

SmolLM2-135M-Instruct untouched; tuned on the embedded world; tuned on Seal-Tools, MetaTool (four tools in five) and
GSM8K's training set, for as many steps as make the same tokens. Each is evaluated on BFCL, MetaTool's other tools,
GSM8K's test set and IFEval by what it writes, and where replies are given to choose from also by which it finds
likeliest. Processes share the jobs; a killed study goes on. table.py makes the tables and the plot.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from jobs import DATA, claim, mean_tokens, sagetune, train, write_lines

SEEDS = (0,)
TOKENS, BATCH, LENGTH = 48_000, 4, 1024
ITEMS = 60
"""Items of each benchmark."""
HELD_OUT = 0.2
"""Share of MetaTool's tools that nothing is trained on."""
PER_TOOL = {"train": 3, "held_out": 2}
GSM8K_TRAIN = 400
BFCL = DATA / "bfcl_v4"
COMMON = ("trainer=cpu", "model=smollm2_135m")
DECODING = (f"evaluation.samples={ITEMS}", "evaluation.max_new_tokens=160", "evaluation.batch_size=20")
CAPABILITIES = ("tool_use", "planning", "reasoning", "instruction_following", "timing", "tool_selection")
Record = dict[str, Any]


def prepare(work: Path) -> dict[str, Path]:
    """The files that are trained and measured on, made once: the same for every process."""
    paths = {name: work / f"{name}.jsonl" for name in ("metatool_train", "metatool_held_out", "timing", "gsm8k_train")}
    if not all(path.is_file() for path in paths.values()):
        for name, records in {**metatool(), "timing": timing(), "gsm8k_train": gsm8k()}.items():
            write_lines(paths[name], records)
    return paths


def metatool() -> dict[str, list[Record]]:
    """Queries of each tool, the tools split at random; each query with its tool among ten of all."""
    from sagetune.formats import to_openai
    from sagetune.sources import load

    by_tool: dict[str, list[Record]] = {}
    for sample in load(str(DATA / "metatool" / "all_clean_data.csv"), num_samples=None).samples:
        called = sample["messages"][-1]["tool_calls"][0]["function"]["name"]
        by_tool.setdefault(called, []).append(to_openai(sample))
    chance = random.Random(0)
    tools = sorted(by_tool)
    chance.shuffle(tools)
    held_out = tools[: round(HELD_OUT * len(tools))]
    found: dict[str, list[Record]] = {"metatool_held_out": [], "metatool_train": []}
    for tool in tools:
        name = "held_out" if tool in held_out else "train"
        found[f"metatool_{name}"] += chance.sample(by_tool[tool], min(PER_TOOL[name], len(by_tool[tool])))
    for records in found.values():
        chance.shuffle(records)
    return found


def timing() -> list[Record]:
    """Of BFCL, as many items where a call is right as where none is, in turn."""
    from sagetune.formats import to_openai
    from sagetune.sources import load

    halves = [
        load(str(BFCL / f"BFCL_v4_{name}.json"), num_samples=ITEMS + ITEMS // 2).samples[-ITEMS // 2 :]
        for name in ("simple_python", "irrelevance")
    ]
    return [to_openai(sample) for pair in zip(*halves, strict=True) for sample in pair]


def gsm8k() -> list[Record]:
    """Questions of the training set, asked as those of the test set are."""
    from sagetune.capability.items import gsm8k_item

    records = []
    for number, line in enumerate((DATA / "gsm8k" / "train.jsonl").read_text().splitlines()[:GSM8K_TRAIN]):
        row = json.loads(line)
        asked = gsm8k_item(row, str(number)).task.instruction
        turns = (("user", asked), ("assistant", row["answer"]))
        records.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    return records


def sources(kind: str, paths: dict[str, Path]) -> dict[str, str]:
    if kind == "world":
        families = ("tool_selection", "planning", "timing", "general")
        return {family: f"agent_benchmark:{family}:train" for family in families}
    files = {"seal_tools": DATA / "seal_tools" / "dev.jsonl", "metatool": paths["metatool_train"]}
    return {name: str(path) for name, path in (files | {"gsm8k": paths["gsm8k_train"]}).items()}


def job(work: Path, kind: str, seed: int, folder: Path) -> None:
    from sagetune.sources import load

    places = sources(kind, prepare(work))
    samples = {name: load(reference, num_samples=100).samples for name, reference in places.items()}
    mean = sum(mean_tokens(some, LENGTH) for some in samples.values()) / len(samples)
    steps = round(TOKENS / (BATCH * mean))
    (folder / "study.json").write_text(json.dumps({"variant": kind, "seed": seed, "steps": steps}))
    weights = ",".join(f"{name}:1" for name in places)
    named = ",".join(f"{name}:'{reference}'" for name, reference in places.items())
    train(
        folder,
        *COMMON,
        *("mixture=own", f"+mixture.weights={{{weights}}}", f"+mixture.sources={{{named}}}", f"seed={seed}"),
        *(f"budget.train_samples={steps * BATCH}", "budget.max_steps=null", "sft.num_epochs=1", "sft.eval_data=null"),
        *(f"sft.batch_size={BATCH}", "sft.gradient_accumulation_steps=1", f"sft.max_seq_length={LENGTH}"),
        *("sft.learning_rate=1e-3", "evaluation.data=null"),
    )
    measure(work, folder, f"agent.model={folder}/run/adapter")


def measure(work: Path, folder: Path, *model: str) -> None:
    paths = prepare(work)
    multiple = BFCL / "BFCL_v4_multiple.json"
    simple = {"tool_use": BFCL / "BFCL_v4_simple_python.json", "timing": paths["timing"]}
    simple |= {"reasoning": f"gsm8k:{DATA}/gsm8k/test.jsonl", "tool_selection": paths["metatool_held_out"]}
    simple |= {"instruction_following": f"ifeval:{DATA}/ifeval/input_data.jsonl"}
    evaluate(folder, "written", simple, *model)
    evaluate(folder, "written_multiple", {"tool_use": multiple, "tool_selection": multiple}, *model)
    for name, data in (("likely", paths["metatool_held_out"]), ("likely_multiple", multiple)):
        evaluate(folder, name, {"tool_selection": data}, "evaluation.how=likelihood", *model)


def evaluate(folder: Path, name: str, asked: dict[str, Any], *options: str) -> None:
    others = [f"~evaluation.capabilities.{one}" for one in CAPABILITIES if one not in asked]
    wanted = [f"evaluation.capabilities.{one}='{data}'" for one, data in asked.items()]
    suite = ("evaluation=real", f"evaluation.folder={DATA}", f"output={folder}/{name}")
    sagetune(folder / "log.txt", "evaluate", *COMMON, *DECODING, *suite, *others, *wanted, *options)


def main(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    claim(work, "untouched", lambda folder: measure(work, folder))
    for seed in SEEDS:
        for kind in ("world", "real"):
            claim(work, f"{kind}-s{seed}", lambda folder, kind=kind, seed=seed: job(work, kind, seed, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
