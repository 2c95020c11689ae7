"""Replay in training: what it is worth nothing for, what it changes, and where its rows come from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sagetune import world
from sagetune.batching import collate
from sagetune.config import BudgetConfig, ContinualConfig, CoresetConfig, DataConfig, EvaluationConfig, RunConfig
from sagetune.evaluation.calls import render_reply
from sagetune.losses import SupervisedLogits, losses_of, row_means, supervised_logits, token_losses
from sagetune.replay import OnlineContinualLearner
from sagetune.replay.buffer import Item, uniform
from sagetune.replay.distill import LOG_PROBS, TOKENS, beliefs_of, dark_loss
from sagetune.replay.interference import interference
from sagetune.replay.step import Replayer
from sagetune.trainer import AgentSFTTrainer
from sagetune.trajectories.own_answers import own_answers

TASKS = ["tool_selection/shop", "general", "timing"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def stream_run(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    """A stream of three tasks of eight samples, in steps of four; keyword arguments as for make_run."""

    def make(stream: str = "sequential", continual: dict[str, Any] | None = None, **given: Any) -> RunConfig:
        base = {"batch_size": 4, "gradient_accumulation_steps": 1, "budget": BudgetConfig(train_samples=24)}
        return dataclasses.replace(
            make_run(**(base | given)),
            data=DataConfig(stream=stream),
            continual=ContinualConfig(**({"tasks": TASKS} | (continual or {}))),
        )

    return make


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The sample indices of every batch that is trained on, as training goes on."""
    seen: list[list[int]] = []

    def spying(model: Any, batch: Any) -> SupervisedLogits:
        seen.append(batch["sample_index"].tolist())
        return supervised_logits(model, batch)

    monkeypatch.setattr("sagetune.modules.sft.supervised_logits", spying)
    return seen


def trained(run: RunConfig) -> tuple[dict[str, torch.Tensor], Path]:
    result = AgentSFTTrainer(run).train()
    return load_file(Path(result.model_dir) / "adapter_model.safetensors"), Path(result.run_dir)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stream", ["sequential", "shuffled"])
