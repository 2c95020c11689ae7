"""Run folders as runs leave them, small and made to measure: what a comparison reads, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sagetune import status
from sagetune.comparison.comparison import Comparison
from sagetune.comparison.wording import Evidence
from sagetune.config import AgentSFTConfig, MethodInfo, RunConfig
from sagetune.evaluation.scoring.intervals import wilson
from sagetune.files import write_json
from sagetune.runfolder import RunFolder

BASELINE = MethodInfo(id="A_baseline", name="Baseline")
DORA = MethodInfo(id="G_dora", name="DoRA", source="arXiv:2402.09353")
RATES = ("exact_match", "name_accuracy", "argument_accuracy", "decision_accuracy", "parse_failure_rate")


def start_run(parent: Path, method: MethodInfo, seed: int, name: str | None = None, **sft: Any) -> RunFolder:
    """A run that has begun: its folder with config.yaml alone. sft: fields of the training configuration."""
    config = AgentSFTConfig("tiny", "agent_sft:train", output_dir=parent, **sft)
    return RunFolder.create(RunConfig(sft=config, method=method, seed=seed, run_name=name or f"{method.id}-s{seed}"))


def write_run(
    parent: Path,
    method: MethodInfo,
    seed: int,
    *,
    loss: float = 1.0,
    right: Sequence[int] = (),
    capabilities: dict[str, Sequence[float]] | None = None,
    chance: float | None = None,
    time: str = "2026-11-26T10:00:00+00:00",
    commit: str = "abc",
    seconds: float = 10.0,
    name: str | None = None,
    found_rate: float | None = None,
    searched: dict[float, float] | None = None,
    items: str = "a",
    num_tokens: int = 300,
    **sft: Any,
) -> RunFolder:
    """A finished run. right: 1 or 0 for each action; capabilities: name -> the score of each item; found_rate: the
    learning rate that a search chose; searched: rate -> its loss; items: what ids and prompts of actions begin with."""
    folder = start_run(parent, method, seed, name, **sft)
    actions = [action(place, bool(score), items) for place, score in enumerate(right)]
    scores = {key: capability(key, values, chance) for key, values in (capabilities or {}).items()}
    after = measured(loss, actions, scores, num_tokens)
    write_json(folder.after, after)
    told = result(method, seed, seconds, measured(2 * loss, [], {}), without_items(after))
    if searched:
        tried = [
            {"learning_rate": rate, "loss": tried, "seconds": 1.0, "tokens": 50} for rate, tried in searched.items()
        ]
        told["search"] = {"steps": 20, "tried": tried, "chosen": min(searched, key=searched.__getitem__)}
    write_json(folder.result, told | {"learning_rate": found_rate or read_rate(folder)})
    write_json(
        folder.environment, {"time": time, "git": {"commit": commit, "dirty": False}, "versions": {"torch": "2"}}
    )
    rows = [{"step": step, "train/loss": loss + 1 / step} for step in (1, 2, 3)]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rewrite_config(folder: RunFolder, **fields: Any) -> None:
    """Set fields of config.yaml by their dotted names, with __ for the dot; None takes the field out."""
    config = OmegaConf.to_container(OmegaConf.load(folder.config))
    for name, value in fields.items():
        *groups, last = name.split("__")
        inner: Any = config
        for group in groups:
            inner = inner[group]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    folder.config.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))


def tell(folder: RunFolder, stands: str, reason: str | None, command: str = "", exit_code: int | None = None) -> None:
    """Leave the status.json of a run that is not done."""
    command, started = command or status.command_of(folder), "2026-11-26T10:00:00+00:00"
    found = status.Status(status=stands, reason=reason, command=command, started=started, pid=7, exit_code=exit_code)
    write_json(folder.status, dataclasses.asdict(found))


def evidence_of(found: Comparison, variant: str, key: str) -> Evidence:
    return next(v.evidence for v in found.verdicts if (v.evidence.variant, v.figure.key) == (variant, key))


def read_rate(folder: RunFolder) -> float:
    """The learning rate of the configuration."""
    rate: float = OmegaConf.load(folder.config).sft.learning_rate
    return rate


def result(method: MethodInfo, seed: int, seconds: float, before: Any, after: Any) -> dict[str, Any]:
    """The content of result.json that tables are made of."""
    return {
        "status": "done",
        "method": dataclasses.asdict(method),
        "seed": seed,
        **{"steps": 3, "tokens": 900, "supervised_tokens": 300, "seconds": seconds, "final_loss": 1.0},
        **{"trainable_parameters": 64, "peak_memory_mb": 500.0},
        **{"before": before, "after": after},
        "baselines": {"chance": 0.2, "trivial": 0.25} if after["actions"] else None,
        "costs": {"train": seconds, "select": 2.0, "after_tokens": 1.0},
        **{
            "selection": {"seconds": 2.0, "forward_tokens": 70, "reused_tokens": 30},
            "replay": None,
            "trajectories": None,
            "search": None,
            "data": {"eval": {"hash": "e"}},
        },
    }


def measured(
    loss: float, actions: list[dict[str, Any]], scores: dict[str, Any], num_tokens: int = 300
) -> dict[str, Any]:
    """What after.json holds, with every item."""
    right = sum(row["exact_match"] for row in actions)
    rate = dataclasses.asdict(wilson(right, len(actions)))
    rates = {name: rate for name in RATES}
    tokens = {"loss": loss, "accuracy": 0.5, "exact_match": 0.25, "num_turns": 20, "num_tokens": num_tokens}
    found: dict[str, Any] = {"tokens": tokens, "actions": {"n": len(actions), **rates, "items": actions}}
    if not actions:
        found["actions"] = None
    if scores:
        found["capabilities"] = {"scores": scores, "overall": sum(s["score"] for s in scores.values()) / len(scores)}
    return found


def action(place: int, right: bool, items: str = "a") -> dict[str, Any]:
    """One decision point."""
    verdicts = {name: right for name in ("exact_match", "name_correct", "arguments_correct")}
    return {
        **{"id": f"{items}{place}", "prompt": f"{items} p{place}", "gold": "g", "gold_calls": 1},
        **verdicts,
        **{"parse_failure": not right, "abstained": False},
    }


def capability(name: str, values: Sequence[float], chance: float | None) -> dict[str, Any]:
    """One capability with its items."""
    rows = [{"id": f"{name}{place}", "prompt": "p", "gold": "g", "score": score} for place, score in enumerate(values)]
    hashes = {"prompts": f"{len(rows)}", "data": "d", "decoding": "c"}
    details = {"interval": [0.0, 1.0], "chance": chance, "hashes": hashes, "items": rows}
    return {"capability": name, "score": sum(values) / len(values), "num_samples": len(rows), "details": details}


def without_items(found: dict[str, Any]) -> dict[str, Any]:
    """As result.json has it: figures without their items."""
    short = json.loads(json.dumps(found))
    if short["actions"]:
        del short["actions"]["items"]
    for score in short.get("capabilities", {"scores": {}})["scores"].values():
        del score["details"]["items"]
    return short
