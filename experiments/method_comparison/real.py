"""The same comparison on real data: Seal-Tools and MetaTool, of which a part of the tools is held out.

    python real.py <work folder>

Writes the data into the work folder, then runs one sweep: nine methods, three seeds, two jobs at a time. FireAct needs
something to act in, which these data have not. AgentTuning's general part is GSM8K's training set. A stopped sweep goes
on when the command is given again.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from jobs import DATA, write_lines

HELD_OUT = 0.2
"""Share of MetaTool's tools that nothing is trained on."""
PER_TOOL = 3
"""Queries of each tool."""
SEAL_TOOLS = {"train": 120, "dev": 8, "test": 100}
"""Records of dev.jsonl for train and dev, of test_in_domain.jsonl for test."""
METATOOL = {"train": 120, "dev": 8, "test": 100}
OFFERED = 5
"""Tools of a record, of the ten that the reader offers with it: prompts of half the length."""
GENERAL = 200
Record = dict[str, Any]


def prepare(work: Path) -> dict[str, Path]:
    """The files of the study, made once."""
    names = ("train", "dev", "seal_tools", "metatool", "seal_tools_test", "metatool_test", "general")
    paths = {name: work / f"{name}.jsonl" for name in names}
    if not all(path.is_file() for path in paths.values()):
        seal, meta = seal_tools(), metatool()
        mixed = {split: in_turn(seal[split], meta[split]) for split in ("train", "dev")}
        parts = {"seal_tools": seal["train"], "metatool": meta["train"], "general": gsm8k()}
        for name, records in (mixed | parts | {"seal_tools_test": seal["test"], "metatool_test": meta["test"]}).items():
            write_lines(paths[name], records)
    return paths


def seal_tools() -> dict[str, list[Record]]:
    """Records by split."""
    dev = conversations("seal_tools/dev.jsonl", "seal_tools", SEAL_TOOLS["train"] + SEAL_TOOLS["dev"])
    test = conversations("seal_tools/test_in_domain.jsonl", "seal_tools", SEAL_TOOLS["test"])
    return {"train": dev[: SEAL_TOOLS["train"]], "dev": dev[SEAL_TOOLS["train"] :], "test": test}


def metatool() -> dict[str, list[Record]]:
    """Queries by split, the tools split at random."""
    by_tool: dict[str, list[Record]] = {}
    for record in conversations("metatool/all_clean_data.csv", "metatool", None):
        by_tool.setdefault(record["messages"][-1]["tool_calls"][0]["function"]["name"], []).append(record)
    chance = random.Random(0)
    tools = sorted(by_tool)
    chance.shuffle(tools)
    num_held_out = round(HELD_OUT * len(tools))
    drawn = [chance.sample(by_tool[tool], min(PER_TOOL, len(by_tool[tool]))) for tool in tools]
    held_out, known = ([*chain(*part)] for part in (drawn[:num_held_out], drawn[num_held_out:]))
    for records in (held_out, known):
        chance.shuffle(records)
    dev = known[METATOOL["train"] :][: METATOOL["dev"]]
    return {"train": known[: METATOOL["train"]], "dev": dev, "test": held_out[: METATOOL["test"]]}


def gsm8k() -> list[Record]:
    rows = (json.loads(line) for line in (DATA / "gsm8k" / "train.jsonl").read_text().splitlines()[:GENERAL])
    turns = (({"role": "user", "content": row["question"]}, row["answer"]) for row in rows)
    return [{"messages": [asked, {"role": "assistant", "content": answer}]} for asked, answer in turns]


def conversations(name: str, task: str, num: int | None) -> list[Record]:
    from sagetune.formats import to_openai
    from sagetune.sources import load

    samples = load(str(DATA / name), num_samples=num).samples
    chance = random.Random(0)
    return [to_openai(fewer_tools({**sample, "task": task}, chance)) for sample in samples]


def fewer_tools(sample: Any, chance: random.Random) -> Any:
    """The sample with the tools that it calls and others at random, up to OFFERED, in an order that tells nothing."""
    called = {call["function"]["name"] for call in sample["messages"][-1]["tool_calls"]}
    right = [tool for tool in sample["tools"] if tool["function"]["name"] in called]
    others = [tool for tool in sample["tools"] if tool["function"]["name"] not in called]
    offered = right + chance.sample(others, min(len(others), max(0, OFFERED - len(right))))
    chance.shuffle(offered)
    return {**sample, "tools": offered}


def in_turn(first: list[Record], second: list[Record]) -> list[Record]:
    return [record for pair in zip(first, second, strict=True) for record in pair]


def main(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    files = prepare(work)
    mixture = {"tool_selection": files["metatool"], "planning": files["seal_tools"], "general": files["general"]}
    overrides = [
        "-m",
        "experiment=method_comparison",
        "method=glob(*,exclude=fireact)",
        "data=file",
        f"sft.train_data={files['train']}",
        f"sft.eval_data={files['dev']}",
        *(f"++mixture.sources.{task}={path}" for task, path in mixture.items()),
        "++mixture.weights={tool_selection:0.35,planning:0.30,timing:0,general:0.15}",
        "budget.supervised_tokens=2000",
        "budget.search_steps=8",
        "sft.coreset_target_size=60",
        *(f"~evaluation.capabilities.{name}" for name in ("planning", "reasoning", "instruction_following", "timing")),
        f"evaluation.capabilities.tool_use={files['seal_tools_test']}",
        f"+evaluation.capabilities.tool_selection={files['metatool_test']}",
        f"sft.output_dir={work}",
        "sweep=real",
        "hydra.launcher.n_jobs=2",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    sys.exit(subprocess.run([sys.executable, "-m", "sagetune", "train", *overrides], env=environment).returncode)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
