"""PPO and GRPO as runs: they learn, stop, resume to the same bits, and tell what they did."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rollout_runs import bandit, questions, rollout_run, two_armed_folder
from sagetune import sources
from sagetune.config import (
    AdapterConfig,
    GuardConfig,
    OptimConfig,
    PPOConfig,
    RLTrainingConfig,
    RolloutConfig,
    RunConfig,
)
from sagetune.config import TrainerConfig as Trained
from sagetune.interrupts import Interrupted, Interrupts
from sagetune.modules.stepping import NonFiniteError
from sagetune.rl_trainer import AgentRLTrainer
from sagetune.rollouts.acting import task_of
from sagetune.rollouts.guards import CollapsedPolicy
from sagetune.rollouts.rollout import Rollout
from sagetune.runfolder import RunFolder
from sagetune.tracking import Tracker
from sagetune.trajectories.local import local_agent
from sagetune.trajectories.record import load_trajectories
from test_resume import finish, resume, send_when, start

MakeRollouts = Callable[..., RunConfig]
UPDATES = {"ppo": 5, "grpo": 10}
"""In which the bandit is learnt: of PPO four optimiser steps each, of GRPO one."""


@pytest.fixture(scope="module")
def two_armed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return two_armed_folder(tmp_path_factory.mktemp("two_armed"))


@pytest.fixture
def make(two_armed: str, tmp_path: Path) -> MakeRollouts:
    def make_run(algorithm: str, **given: Any) -> RunConfig:
        data = questions(tmp_path / "questions.jsonl")
        options = {"learning_rate": 1e-3, "num_epochs": UPDATES[algorithm]}
        return rollout_run(two_armed, data, tmp_path, algorithm, **(options | given))

    return make_run


def rows(run_dir: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


def untimed(run_dir: str | Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows(run_dir)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_two_armed_bandit_is_learnt_within_the_stated_updates(algorithm: str, seed: int, make: MakeRollouts) -> None:
    trainer = AgentRLTrainer(make(algorithm, seed=seed), reward_fn=bandit)
    logged = rows(trainer.train().run_dir)
    rewards = [row["rewards/reward_fn/mean"] for row in logged]
    assert len(rewards) == UPDATES[algorithm]
    assert 0.2 < rewards[0] < 0.8, "both arms are alike at first"
    assert rewards[-1] >= 0.95, rewards
    assert trainer.evaluate(trainer.run.sft.train_data).reward == 1.0, "the likeliest token is the arm that pays"


@pytest.mark.thorough
def test_an_adaptive_coefficient_holds_a_learning_policy_at_its_target(make: MakeRollouts) -> None:
    """The bandit alone would go on to 0.69 nats, where the other arm is gone."""
    given = {"rl": RLTrainingConfig(kl_coef=0.5), "learning_rate": 1e-4, "num_epochs": 30}
    config = PPOConfig(adaptive_kl_target=0.2, adaptive_kl_horizon=64, epochs=2)
    logged = rows(AgentRLTrainer(make("ppo", ppo=config, **given), reward_fn=bandit).train().run_dir)
    late = [row["objective/kl"] for row in logged[-15:]]
    assert sum(late) / len(late) == pytest.approx(0.2, abs=0.1)


# Kill and resume


class StopAfter:
    """A reward function that asks the run to stop when it has been asked for `num` rollouts."""

    def __init__(self, num: int, interrupts: Interrupts) -> None:
        self._left, self._interrupts = num, interrupts

    def __call__(self, rollout: Rollout) -> float:
        self._left -= 1
        if self._left == 0:
            self._interrupts.waiting = 15
        return bandit(rollout)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(algorithm: str, make: MakeRollouts, one_thread: None) -> None:
    """Also where it was killed after its last checkpoint: what it wrote since is made again, not twice."""
    config = PPOConfig(adaptive_kl_target=0.05, adaptive_kl_horizon=100)
    given = {"ppo": config, "num_epochs": 5, "optim": OptimConfig(lr_schedule="linear")}
    alone = AgentRLTrainer(make(algorithm, run_name="alone", **given), reward_fn=bandit).train()
    run = make(algorithm, run_name="stopped", **given)
    folder, interrupts = RunFolder.create(run), Interrupts()
    tracker = Tracker(folder.path, run, resume_step=None)
    with pytest.raises(Interrupted):
        AgentRLTrainer(run, reward_fn=StopAfter(70, interrupts)).fit(folder, tracker, interrupts)
    tracker.finish(1)
    step = int(torch.load(folder.checkpoint, weights_only=True)["global_step"])
    stopped = folder.rollouts.read_text()
    assert len(stopped.splitlines()) == 3 * 32
    with folder.rollouts.open("a") as file:  # what a run that was killed in its next update leaves
        file.write(stopped.splitlines()[-1].replace('"update": 3', '"update": 4') + "\n" + '{"task_id": "cut sho')
    tracker = Tracker(folder.path, run, resume_step=step)
    resumed = AgentRLTrainer(run, reward_fn=bandit).fit(folder, tracker, Interrupts())
    tracker.finish(0)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder.model / name).read_bytes() == (Path(alone.model_dir) / name).read_bytes()
    assert untimed(folder.path) == untimed(alone.run_dir)
    lines = [
        [record(one) for one in load_trajectories(Path(path) / "rollouts.jsonl")]
        for path in (resumed.run_dir, alone.run_dir)
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 5 * 32


@pytest.mark.thorough
def test_a_killed_process_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """A reward of nothing but the penalty for replies that are cut off moves value and policy."""
    options = ("objective=ppo", "rollout.tasks=1", "rollout.samples=2", "rollout.max_new_tokens=8")
    more = ("rollout.missing_eos_penalty=1", "budget.train_samples=6", "trainer.checkpoint_every_n_steps=4")
    given = (*options, *more, "adapter.dropout=0", "sft.gradient_accumulation_steps=1", "sft.num_epochs=1")
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    finish(start(alone, *given))
    process = start(killed, *given)
    send_when(process, killed, 2, signal.SIGKILL)
    finish(resume(killed))
    weights = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (killed, alone)]
    assert weights[0] == weights[1]
    assert untimed(killed) == untimed(alone)
    assert len(untimed(killed)) == 6
    lines = [[record(one) for one in load_trajectories(folder / "rollouts.jsonl")] for folder in (killed, alone)]
    assert lines[0] == lines[1]


def record(trajectory: Any) -> Any:
    figures = {name: value for name, value in trajectory.figures.items() if name != "seconds"}
    return dataclasses.replace(trajectory, figures=figures)


def test_a_checkpoint_holds_what_is_trained_and_the_adapter_is_the_policys_alone(make: MakeRollouts) -> None:
    run = make("ppo", num_epochs=1, trainer=Trained(accelerator="cpu", checkpoint_every_n_steps=1))
    result = AgentRLTrainer(run, reward_fn=bandit).train()
    checkpoint = torch.load(RunFolder(Path(result.run_dir)).checkpoint, weights_only=True)
    names = checkpoint["state_dict"]
    assert {name.split(".")[-2] for name in names} == {"default", "value", "head"}
    assert checkpoint["sagetune"]["algorithm"]["kl"]["coefficient"] == 0.01
    saved = load_file(Path(result.model_dir) / "adapter_model.safetensors")
    assert sorted(path.name for path in Path(result.model_dir).iterdir() if path.is_dir()) == []
    assert len(saved) == sum(".default." in name for name in names)
    for name, tensor in saved.items():
        assert torch.equal(tensor, names["roles.model." + name.replace(".weight", ".default.weight")])


def test_a_run_goes_on_from_what_another_has_learnt_which_is_then_its_reference(make: MakeRollouts) -> None:
    """With DoRA, too; and the saved adapter acts like any other."""
    first = AgentRLTrainer(make("grpo", num_epochs=4, use_dora=True, run_name="first"), reward_fn=bandit).train()
    learnt = rows(first.run_dir)[-1]["reward"]
    run = make("ppo", num_epochs=1, use_dora=True, adapter=AdapterConfig(start_from=first.run_dir), run_name="second")
    second = AgentRLTrainer(run, reward_fn=bandit).train()
    (row,) = rows(second.run_dir)
    assert row["objective/kl"] == pytest.approx(0, abs=1e-5), "against the adapter, not against the base model"
    assert row["objective/scores"] >= learnt - 0.2
    agent = local_agent(second.model_dir, base_model=run.sft.base_model, config=run.model, max_new_tokens=1)
    drawn = asyncio.run(agent.draw([{"role": "user", "content": "pick"}], [], 0))
    assert agent.text(drawn) == "b"


# What stops it


def test_an_update_ends_early_where_the_policy_has_moved_too_far_and_steps_stop_at_the_budget(
    make: MakeRollouts,
) -> None:
    rollout = RolloutConfig(tasks=1, samples=32, max_new_tokens=1, early_stop_kl=1e-7)
    early = AgentRLTrainer(make("ppo", num_epochs=2, rollout=rollout), reward_fn=bandit).train()
    assert early.steps == 2 * 1, "the first step of an update is always taken"
    run = make("ppo", num_epochs=2)
    run = dataclasses.replace(run, budget=dataclasses.replace(run.budget, max_steps=5))
    logged = rows(AgentRLTrainer(run, reward_fn=bandit).train().run_dir)
    assert [row["step"] for row in logged] == [4, 5]


def test_what_is_not_finite_stops_before_a_weight_moves(make: MakeRollouts, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = AgentRLTrainer(make("ppo"), reward_fn=bandit)
    from sagetune.rollouts import experience

    monkeypatch.setattr(experience, "drawn_logps", broken(experience.drawn_logps))
    with pytest.raises(NonFiniteError, match=r"step 1 is not finite; no weight was changed by it\. Samples: questions"):
        trainer.train()


def broken(function: Any) -> Any:
    def with_nan(*given: Any) -> Any:
        logps, entropy = function(*given)
        return logps * float("nan"), entropy

    return with_nan


def test_the_logged_rate_is_the_one_that_was_used(make: MakeRollouts) -> None:
    run = make("ppo", num_epochs=1, optim=OptimConfig(lr_schedule="linear", warmup_ratio=0))
    (row,) = rows(AgentRLTrainer(run, reward_fn=bandit).train().run_dir)
    assert row["train/lr"] == pytest.approx(1e-3 * (1 + 0.75 + 0.5 + 0.25) / 4), "mean of the update's four steps"


def test_a_guard_that_stops_ends_the_run_with_the_figures(make: MakeRollouts) -> None:
    run = make("grpo", guard=GuardConfig(action="stop", zero_variance_updates=2))
    with pytest.raises(CollapsedPolicy, match=r"update 2: the rewards of 2 updates in a row do not differ \(mean 3\)"):
        AgentRLTrainer(run, reward_fn=lambda _: 3.0).train()


# What cannot be done


def test_a_last_update_of_a_single_rollout_is_refused(make: MakeRollouts, tmp_path: Path) -> None:
    """Its advantage cannot be whitened, and its reward has no standard deviation."""
    run, three = make("ppo", rollout=RolloutConfig(tasks=2, samples=1)), questions(tmp_path / "three.jsonl", 3)
    run = dataclasses.replace(run, sft=dataclasses.replace(run.sft, train_data=three))
    with pytest.raises(ValueError, match=r"rollout\.samples must be 2 or more, .* of 3 tasks would have a single"):
        AgentRLTrainer(run, reward_fn=bandit).train()


def test_tasks_of_the_world_are_judged_from_a_file_too(make: MakeRollouts, tmp_path: Path) -> None:
    samples = sources.load("agent_benchmark:timing:train", num_samples=2).samples
    for num_foreign in (0, 1):
        lines = [*samples, {"messages": samples[0]["messages"]}][: 2 + num_foreign]
        path = tmp_path / f"{num_foreign}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run = make("grpo")
        run = dataclasses.replace(run, sft=dataclasses.replace(run.sft, train_data=str(path)))
        if num_foreign:
            with pytest.raises(ValueError, match=r"nothing judges what is done on .*1\.jsonl \(sample '1:3'\)"):
                sources.check_judged(run)
        else:
            sources.check_judged(run)
            tasks = [task_of(sample, judged=False) for sample in sources.load(str(path), num_samples=None).samples]
            assert [task.family for task in tasks] == ["timing"] * 2


def test_what_nothing_judges_is_refused_at_once(make: MakeRollouts) -> None:
    with pytest.raises(ValueError, match=r"sft\.train_data: nothing judges what is done on .*questions\.jsonl"):
        AgentRLTrainer(make("ppo"))
    dpo = dataclasses.replace(make("ppo"), rl=RLTrainingConfig(algorithm="dpo"))
    with pytest.raises(ValueError, match="reward_fn must be None for dpo"):
        AgentRLTrainer(dpo, reward_fn=bandit)


def test_a_task_that_does_not_fit_is_named_before_an_update_comes_to_it(make: MakeRollouts, tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "pick" * 40}, {"role": "assistant", "content": "x"}]}
    run = make("grpo", max_seq_length=60)
    with Path(run.sft.train_data).open("a") as file:
        file.write(json.dumps(long) + "\n" + json.dumps(long) + "\n")
    asked: list[Rollout] = []
    with pytest.raises(ValueError, match=r"2 of 3 tasks do not fit, the first: task questions:2: the conversation has"):
        AgentRLTrainer(run, reward_fn=lambda one: float(asked.append(one) is None)).train()
    assert not asked
    run = make("ppo", max_seq_length=16)
    with pytest.raises(
        ValueError, match=r"task questions:1: the conversation has \d+ tokens.*raise sft\.max_seq_length"
    ):
        AgentRLTrainer(run, reward_fn=bandit).train()


# A run like any other


@pytest.mark.parametrize("algorithm", ["grpo", pytest.param("ppo", marks=pytest.mark.thorough)])
def test_a_run_tells_its_rewards_in_log_result_report_and_rollouts(algorithm: str, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "sagetune", "train", f"objective={algorithm}", "budget=smoke", "model=tiny"),
        *("rollout.tasks=2", "rollout.samples=2", "rollout.max_new_tokens=8", f"sft.output_dir={tmp_path}"),
        *("run_name=run", "evaluation.max_new_tokens=8", "budget.train_samples=2", "trainer.eval_every_n_steps=2"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"WANDB_MODE": "disabled"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "attempts: task solved" in done.stdout
    folder = tmp_path / "run"
    names = {name for row in rows(folder) for name in row}
    shared = {"train/loss", "train/grad_norm", "completions/mean_length", "rollout/success", "eval/reward"}
    own = {
        "ppo": {"objective/kl", "objective/scores", "policy/approxkl_avg", "loss/value_avg", "val/ratio_var"},
        "grpo": {"reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "clip_ratio/region_mean"},
    }
    assert names >= shared | own[algorithm]
    result = json.loads((folder / "result.json").read_text())
    assert (result["objective"], result["status"]) == (algorithm, "done")
    assert 1 <= result["steps"] <= 4
    assert result["after"]["rollouts"]["num_attempts"] == 2
    records = load_trajectories(folder / "rollouts.jsonl")
    assert {"update", "reward", "advantage", "tokens"} <= records[0].figures.keys()
    assert len({one.key for one in records}) == len(records) >= 4
    page = (folder / "report.html").read_text()
    for title in ("reward of a rollout", "KL to the reference", "entropy of a token", "drawn tokens of a rollout"):
        assert title in page
