"""The search for a learning rate: equal short trainings for every method, the lowest dev loss wins, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sagetune.attempt import attempt
from sagetune.comparison.costs import cost_of
from sagetune.comparison.runs import read_run
from sagetune.config import BudgetConfig, EvaluationConfig, RunConfig
from sagetune.rate_search import chosen, searched, trial_of
from sagetune.runfolder import RunFolder

RATES = [1e-3, 1e-2, 1e-1]
LOSSES = {1e-3: 2.0, 1e-2: 1.0, 1e-1: None}


@pytest.fixture
def run(make_run: Callable[..., RunConfig]) -> RunConfig:
    budget = BudgetConfig(train_samples=8, eval_samples=4, max_steps=3, learning_rates=RATES, search_steps=2)
    return make_run(budget=budget, eval_data="agent_sft:dev", batch_size=2, gradient_accumulation_steps=1)


def search(run: RunConfig, folder: Path, losses: dict[float, Any]) -> tuple[RunConfig, list[float]]:
    """The run that the search makes of `run`, and the rates that it trained with."""
    trained = []

    def train(trial: RunConfig, place: RunFolder) -> dict[str, Any]:
        trained.append(trial.sft.learning_rate)
        place.trajectories.write_text("attempts of an agent")
        return {"loss": losses[trial.sft.learning_rate], "tokens": 10}

    return searched(run, RunFolder(folder), train, Console(quiet=True)), trained


def test_the_rate_with_the_lowest_dev_loss_is_trained_with(run: RunConfig, tmp_path: Path) -> None:
    found, trained = search(run, tmp_path, LOSSES)
    assert found.sft.learning_rate == 1e-2
    assert trained == RATES
    assert json.loads((tmp_path / "search.json").read_text())["chosen"] == 1e-2


def test_what_was_tried_before_a_kill_is_not_tried_again(run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        search(run, tmp_path, {1e-3: 0.5})  # dies in the second trial
    found, trained = search(run, tmp_path, LOSSES)
    assert trained == RATES[1:]
    assert found.sft.learning_rate == 1e-3


def test_a_trial_is_the_same_run_but_short_and_measures_the_dev_loss_alone(run: RunConfig, tmp_path: Path) -> None:
    trial = trial_of(run, RunFolder(tmp_path), 0.5)
    assert (trial.sft.learning_rate, trial.budget.max_steps, trial.seed) == (0.5, 2, run.seed)
    assert trial.evaluation.data is None
    assert not trial.evaluation.capabilities
    assert not trial.budget.learning_rates
    assert trial.sft.train_data == run.sft.train_data


def test_attempts_are_collected_once_for_all_trials_and_the_run(run: RunConfig, tmp_path: Path) -> None:
    search(run, tmp_path, LOSSES)
    assert (tmp_path / "trajectories.jsonl").read_text() == "attempts of an agent"
    for rate in RATES:
        assert (tmp_path / "search" / f"rate-{rate:g}" / "trajectories.jsonl").is_file()


def test_a_tie_goes_to_the_first_and_divergence_never_wins() -> None:
    tried = [{"learning_rate": rate, "loss": loss} for rate, loss in ((1.0, None), (2.0, 0.5), (3.0, 0.5))]
    assert chosen(tried) == 2.0
    assert chosen(tried[:1]) is None


def test_a_search_in_which_every_rate_diverges_is_refused(run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"budget\.learning_rates must have a rate at which training does not diverge"):
        search(run, tmp_path, dict.fromkeys(RATES))


def test_a_run_searches_trains_with_the_best_rate_and_counts_the_cost(run: RunConfig, tmp_path: Path) -> None:
    run.run_name = "searched"
    run.evaluation = EvaluationConfig(data=None)
    assert attempt(RunFolder.create(run), run) == 0
    result = json.loads((tmp_path / "searched" / "result.json").read_text())
    tried = result["search"]["tried"]
    assert [trial["learning_rate"] for trial in tried] == RATES
    assert result["learning_rate"] == min(tried, key=lambda trial: trial["loss"])["learning_rate"]
    assert result["costs"]["search"] == pytest.approx(sum(trial["seconds"] for trial in tried))
    cost = cost_of(read_run(RunFolder(tmp_path / "searched")))
    trained = [json.loads(path.read_text())["tokens"] for path in tmp_path.glob("searched/search/*/training.json")]
    assert len(trained) == len(RATES)
    assert cost["search tokens"] == sum(trained)
    rows = [json.loads(line) for line in (tmp_path / "searched" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["train/lr"] for row in rows if "train/lr" in row) <= result["learning_rate"]
    assert not (tmp_path / "searched" / "search" / "rate-0.001" / "adapter").exists()
    assert "Each rate was tried for 2" in (tmp_path / "searched" / "report.html").read_text()


def test_trials_stay_out_of_weights_and_biases(run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run.run_name = "mirrored"
    assert attempt(RunFolder.create(run), run) == 0
    logged = [path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("offline-run-*")]
    assert set(logged) == {("mirrored", "wandb")}


@pytest.mark.parametrize(
    ("field", "value"), [("learning_rates", [0.1]), ("learning_rates", [0.1, 0.1]), ("search_steps", 0)]
)
def test_a_grid_that_is_none_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"budget.{field}"):
        BudgetConfig(**{field: value})


def test_a_search_needs_data_to_judge_by(make_run: Callable[..., RunConfig]) -> None:
    with pytest.raises(ValueError, match=r"budget\.learning_rates .*sft\.eval_data"):
        make_run(budget=BudgetConfig(learning_rates=RATES), eval_data=None)
