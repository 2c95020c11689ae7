"""Small real things that many tests share: ragged conversations and a quick run configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command sets it; read when torch is imported

import pytest
import torch
import wandb
from hypothesis import settings

from sagetune.config import AgentSFTConfig, BudgetConfig, EvaluationConfig, RunConfig, TrainerConfig, WandbConfig
from sagetune.sample import Message, Sample

settings.register_profile("any_machine", deadline=None)  # how fast a property holds is not what a test asks
settings.load_profile("any_machine")


LONG = ("test_resume.py", "test_readme.py", "test_cli.py", "test_generation.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests stand first in the part of the list that each worker gets: none ends with them."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.path.name in LONG]
    short = [item for item in items if item.path.name not in LONG]
    starts = [len(short) * part // workers for part in range(workers + 1)]
    items[:] = [i for part in range(workers) for i in (*long[part::workers], *short[starts[part] : starts[part + 1]])]


def conversation(index: int) -> Sample:
    """A conversation whose length, number of turns and tool calls follow from `index`."""
    messages: list[Message] = [{"role": "user", "content": "add " + "one and " * (index % 7) + str(index)}]
    if index % 3 == 0:
        call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"terms": [index, [1]]}}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})  # type: ignore[typeddict-item]
        messages.append({"role": "tool", "content": f'{{"sum": {index + 1}}}', "tool_call_id": "call_1", "name": "add"})
    messages.append({"role": "assistant", "content": "It is " + "é" * (index % 5) + str(index + 1) + "."})
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    return {"id": f"c{index}", "messages": messages, "tools": [tool], "task": "", "source": "test", "meta": {}}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunConfig]:
    """RunConfig for the tiny model on the CPU; keyword arguments set fields of `sft`, groups are given whole."""

    def make(**given: Any) -> RunConfig:
        groups = {name: given.pop(name) for name in ("model", "adapter", "optim", "budget", "data") if name in given}
        sft = {"base_model": "embedded:tiny", "train_data": "agent_sft:train", "learning_rate": 1e-2, "num_epochs": 1}
        return RunConfig(
            sft=AgentSFTConfig(**(sft | {"output_dir": tmp_path, "lora_r": 4} | given)),
            evaluation=EvaluationConfig(data=None),
            trainer=TrainerConfig(accelerator="cpu"),
            wandb=WandbConfig(mode="disabled"),
            **({"budget": BudgetConfig(train_samples=None)} | groups),
        )

    return make


@pytest.fixture
def no_wandb_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B as if nothing was set and nothing had run in this process: it reads the environment once."""
    wandb.teardown()  # else its helper's address would be put back into the environment after the helper has ended
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    yield
    wandb.teardown()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Comparisons of small differences want one order of summation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
