"""Configurations that must train identically do."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conftest import conversation
from sagetune.batching import BatchLoader
from sagetune.config import AdapterConfig, DataConfig, ModelConfig, OptimConfig, RunConfig
from sagetune.modules.sft import SFTModule
from sagetune.modules.stepping import NonFiniteError
from sagetune.trainer import AgentSFTTrainer, TrainingResult

MakeRun = Callable[..., RunConfig]
FLOAT32 = ModelConfig(dtype="float32")


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "conversations.jsonl"
    rows = [{"messages": s["messages"], "tools": s["tools"]} for s in map(conversation, range(24))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def weights(run: RunConfig) -> tuple[dict[str, Tensor], TrainingResult]:
    """The trained tensors after one epoch."""
    result = AgentSFTTrainer(run).train()
    return load_file(Path(result.model_dir) / "adapter_model.safetensors"), result


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.usefixtures("one_thread")
def test_batch_8_equals_batch_1_accumulated_8_with_ragged_lengths(make_run: MakeRun, data: str) -> None:
    common = {"train_data": data, "model": FLOAT32}
    whole, one = weights(make_run(batch_size=8, gradient_accumulation_steps=1, **common))
    parts, eight = weights(make_run(batch_size=1, gradient_accumulation_steps=8, **common))
    assert (one.steps, eight.steps) == (3, 3)
    assert one.final_loss == pytest.approx(eight.final_loss, abs=1e-5)
    assert largest_difference(whole, parts) < 1e-5


@pytest.mark.usefixtures("one_thread")
def test_padding_free_rows_equal_padded_batches(make_run: MakeRun, data: str) -> None:
    free, _ = weights(make_run(train_data=data, model=FLOAT32, batch_size=4))
    padded, _ = weights(make_run(train_data=data, model=ModelConfig(dtype="float32", attention="sdpa"), batch_size=4))
    assert largest_difference(free, padded) < 1e-5


@pytest.mark.usefixtures("one_thread")
def test_sorting_by_length_changes_only_who_meets_in_a_step(make_run: MakeRun, data: str) -> None:
    """With one step an epoch, buckets hold the same samples as no buckets."""
    common = {"train_data": data, "model": FLOAT32, "batch_size": 6, "gradient_accumulation_steps": 4}
    plain, _ = weights(make_run(**common))
    bucketed, _ = weights(make_run(data=DataConfig(bucket_steps=5), **common))
    assert largest_difference(plain, bucketed) < 1e-5


def test_lora_plus_with_ratio_1_is_lora_bit_for_bit(make_run: MakeRun, data: str) -> None:
    common = {"train_data": data, "model": FLOAT32, "batch_size": 4, "optim": OptimConfig(weight_decay=0.1)}
    lora, _ = weights(make_run(**common))
    plus, _ = weights(make_run(use_lora_plus=True, lora_plus_lr_ratio=1.0, **common))
    assert largest_difference(lora, plus) == 0
    ratio, _ = weights(make_run(use_lora_plus=True, lora_plus_lr_ratio=16.0, **common))
    assert largest_difference(lora, ratio) > 1e-3


def test_the_same_seed_repeats_bit_for_bit_and_another_does_not(make_run: MakeRun, data: str) -> None:
    common = {"train_data": data, "model": FLOAT32, "batch_size": 4, "adapter": AdapterConfig(dropout=0.1)}
    first, _ = weights(make_run(**common))
    second, _ = weights(make_run(**common))
    assert largest_difference(first, second) == 0
    run = make_run(**common)
    run.seed = 1
    assert largest_difference(first, weights(run)[0]) > 0


@pytest.mark.parametrize("method", [{}, {"use_dora": True}, {"use_lora_plus": True}, {"use_lora": False}])
def test_every_trainable_tensor_moves(method: dict[str, Any], make_run: MakeRun, data: str) -> None:
    trainer = AgentSFTTrainer(make_run(train_data=data, model=FLOAT32, batch_size=4, **method))
    before = {}
    make = trainer.trainable_model

    def remember() -> Any:
        model = make()
        before.update({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
        return model

    trainer.trainable_model = remember  # type: ignore[method-assign]
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert before
    assert not [name for name, old in before.items() if torch.equal(old, after[name].detach().cpu())]


@pytest.mark.parametrize("method", [{}, {"use_dora": True}, {"use_lora": False}])
def test_a_saved_model_loads_with_the_same_logits(method: dict[str, Any], make_run: MakeRun, data: str) -> None:
    trainer = AgentSFTTrainer(make_run(train_data=data, model=FLOAT32, batch_size=4, **method))
    result = trainer.train()
    ids = torch.arange(30)[None]
    trained = trainer.model.eval()(input_ids=ids, cu_seq_lens_q=torch.tensor([0, 30])).logits
    fresh = AgentSFTTrainer(trainer.run)
    fresh.load_model(result.model_dir)
    loaded = fresh.model.eval()(input_ids=ids, cu_seq_lens_q=torch.tensor([0, 30])).logits
    assert torch.equal(trained, loaded)
    assert fresh.evaluate(data) == trainer.evaluate(data)


def test_a_loss_that_is_not_finite_stops_before_a_weight_moves_and_names_the_sample(
    make_run: MakeRun, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = AgentSFTTrainer(make_run(train_data=data, model=FLOAT32, batch_size=4))
    poisoned = "conversations:7"
    make = trainer.trainable_model
    seen: dict[str, Tensor] = {}

    def watch() -> Any:
        model = make()
        seen.update({name: p for name, p in model.named_parameters() if p.requires_grad})
        return model

    step = SFTModule.training_step

    def poison(module: SFTModule, batch: Any, index: int) -> Tensor:
        if poisoned in [module.sample_ids[i] for i in batch["sample_index"].tolist()]:
            row = [module.sample_ids[i] for i in batch["sample_index"].tolist()].index(poisoned)
            batch["loss_weights"] = (batch["labels"] != -100).float()
            batch["loss_weights"][row] *= float("nan")
            seen["before"] = torch.cat([p.detach().flatten().clone() for n, p in seen.items() if n != "before"])
        return step(module, batch, index)

    monkeypatch.setattr(trainer, "trainable_model", watch)
    monkeypatch.setattr(SFTModule, "training_step", poison)
    with pytest.raises(NonFiniteError, match=rf"no weight was changed.*Samples: {poisoned}\b"):
        trainer.train()
    before = seen.pop("before")
    assert torch.equal(before, torch.cat([p.detach().flatten() for p in seen.values()]))


@pytest.mark.thorough
def test_two_processes_train_like_one(make_run: MakeRun, data: str, tmp_path: Path) -> None:
    """Two gloo ranks of batch 3 sum the loss over the same steps as one process of batch 6."""
    alone, _ = weights(make_run(train_data=data, model=FLOAT32, batch_size=6, gradient_accumulation_steps=2))
    run = make_run(train_data=data, model=FLOAT32, batch_size=3, gradient_accumulation_steps=2)
    out = tmp_path / "rank0.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_rank, args=(run, str(out), port), nprocs=2)
    both = torch.load(out, weights_only=True)
    names = {name.replace(".default", ""): tensor for name, tensor in both.items()}
    assert (
        largest_difference(alone, {f"base_model.model.{n.split('base_model.model.')[1]}": t for n, t in names.items()})
        < 1e-5
    )


def train_rank(rank: int, run: RunConfig, out: str, port: int) -> None:
    """One of two processes: our module and loader under Lightning's DDP."""
    import os

    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", LOCAL_RANK=str(rank), RANK=str(rank)
    )
    torch.set_num_threads(1)
    trainer = AgentSFTTrainer(run)
    samples = trainer.data.load(run.sft.train_data, None, use="train")
    loader = BatchLoader(
        samples,
        batch_size=run.sft.batch_size,
        accumulate=run.sft.gradient_accumulation_steps,
        pad_token_id=trainer.tokenizer.pad_token_id,
        seed=run.seed,
        rank=rank,
        world_size=2,
    )
    module = SFTModule(trainer.trainable_model(), run, task_steps=[2], sample_ids=[s.sample_id for s in samples])
    strategy = lightning.pytorch.strategies.DDPStrategy(process_group_backend="gloo")
    lightning.Trainer(
        **{"accelerator": "cpu", "devices": 2, "strategy": strategy, "max_steps": 2, "logger": False},
        **{"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
        accumulate_grad_batches=run.sft.gradient_accumulation_steps,
        use_distributed_sampler=False,
    ).fit(module, loader)
    if rank == 0:
        torch.save({name: p.detach() for name, p in module.trained_parameters().items()}, out)
