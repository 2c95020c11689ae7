"""Method fireact in a run: tasks are acted on, the good trajectories are trained on, and a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from sagetune.config import CONF_DIR, BudgetConfig, RunConfig
from sagetune.config.trajectories import AgentConfig, CollectorConfig, FilterConfig, TrajectoriesConfig
from sagetune.files import write_json
from sagetune.modules.sft import SFTModule
from sagetune.report import write_html
from sagetune.run import summarise
from sagetune.runfolder import RunFolder
from sagetune.trainer import AgentSFTTrainer
from sagetune.trajectories.expert import ExpertAgent
from sagetune.trajectories.record import load_trajectories

MakeRun = Callable[..., RunConfig]
NUM_TASKS = 32
SMALL: dict[str, Any] = {"budget": BudgetConfig(train_samples=NUM_TASKS, eval_samples=4), "batch_size": 4}
NOISY = AgentConfig(error_rate=0.15)


def fireact(make_run: MakeRun, **given: Any) -> RunConfig:
    run = make_run(**SMALL)
    run.trajectories = TrajectoriesConfig(**({"use": True, "agent": NOISY} | given))
    run.__post_init__()
    return run


def served_texts(monkeypatch: pytest.MonkeyPatch, run: RunConfig) -> tuple[list[str], RunFolder]:
    """The supervised text of every row that a training step gets."""
    texts: list[str] = []
    step = SFTModule.training_step
    trainer = AgentSFTTrainer(run)

    def watch(module: SFTModule, batch: Any, index: int) -> Any:
        for labels in batch["labels"]:
            texts.append(trainer.tokenizer.decode(labels[labels != -100]))
        return step(module, batch, index)

    monkeypatch.setattr(SFTModule, "training_step", watch)
    result = trainer.train()
    return texts, RunFolder(Path(result.run_dir))


def test_what_is_trained_on_are_the_successful_attempts_with_their_thoughts(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, folder = served_texts(monkeypatch, fireact(make_run, collector=CollectorConfig(methods=["react"])))
    attempts = load_trajectories(folder.trajectories)
    good = [trajectory for trajectory in attempts if trajectory.success]
    assert len(attempts) == NUM_TASKS
    assert 0 < len(good) < NUM_TASKS
    figures = json.loads(folder.gathering.read_text())
    assert (figures["kept"], figures["total"]) == (len(texts), NUM_TASKS)
    assert figures["kept"] + sum(figures["reasons"].values()) == NUM_TASKS
    thoughts = {step.thought for trajectory in good for step in trajectory.steps if step.thought}
    taught = "\n".join(texts)
    assert thoughts
    assert all(thought in taught for thought in thoughts)
    observations = {step.observation for trajectory in good for step in trajectory.steps if len(step.observation) > 20}
    assert observations
    assert not any(seen in taught for seen in observations)


def test_without_the_filter_failures_are_trained_on(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = FilterConfig(require_success=False, min_reward=0.0)
    texts, folder = served_texts(monkeypatch, fireact(make_run, filter=everything))
    bad = [trajectory for trajectory in load_trajectories(folder.trajectories) if not trajectory.success]
    assert bad
    assert len(texts) == NUM_TASKS


def test_the_baseline_trains_on_no_thought(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, folder = served_texts(monkeypatch, make_run(**SMALL))
    assert not any("I have to" in text for text in texts)
    assert not folder.trajectories.exists()


def test_a_run_that_goes_on_trains_on_the_same_attempts(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on those that were kept while others broke: a rerun of the collection would make these again."""
    run = fireact(make_run)
    folder = RunFolder.create(run)
    start, broken = ExpertAgent.start, [3]

    def sometimes(agent: ExpertAgent, episode: Any) -> Any:
        broken[0] -= 1
        if broken[0] in (0, 1):
            raise ConnectionError("no route to host")
        return start(agent, episode)

    monkeypatch.setattr(ExpertAgent, "start", sometimes)
    first = AgentSFTTrainer(run).data.pool(AgentSFTTrainer(run)._gatherer(folder))
    mark = folder.gathering.read_text()
    assert json.loads(mark)["endings"]["error"] == 2
    again = AgentSFTTrainer(run).data.pool(AgentSFTTrainer(run)._gatherer(folder))
    assert [sample["messages"] for sample in again.samples] == [sample["messages"] for sample in first.samples]
    assert folder.gathering.read_text() == mark
    folder.gathering.unlink()  # killed while it collected: only what is missing is made
    AgentSFTTrainer(run).data.pool(AgentSFTTrainer(run)._gatherer(folder))
    assert len(folder.trajectories.read_text().splitlines()) == NUM_TASKS + 2