def test_a_ratio_of_zero_is_the_baseline_bit_for_bit_and_says_that_it_does_nothing(
    stream: str, stream_run: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    plain, _ = trained(stream_run(stream))
    assert "replayed" not in capsys.readouterr().err
    without, _ = trained(stream_run(stream, use_online_continual=True, continual_replay_ratio=0.0))
    assert "continual: not one sample was replayed" in capsys.readouterr().err
    replaying, _ = trained(stream_run(stream, use_online_continual=True, continual_replay_ratio=0.5))
    assert "replayed" not in capsys.readouterr().err
    assert equal(plain, without)
    assert not equal(plain, replaying)


def test_replayed_rows_come_from_the_past(stream_run: Callable[..., RunConfig]) -> None:
    """Method live: every replayed sample was trained on before; later tasks are trained on with earlier ones."""
    _, folder = trained(stream_run(use_online_continual=True, continual_replay_ratio=0.5))
    record = json.loads((folder / "replay.json").read_text())
    assert record["rows"] == sum(count for _, _, count in record["pairs"]) == sum(record["replayed"].values()) > 0
    for now, old, _ in record["pairs"]:
        assert TASKS.index(old) <= TASKS.index(now)
    assert {(now, old) for now, old, _ in record["pairs"]} >= {(TASKS[1], TASKS[0])}
    assert set(record["replayed"]) <= set(record["kept"])
    assert record["buffer"]["tasks"] == dict.fromkeys(sorted(TASKS), 8)


def test_a_step_trains_on_the_batch_and_on_what_it_replays(
    stream_run: Callable[..., RunConfig], batches: list[list[int]]
) -> None:
    trained(stream_run(use_online_continual=True, continual_replay_ratio=0.5))
    assert [len(batch) for batch in batches] == [4] + [6] * 5
    for number, batch in enumerate(batches):
        assert len(set(batch)) == len(batch)
        assert set(batch[4:]) <= {index for earlier in batches[:number] for index in earlier[:4]}


def test_no_sample_is_twice_in_an_optimiser_step(
    stream_run: Callable[..., RunConfig], batches: list[list[int]]
) -> None:
    given = {"use_online_continual": True, "continual_replay_ratio": 1.0, "num_epochs": 4}
    for stream in ("sequential", "shuffled"):
        trained(stream_run(stream, batch_size=1, gradient_accumulation_steps=4, **given))
    steps = [[index for batch in batches[start : start + 4] for index in batch] for start in range(0, len(batches), 4)]
    assert len(steps) == 48
    assert all(len(set(step)) == len(step) for step in steps)
    assert sum(len(step) - 4 for step in steps) > 100


def test_combined_selects_and_replays(stream_run: Callable[..., RunConfig]) -> None:
    run = stream_run(
        use_online_continual=True, continual_replay_ratio=0.5, use_coreset_selection=True, coreset_strategy="loss_topk",
        coreset_target_size=12,
    )  # fmt: skip
    _, folder = trained(dataclasses.replace(run, coreset=CoresetConfig(cache=False)))
    entries = json.loads((folder / "selection.json").read_text())["selections"]
    assert [(entry["num_pool"], entry["num_selected"]) for entry in entries] == [(8, 4)] * 3
    assert [list(entry["tasks"]) for entry in entries] == [[task] for task in TASKS], "each task by itself"
    record = json.loads((folder / "replay.json").read_text())
    chosen = [sample for entry in entries for sample in entry["ids"]]
    assert sorted(record["kept"]) == sorted(chosen), "what is replayed was selected"
    assert record["rows"] > 0


def test_rows_chosen_inside_the_step_are_what_is_kept(stream_run: Callable[..., RunConfig]) -> None:
    run = stream_run(use_online_continual=True, use_coreset_selection=True, coreset_strategy="loss_topk", batch_size=2)
    _, folder = trained(dataclasses.replace(run, coreset=CoresetConfig(scope="batch", candidates=2.0)))
    record = json.loads((folder / "replay.json").read_text())
    entries = json.loads((folder / "selection.json").read_text())["selections"]
    assert sorted(record["kept"]) == sorted(sample for entry in entries for sample in entry["ids"])
    assert len(record["kept"]) == 12


OPTIONS: list[dict[str, Any]] = [
    {"strategy": "task_balanced", "draw": "task_balanced"},
    {"strategy": "fifo"},
    {"strategy": "coreset"},
    {"draw": "mir"},
    {"mode": "replace"},
    {"weight": 0.25},
    {"distill": 0.5, "distill_top_k": 8},
]


@pytest.mark.parametrize("option", OPTIONS, ids=[",".join(map(str, option.values())) for option in OPTIONS])
def test_every_option_changes_the_training(option: dict[str, Any], stream_run: Callable[..., RunConfig]) -> None:
    given: dict[str, Any] = {"use_online_continual": True, "continual_replay_ratio": 0.5, "continual_buffer_size": 6}
    given["budget"] = BudgetConfig(train_samples=48)
    plain, _ = trained(stream_run(**given))
    other, folder = trained(stream_run(continual=option, **given))
    assert not equal(plain, other)
    record = json.loads((folder / "replay.json").read_text())
    assert (record["forward_tokens"] > 0) == (option.get("draw") == "mir")


def test_the_weight_of_replayed_tokens_is_what_it_says(stream_run: Callable[..., RunConfig]) -> None:
    run = stream_run(use_online_continual=True, continual_replay_ratio=1.0, continual={"weight": 0.25})
    trainer = AgentSFTTrainer(run)
    samples = trainer.data.pool().encoded
    replayer = Replayer(run, [0] * len(samples), int(trainer.tokenizer.pad_token_id))
    first, second = (collate(samples, rows, 0) for rows in ([0, 1], [2, 3]))
    mixed = replayer.mix(trainer.model, first, [])
    assert "loss_weights" not in mixed
    found = supervised_logits(trainer.model, mixed)
    replayer.remember(first, found, losses_of(found))
    mixed = replayer.mix(trainer.model, second, [])
    losses = token_losses(trainer.model, mixed)
    assert set(losses.weights[losses.rows < 2].tolist()) == {1.0}
    assert set(losses.weights[losses.rows >= 2].tolist()) == {0.25}


def test_strategy_loss_weighs_a_sample_by_its_loss_in_training(stream_run: Callable[..., RunConfig]) -> None:
    run = stream_run(use_online_continual=True, continual_buffer_size=8, continual={"strategy": "loss"})
    trainer = AgentSFTTrainer(run)
    samples = trainer.data.pool().encoded
    replayer = Replayer(run, [0] * len(samples), int(trainer.tokenizer.pad_token_id))
    batch = collate(samples, [3, 9, 17, 20], 0)
    found = supervised_logits(trainer.model, replayer.mix(trainer.model, batch, []))
    losses = losses_of(found)
    replayer.remember(batch, found, losses)
    chance = -np.log(uniform(run.seed, np.array([3, 9, 17, 20], dtype=np.uint64)))
    state = replayer.learner.state_dict()["buffer"]
    assert state["ids"].tolist() == [3, 9, 17, 20]
    np.testing.assert_allclose(state["keys"].numpy(), chance / row_means(losses, 4).detach().numpy(), rtol=1e-6)


def test_the_loss_of_the_current_rows_is_not_changed_by_mixing(stream_run: Callable[..., RunConfig]) -> None:
    trainer = AgentSFTTrainer(stream_run())
    samples = trainer.data.pool().encoded
    learner = OnlineContinualLearner(8, 1.0)
    batch, longer = collate(samples, [16, 17], 0), collate(samples, [0, 1], 0)
    alone = row_means(token_losses(trainer.model, batch), 2)
    learner.update_buffer(longer)
    mixed = learner.mix_with_replay(batch)
    together = row_means(token_losses(trainer.model, mixed), 4)
    torch.testing.assert_close(together[:2], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        together[2:].sort().values, row_means(token_losses(trainer.model, longer), 2).sort().values, atol=1e-5, rtol=0
    )


def test_interference_is_measured_and_leaves_no_trace(make_run: Callable[..., RunConfig]) -> None:
    """Against a copy of the model that really takes the step."""
    trainer = AgentSFTTrainer(make_run(budget=BudgetConfig(train_samples=6)))
    samples, model = trainer.data.pool().encoded, trainer.trainable_model()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    batch, candidates = collate(samples, [0, 1], 0), collate(samples, [2, 3, 4, 5], 0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    found = interference(model, batch, candidates, learning_rate=0.05)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    old = row_means(token_losses(model, candidates), 4).detach()
    losses = token_losses(model, batch)
    losses.nll.mean().backward()
    trained_parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    num = sum(parameter.numel() for parameter in trained_parameters)
    norm = torch.cat(
        [parameter.grad.flatten() for parameter in trained_parameters if parameter.grad is not None]
    ).norm()
    with torch.no_grad():
        for parameter in trained_parameters:
            assert parameter.grad is not None
            parameter -= 0.05 * num**0.5 / norm * parameter.grad
    new = row_means(token_losses(model, candidates), 4).detach()
    torch.testing.assert_close(found, new - old, atol=1e-5, rtol=1e-4)
    assert found.abs().max() > 1e-3


def logits_of(rows: list[int], num_words: int, seed: int) -> SupervisedLogits:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(rows), num_words, generator=generator, requires_grad=True)
    nothing = torch.zeros(len(rows), dtype=torch.int64)
    return SupervisedLogits(logits, nothing, torch.tensor(rows), torch.ones(len(rows)))


def test_dark_loss_is_the_divergence_from_the_earlier_beliefs() -> None:
    then, now = logits_of([0, 0, 1], 7, 1), logits_of([0, 1, 1, 2], 7, 2)
    beliefs = beliefs_of(then, 2, top_k=7)
    assert [belief[TOKENS].shape for belief in beliefs] == [(2, 7), (1, 7)]
    items = [Item({}, beliefs[0]), Item({}, beliefs[1])]
    found = dark_loss(now, items, first_row=1)
    old, new = then.logits.log_softmax(-1), now.logits.log_softmax(-1)[1:]
    exact = torch.nn.functional.kl_div(new, old, reduction="sum", log_target=True)
    torch.testing.assert_close(found, exact, atol=2e-3, rtol=2e-3)  # beliefs are kept in half precision
    (gradient,) = torch.autograd.grad(found, now.logits)
    assert gradient[0].abs().sum() == 0, "the current rows are not held to anything"
    assert gradient[1:].abs().sum() > 0
    assert dark_loss(now, [Item({})], first_row=1) == 0


def test_a_belief_of_few_tokens_has_a_bucket_for_the_rest() -> None:
    then = logits_of([0], 50, 3)
    beliefs = beliefs_of(then, 1, top_k=4)[0]
    assert beliefs[LOG_PROBS].shape == (1, 4)
    same = SupervisedLogits(then.logits, then.targets, then.rows, then.weights)
    assert float(dark_loss(same, [Item({}, beliefs)], 0).detach()) == pytest.approx(0, abs=1e-3)
    kept = then.logits.detach().clone()
    rest = [word for word in range(50) if word not in beliefs[TOKENS][0].tolist()]
    kept[0, rest] = kept[0, rest].flip(0)  # only the others change places among themselves
    moved = SupervisedLogits(kept, then.targets, then.rows, then.weights)
    assert float(dark_loss(moved, [Item({}, beliefs)], 0)) == pytest.approx(0, abs=1e-3)


def test_the_schedule_starts_anew_with_each_task(stream_run: Callable[..., RunConfig]) -> None:
    _, folder = trained(stream_run(num_epochs=4))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = [row["train/lr"] for row in rows if "train/lr" in row]
    assert len(rates) == 24
    assert rates[:8] == rates[8:16] == rates[16:]
    assert min(rates) < 0.2 * max(rates)


def test_own_answers_are_kept_where_the_checker_passes(
    stream_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model here recites the expert, but for one task in three, where it says something else."""
    samples = [*world.generate("planning", "train", 3), *world.generate("tool_selection", "train", 3)]
    trainer = AgentSFTTrainer(stream_run())

    def reciting(model: Any, tokenizer: Any, prompts: Any, **given: Any) -> list[list[int]]:
        texts = []
        for prompt in prompts:
            text = tokenizer.decode(prompt)
            sample = next(s for s in samples if s["messages"][0]["content"] in text)
            turn = text.count("<|im_start|>assistant") - 1
            turns = [m for m in sample["messages"] if m["role"] == "assistant"]
            told = render_reply(turns[turn]) if samples.index(sample) % 3 else "I do not know."
            texts.append(tokenizer(told, add_special_tokens=False)["input_ids"])
        return texts

    monkeypatch.setattr("sagetune.trajectories.local.generate", reciting)
    found = own_answers(trainer.model, trainer.tokenizer, samples, EvaluationConfig(), trainer.console)
    assert [sample["id"] for sample in found] == [sample["id"] for place, sample in enumerate(samples) if place % 3]
    for sample in found:
        expert = next(s for s in samples if s["id"] == sample["id"])
        assert sample["messages"][: len(expert["messages"])] == expert["messages"]
        assert all(message["role"] == "tool" for message in sample["messages"][len(expert["messages"]) :])


def test_on_policy_replay_answers_finished_tasks_anew(
    stream_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def shouting(model: Any, tokenizer: Any, given: Any, config: Any, console: Any) -> Any:
        asked.append([sample["task"] for sample in given])
        answer = {"role": "assistant", "content": "OWN ANSWER"}
        return [{**sample, "messages": [*sample["messages"][:-1], answer]} for sample in given[::2]]

    monkeypatch.setattr("sagetune.between_tasks.own_answers", shouting)
    replays = {"use_online_continual": True, "continual_replay_ratio": 1.0}
    gold, _ = trained(stream_run(**replays))
    own, folder = trained(stream_run(continual={"targets": "self"}, **replays))
    assert asked == [[TASKS[0]] * 8, [TASKS[1]] * 8]
    assert json.loads((folder / "replay.json").read_text())["own_answers"] == 8
    assert not equal(gold, own)


def test_a_task_that_loses_all_its_samples_is_named(stream_run: Callable[..., RunConfig]) -> None:
    run = stream_run(continual={"tasks": ["general", "planning"]}, max_seq_length=420)
    with pytest.raises(ValueError, match=r"no sample of planning can be used for train at sft\.max_seq_length=420"):
        AgentSFTTrainer(run).data.pool()


def test_what_is_selected_for_is_not_what_is_measured_on(stream_run: Callable[..., RunConfig]) -> None:
    given = {"use_coreset_selection": True, "coreset_strategy": "rds", "eval_data": "agent_sft:test"}
    trainer = AgentSFTTrainer(stream_run(**given))
    assert {sample.sample_id.split("/")[2] for sample in trainer.data.dev()} == {"dev"}
    assert {sample.sample_id.split("/")[2] for sample in trainer.data.held_out()} == {"test"}


def test_own_answers_need_a_checker(stream_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    for split in ("train", "test"):
        messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
        rows = [json.dumps({"messages": messages, "id": str(number)}) for number in range(8)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    tasks = ["general", f"{tmp_path}/{{split}}.jsonl"]
    run = stream_run(continual={"tasks": tasks, "targets": "self"}, use_online_continual=True)
    with pytest.raises(ValueError, match=r"continual\.targets=self needs tasks of the embedded world"):
        AgentSFTTrainer(run).train()


def test_rows_of_the_score_matrix_come_between_the_tasks(stream_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    run = stream_run(eval_data="agent_sft:test", budget=BudgetConfig(train_samples=24, eval_samples=7))
    _, folder = trained(dataclasses.replace(run, evaluation=EvaluationConfig(data=None)))
    written = json.loads((folder / "stream.json").read_text())
    assert written["tasks"] == TASKS
    assert [(row["task"], row["step"]) for row in written["rows"]] == [(TASKS[0], 2), (TASKS[1], 4)]
    assert all(list(row["tasks"]) == TASKS for row in written["rows"])
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged if f"stream/{TASKS[2]}/loss" in row] == [2, 4]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"continual": {"strategy": "newest"}}, "continual.strategy must be one of"),
        ({"continual": {"tasks": ["general"]}}, "continual.tasks must be null, or two tasks or more"),
        ({"continual": {"tasks": ["general", "agent_sft:train"]}}, "continual.tasks must be a family, family/domain"),
        ({"continual": {"tasks": ["general", "chess"]}}, "continual.tasks: data 'agent_benchmark:chess:train': family"),
        ({"continual": {"tasks": ["general", "timing/shop"]}}, "cannot be cut by domain, only tool_selection can"),
        ({"continual": {"tasks": ["general", "tool_selection/chess"]}}, "domain must be one of calendar, mail"),
        ({"continual": {"tasks": ["general", "no/{split}.jsonl"]}}, "data 'no/train.jsonl': no such file"),
        ({"continual": {"distill": 0.5}}, "continual.distill must be 0.0 without sft.use_online_continual"),
        ({"stream": "shuffled", "continual": {"strategy": "coreset"}}, "while data.stream is shuffled"),
        ({"stream": "backwards"}, "data.stream must be one of shuffled, sequential"),
        (
            {"budget": BudgetConfig(train_samples=24, eval_samples=2), "eval_data": "agent_sft:test"},
            "budget.eval_samples must be at least one for each of 3",
        ),
        ({"continual": {"draw": "mir", "candidates": 1}}, "continual.candidates must be at least 2"),
        ({"continual": {"weight": 0}}, "continual.weight must be above 0"),
    ],
)
def test_what_a_stream_cannot_do_is_told(
    groups: dict[str, Any], message: str, stream_run: Callable[..., RunConfig]
) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        AgentSFTTrainer(stream_run(**groups))
