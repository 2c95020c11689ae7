"""Coreset methods change what is trained on, as they say, and nothing where there is nothing to leave out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from sagetune.config import CONF_DIR, BudgetConfig, CoresetConfig, ModelConfig, RunConfig
from sagetune.files import write_json
from sagetune.modules.sft import SFTModule
from sagetune.modules.stepping import NonFiniteError
from sagetune.report import write_html
from sagetune.run import summarise
from sagetune.runfolder import RunFolder
from sagetune.selection.summary import SelectionFile
from sagetune.trainer import AgentSFTTrainer, TrainingResult
from wandb_offline import read_offline_run

MakeRun = Callable[..., RunConfig]
COMMON: dict[str, Any] = {
    "train_data": "agent_sft:train",
    "eval_data": "agent_sft:dev",
    "model": ModelConfig(dtype="float32"),
    "budget": BudgetConfig(train_samples=32, eval_samples=4),
    "batch_size": 4,
    "gradient_accumulation_steps": 1,
}
NO_CACHE = CoresetConfig(cache=False)


def trained(run: RunConfig) -> tuple[dict[str, Tensor], TrainingResult, list[dict[str, Any]]]:
    """The trained tensors, the result and the entries of selection.json."""
    result = AgentSFTTrainer(run).train()
    weights = load_file(Path(result.model_dir) / "adapter_model.safetensors")
    return weights, result, SelectionFile(RunFolder(Path(result.run_dir)).selection).entries()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def selecting(make_run: MakeRun, strategy: str, options: CoresetConfig = NO_CACHE, **given: Any) -> RunConfig:
    run = make_run(**COMMON | {"use_coreset_selection": True, "coreset_strategy": strategy} | given)
    run.coreset = options
    run.__post_init__()
    return run


@pytest.fixture
def baseline(make_run: MakeRun) -> dict[str, Tensor]:
    return trained(make_run(**COMMON))[0]


def test_the_three_methods_train_on_different_samples(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    step = SFTModule.training_step

    def watch(module: SFTModule, batch: Any, index: int) -> Tensor:
        served.extend(module.sample_ids[i] for i in batch["sample_index"].tolist())
        return step(module, batch, index)

    monkeypatch.setattr(SFTModule, "training_step", watch)
    chosen = {}
    for strategy in ("loss_topk", "diversity", "hybrid"):
        served.clear()
        _, result, (entry,) = trained(selecting(make_run, strategy, coreset_target_size=8))
        assert sorted(served) == sorted(entry["ids"]), "an epoch serves exactly what was selected"
        assert result.steps == 2
        chosen[strategy] = set(served)
    assert len(set(map(frozenset, chosen.values()))) == 3


def test_loss_topk_trains_on_the_highest_losses(make_run: MakeRun) -> None:
    run = selecting(make_run, "loss_topk", coreset_target_size=8)
    trainer = AgentSFTTrainer(run)
    pool = trainer.data.pool()
    losses = {sample["id"]: trainer.evaluate([sample]).loss for sample in pool.samples}
    _, _, (entry,) = trained(run)
    assert set(entry["ids"]) == set(sorted(losses, key=losses.__getitem__, reverse=True)[:8])
    assert entry["scores"] == pytest.approx([losses[name] for name in entry["ids"]], rel=1e-4)


def options_of_method(name: str) -> tuple[str, CoresetConfig]:
    """The strategy and the options that conf/method/<name>.yaml states."""
    file: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "method" / f"{name}.yaml"))
    return file["sft"]["coreset_strategy"], CoresetConfig(**file["coreset"], cache=False)


@pytest.mark.parametrize("method", ["coreset_loss", "coreset_diversity", "coreset_hybrid"])
def test_a_target_as_large_as_the_pool_is_the_baseline(
    method: str, make_run: MakeRun, baseline: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    strategy, options = options_of_method(method)
    assert equal(trained(selecting(make_run, strategy, options, coreset_target_size=32))[0], baseline)
    assert "coreset: all 32 samples are taken, so nothing is selected" in capsys.readouterr().err


def test_selecting_is_not_counted_as_training(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, seconds = "random", 3.0
    run = SelectionFile.add

    def slow(file: SelectionFile, entry: dict[str, Any]) -> None:
        time.sleep(seconds)
        run(file, entry)

    monkeypatch.setattr(SelectionFile, "add", slow)
    options = CoresetConfig(cache=False, refresh_epochs=1)
    started = time.perf_counter()
    _, result, entries = trained(selecting(make_run, strategy, options, coreset_target_size=8, num_epochs=3))
    besides = time.perf_counter() - started - result.seconds
    assert len(entries) == 3
    assert besides > 3 * seconds, "two of the three selections fall between training steps"
    assert result.startup["other"] > seconds, "one falls before them"
    assert result.startup["data"] + result.startup["model"] > 0
    assert len({frozenset(entry["ids"]) for entry in entries}) == 3, "each epoch draws anew"


def test_a_candidate_that_is_not_finite_stops_the_run_and_is_named(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = SFTModule.training_step

    def poison(module: SFTModule, batch: Any, index: int) -> Tensor:
        batch["loss_weights"] = (batch["labels"] != -100).float()
        batch["loss_weights"][3] *= float("nan")
        return step(module, batch, index)

    monkeypatch.setattr(SFTModule, "training_step", poison)
    with pytest.raises(NonFiniteError, match="no weight was changed"):
        trained(selecting(make_run, "loss_topk", CoresetConfig(scope="batch", candidates=4)))


def test_a_batch_of_candidates_that_all_stay_is_the_baseline(make_run: MakeRun, baseline: dict[str, Tensor]) -> None:
    options = CoresetConfig(scope="batch", candidates=1)
    weights, _, (entry,) = trained(selecting(make_run, "loss_topk", options))
    assert equal(weights, baseline)
    assert (entry["num_selected"], entry["forward_tokens"]) == (32, 0)


def test_inside_the_step_the_hardest_candidates_are_trained_on(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[Tensor, Tensor]] = []
    step = SFTModule.training_step

    def watch(module: SFTModule, batch: Any, index: int) -> Tensor:
        before = len(module.chosen.samples)
        loss = step(module, batch, index)
        steps.append((batch["sample_index"], torch.tensor(module.chosen.samples[before:])))
        return loss

    monkeypatch.setattr(SFTModule, "training_step", watch)
    options = CoresetConfig(scope="batch", candidates=4)
    run = selecting(make_run, "loss_topk", options, learning_rate=1e-6)
    _, result, (entry,) = trained(run)
    assert result.steps == 2, "32 candidates make 8 trained rows"
    trainer = AgentSFTTrainer(run)
    losses = torch.tensor([trainer.evaluate([sample]).loss for sample in trainer.data.pool().samples])
    for candidates, chosen in steps:
        assert len(candidates) == 16
        assert set(chosen.tolist()) == set(candidates[losses[candidates].topk(4).indices].tolist())
    assert entry["num_selected"] == 8
    assert entry["forward_tokens"] == sum(len(sample.input_ids) for sample in trainer.data.pool().encoded)
    assert result.tokens < entry["forward_tokens"]
    assert result.selection["forward_tokens"] == entry["forward_tokens"]


@pytest.mark.parametrize("strategy", ["diversity", "hybrid", "random", "length", "kcenter", "el2n"])
def test_every_strategy_of_the_step_chooses_a_quarter(strategy: str, make_run: MakeRun) -> None:
    options = CoresetConfig(scope="batch", candidates=4)
    weights, _, (entry,) = trained(selecting(make_run, strategy, options))
    assert entry["num_selected"] == len(set(entry["ids"])) == 8
    assert (entry["forward_tokens"] == 0) == (strategy in ("random", "length"))
    assert equal(weights, trained(selecting(make_run, strategy, options))[0])


def test_the_pool_is_selected_from_again_with_the_model_as_it_is(make_run: MakeRun) -> None:
    options = CoresetConfig(cache=False, refresh_epochs=2)
    run = selecting(make_run, "loss_topk", options, coreset_target_size=8, num_epochs=5, learning_rate=0.05)
    _, result, entries = trained(run)
    assert [entry["epoch"] for entry in entries] == [0, 2, 4]
    assert result.steps == 10
    assert len({frozenset(entry["ids"]) for entry in entries}) > 1
    assert result.selection["forward_tokens"] == 3 * entries[0]["forward_tokens"]


def test_targeted_selection_reads_its_development_set(make_run: MakeRun) -> None:
    options = CoresetConfig(cache=False, dev_data="agent_benchmark:timing:dev", dev_samples=4)
    _, result, (entry,) = trained(selecting(make_run, "rds", options, coreset_target_size=5))
    assert entry["num_selected"] == 5
    assert result.data["dev"]["used"] == 4


def test_selection_json_the_report_and_wandb_tell_what_was_chosen(make_run: MakeRun) -> None:
    run = selecting(make_run, "hybrid", coreset_target_size=8)
    run.wandb.mode = "offline"
    _, result, (entry,) = trained(run)
    folder = RunFolder(Path(result.run_dir))
    assert sum(count["pool"] for count in entry["tasks"].values()) == 32
    assert sum(count["selected"] for count in entry["tasks"].values()) == 8
    assert sum(entry["length"]["selected"]) == sum(entry["loss"]["selected"]) == 8
    assert 0 < entry["coverage"] < 1
    assert len(entry["map"]["selected"]) == 8
    assert entry["seconds"] > 0
    mirrored = read_offline_run(folder.path)
    (row,) = [row for row in mirrored.history if "selection/coverage" in row]
    assert row["selection/coverage"] == entry["coverage"]
    assert row["selection/loss_selected"] > row["selection/loss_pool"]
    assert [cells[0] for cells in mirrored.tables["selection/epoch_0"]["data"]] == entry["ids"]
    assert len(mirrored.tables["selection/tasks_0"]["data"]) == len(entry["tasks"])
    nothing = {"tokens": None, "actions": None, "seconds": {}, "data": {}}
    write_json(folder.result, summarise(run, folder, nothing, json.loads(folder.training.read_text()), nothing))
    page = write_html(folder.path).read_text()
    assert "8 of 32 samples" in page
    assert page.count("pool's two main axes") == 1
    assert json.loads(folder.result.read_text())["costs"]["select"] == entry["seconds"]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"coreset_strategy": "less"}, CoresetConfig(scope="batch"), "sft.coreset_strategy must be one of loss_topk"),
        ({}, CoresetConfig(scope="batch", refresh_epochs=1), "coreset.refresh_epochs must be null"),
        ({"coreset_target_size": 5}, CoresetConfig(scope="batch"), "sft.coreset_target_size must be null"),
        ({"coreset_strategy": "rds", "eval_data": None}, NO_CACHE, "coreset.dev_data must be data that rds selects"),
        ({}, CoresetConfig(scope="batch", stratify=True), "coreset.stratify must be false"),
        ({}, CoresetConfig(scope="batch", embedding="tfidf"), "coreset.embedding must be auto or hidden"),
        ({}, CoresetConfig(scope="batch", candidates=1.1), "coreset.candidates must be 1, or enough for a row more"),
        ({"coreset_strategy": "length"}, CoresetConfig(refresh_epochs=1), "coreset.refresh_epochs must be null"),
        ({"coreset_strategy": "s2l", "use_lora": False}, NO_CACHE, "sft.use_lora must be true for s2l"),
    ],
)
def test_what_does_not_go_together_is_refused(
    given: dict[str, Any], options: CoresetConfig, message: str, make_run: MakeRun
) -> None:
    with pytest.raises(ValueError, match=message):
        selecting(make_run, **{"strategy": given.pop("coreset_strategy", "hybrid"), "options": options} | given)