def test_tasks_of_recorded_searches_can_stand_in_for_the_data(make_run: MakeRun, tmp_path: Path) -> None:
    lines = "Thought: a\nAction: search[q]\nObservation: r\nThought: b\nAction: finish[x]\n"
    record = {"reward": True, "em": True, "f1": 1.0, "gt": "x", "pred": "x", "prompt": "", "traj": f"Who?\n{lines}"}
    path = tmp_path / "runs.json"
    path.write_text(json.dumps({"7": {**record, "traj_by_line": []}}))
    run = fireact(make_run, agent=AgentConfig(), tasks=f"search:{path}")
    trainer = AgentSFTTrainer(run)
    pool = trainer.data.pool(trainer._gatherer(RunFolder.create(run)))
    assert [message["content"] for message in pool.samples[0]["messages"]] == [
        *("Who?", "a", "r", "b", "Episode finished"),
    ]
    assert trainer.data.counts["train"]["reference"] == f"search:{path}"
    run.trajectories.tasks = "search:nowhere.json"
    with pytest.raises(ValueError, match=r"there is no 'nowhere\.json'"):
        AgentSFTTrainer(run)


def test_nothing_that_can_be_trained_on_is_told(make_run: MakeRun) -> None:
    with pytest.raises(ValueError, match=r"none of 32 attempts can be trained on: \{'not_successful': 32\}"):
        AgentSFTTrainer(fireact(make_run, agent=AgentConfig(error_rate=1.0))).train()


def test_the_result_and_the_report_tell_what_collecting_did_and_cost(make_run: MakeRun) -> None:
    run = fireact(make_run)
    trainer = AgentSFTTrainer(run)
    result = trainer.train()
    folder = RunFolder(Path(result.run_dir))
    measured = trainer.measure("after") | {"data": trainer.data.counts}
    summary = summarise(run, folder, measured, result.to_dict(), json.loads(json.dumps(measured)))
    write_json(folder.result, summary)
    assert summary["costs"]["collect"] > 0
    assert summary["trajectories"]["total"] == NUM_TASKS
    page = write_html(folder.path).read_text()
    assert "Collected trajectories" in page
    assert "share of attempts" in page


def test_conversations_that_have_nothing_to_act_in_are_told(make_run: MakeRun, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"messages": [{"role": role, "content": "x"} for role in ("user", "assistant")]}) + "\n")
    run = fireact(make_run)
    run.sft.train_data = str(path)
    with pytest.raises(ValueError, match=r"sft\.train_data: sample 'own:1' has nothing to act in.*trajectories\.tasks"):
        AgentSFTTrainer(run).train()


def test_the_methods_file_says_what_fireact_is() -> None:
    file: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "method" / "fireact.yaml"))
    config = TrajectoriesConfig(
        use=file["trajectories"]["use"],
        agent=AgentConfig(**file["trajectories"]["agent"]),
        collector=CollectorConfig(**file["trajectories"]["collector"]),
    )
    assert file["method"]["id"] == "E_fireact"
    assert config.use
    assert config.collector.methods == ["react", "cot", "reflexion"]
    assert file["trajectories"]["conversion"]["mask_observation"]
    assert file["trajectories"]["filter"]["require_success"]
