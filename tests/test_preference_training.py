"""Direct preference optimisation: TRL's numbers to the last digit, and a run like any other."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch import Tensor

from forked import Forked
from rl_model import base_model, fill, lora, short_name
from sage.libs.finetune.agent import AgentRLTrainer, AgentSFTConfig, AgentSFTTrainer, RLTrainingConfig
from sagetune.attention import SEGMENT
from sagetune.batching import BatchLoader, collate
from sagetune.chat import IGNORE_INDEX, Encoded
from sagetune.config import AdapterConfig, BudgetConfig, DPOConfig, ModelConfig, OptimConfig, RunConfig
from sagetune.evaluation.pairs import sequence_logps
from sagetune.lora_linear import speed_up
from sagetune.losses import row_logps, token_losses
from sagetune.modules.preference import PreferenceModule
from sagetune.modules.stepping import NonFiniteError
from sagetune.objectives.dpo import dpo_losses, log_ratios, pair_metrics
from sagetune.runfolder import RunFolder
from test_resume import finish, resume, rows, send_when

MakeRun = Callable[..., RunConfig]
DPO = RLTrainingConfig(algorithm="dpo")
FLOAT32 = ModelConfig(dtype="float32")
VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "dpo_vectors.json").read_text())
WORDS = ("shop", "mail", "bank", "note", "call", "trip", "file", "list")


def pairs_file(path: Path, words: tuple[str, ...] = WORDS) -> str:
    """Whatever is asked, a polite answer is better than a rude one."""
    records = [{"prompt": f"help with {word}", "chosen": f"Sure, {word}.", "rejected": f"No {word}!"} for word in words]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def make_dpo(make_run: MakeRun, tmp_path: Path) -> MakeRun:
    def make(dpo: DPOConfig | None = None, **given: Any) -> RunConfig:
        common = {"train_data": pairs_file(tmp_path / "pairs.jsonl"), "model": FLOAT32, "batch_size": 4}
        run = make_run(**(common | {"gradient_accumulation_steps": 1, "num_epochs": 2} | given))
        return dataclasses.replace(run, rl=DPO, dpo=dpo or DPOConfig())

    return make


def adapter_of(run_dir: str) -> dict[str, Tensor]:
    return load_file(RunFolder(Path(run_dir)).model / "adapter_model.safetensors")


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


# TRL's numbers


def trl_rows() -> list[Encoded]:
    """TRL's batch, its chosen rows and then its rejected ones, as pairs."""
    encoded = []
    for ids, real, scored in zip(*(VECTORS[name] for name in MASKS), strict=True):
        length = sum(real)
        labels = [token if use else IGNORE_INDEX for token, use in zip(ids, scored, strict=True)]
        encoded.append(Encoded(f"row{len(encoded)}", "", ids[:length], labels[:length], None, 0))
    half = len(encoded) // 2
    return [row for pair in zip(encoded[:half], encoded[half:], strict=True) for row in pair]


MASKS = ("input_ids", "attention_mask", "completion_mask")


def trl_model() -> Any:
    model = base_model()
    model.set_attn_implementation(SEGMENT)
    adapted = get_peft_model(model, lora())
    speed_up(adapted)
    fill(adapted, 0.3, only="lora_")
    return adapted.eval()


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["loss"])
def test_losses_metrics_and_gradients_are_trls(case: dict[str, Any], one_thread: None) -> None:
    model, samples = trl_model(), trl_rows()
    with torch.no_grad(), model.disable_adapter():
        reference, _ = sequence_logps(model, samples, batch_size=3, pad_token_id=0)
    logps, lengths = row_logps(token_losses(model, collate(samples, range(8), 0)), 8)
    ratios = log_ratios(logps.view(-1, 2), reference.view(-1, 2))
    options = {name: case[name] for name in ("beta", "loss", "label_smoothing")}
    loss = dpo_losses(ratios, lengths.view(-1, 2), **options).mean()
    loss.backward()
    assert loss.item() == pytest.approx(case["value"], abs=1e-6, rel=1e-6)
    metrics = pair_metrics(logps.view(-1, 2).detach(), ratios.detach(), beta=case["beta"])
    assert {name: values.mean().item() for name, values in metrics.items()} == {
        # Rewards are differences of log-probabilities near -20, whose float32 neighbours are 2e-6 apart.
        name: pytest.approx(value, abs=2e-6, rel=1e-6)
        for name, value in case["metrics"].items()
    }
    gradients = {short_name(name): p.grad.flatten() for name, p in model.named_parameters() if p.grad is not None}
    assert largest_difference(gradients, {n: torch.tensor(g) for n, g in case["gradients"].items()}) < 1e-6


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("reference", ["precomputed", "adapter"])
def test_three_steps_end_with_trls_weights(
    accumulate: int, reference: str, make_run: MakeRun, one_thread: None
) -> None:
    """However the four pairs of a step are cut into micro-batches (2, 1, 1), and wherever the reference comes from."""
    optim = OptimConfig(max_grad_norm=0, lr_schedule="constant", warmup_ratio=0)
    run = dataclasses.replace(make_run(optim=optim, lora_r=2, lora_alpha=4, learning_rate=1e-3), rl=DPO)
    model, samples = trl_model(), trl_rows()
    with torch.no_grad(), model.disable_adapter():
        known, _ = sequence_logps(model, samples, batch_size=8, pad_token_id=0)
    module = PreferenceModule(
        model,
        run,
        DPO,
        total_steps=3,
        sample_ids=[sample.sample_id for sample in samples],
        reference=known if reference == "precomputed" else None,
    )
    loader = BatchLoader(
        samples, batch_size=-(-4 // accumulate), accumulate=accumulate, pad_token_id=0, seed=0, group_size=2
    )
    losses = Losses()
    lightning.Trainer(
        **{"accelerator": "cpu", "max_steps": 3, "max_epochs": 3, "logger": False, "barebones": False},
        **{"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
        accumulate_grad_batches=accumulate,
        callbacks=[losses],
    ).fit(module, loader)
    assert losses.found == pytest.approx(VECTORS["steps"]["losses"], abs=1e-6)
    weights = {short_name(name): p.detach().flatten() for name, p in module.trained_parameters().items()}
    theirs = {name: torch.tensor(values) for name, values in VECTORS["steps"]["weights"].items()}
    assert largest_difference(weights, theirs) < 1e-6
    moved = {short_name(name): p.detach().flatten() for name, p in trl_model().named_parameters() if p.requires_grad}
    assert largest_difference(theirs, moved) > 2e-3


class Losses(lightning.Callback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        assert not module.model.training, "dropout is off"
        if trainer.global_step > len(self.found):
            self.found.append(module.last_step["train/loss"])


# What training does


def test_the_log_probability_of_a_row_is_that_of_its_supervised_tokens_alone() -> None:
    """Against the full log-softmax; whatever the model makes of masked tokens does not enter."""
    model, samples = trl_model(), trl_rows()
    batch = collate(samples, range(8), 0)
    logps, counts = row_logps(token_losses(model, batch), 8)
    for place, sample in enumerate(samples):
        length = len(sample.input_ids)
        ids = torch.tensor([sample.input_ids])
        scores = model(input_ids=ids, cu_seq_lens_q=torch.tensor([0, length])).logits[0].log_softmax(-1)
        wanted = [t for t in range(1, length) if sample.labels[t] != IGNORE_INDEX]
        total = sum(scores[t - 1, sample.input_ids[t]] for t in wanted)
        torch.testing.assert_close(logps[place], total, atol=1e-5, rtol=0)
        assert counts[place] == len(wanted)


def test_a_pair_of_equal_sides_has_no_gradient() -> None:
    model, side = trl_model(), trl_rows()[0]
    logps, lengths = row_logps(token_losses(model, collate([side, side], [0, 1], 0)), 2)
    for loss in ("sigmoid", "hinge", "robust", "ipo"):
        model.zero_grad()
        losses = dpo_losses(logps.view(1, 2), lengths.view(1, 2), beta=0.1, loss=loss)
        losses.sum().backward(retain_graph=True)
        gradients = [p.grad.abs().max().item() for p in model.parameters() if p.grad is not None]
        assert gradients
        assert max(gradients) < 1e-6


def test_the_margin_rises_on_pairs_that_were_not_trained_on(make_dpo: MakeRun, tmp_path: Path) -> None:
    held_out = pairs_file(tmp_path / "held_out.jsonl", ("game", "book", "plan"))
    run = make_dpo(eval_data=held_out, num_epochs=8)
    trainer = AgentRLTrainer(run)
    before = trainer.evaluate(held_out)
    assert (before.margin, before.accuracy) == (0.0, 0.0), "the reference rewards nothing"
    result = trainer.train()
    assert set(result.startup) == {"data", "model", "other"}
    after = trainer.evaluate(held_out)
    assert after.margin > 0.5
    assert after.accuracy == 1.0
    assert after.loss < before.loss
    fresh = AgentRLTrainer(run)
    fresh.load_model(result.model_dir)
    assert fresh.evaluate(held_out) == after, "the saved model, against a reference that is loaded anew"


def test_both_references_and_all_cuts_of_a_step_train_alike(make_dpo: MakeRun) -> None:
    cut = {"batch_size": 3, "gradient_accumulation_steps": 2}  # steps of 6 and 2 pairs
    runs = [
        make_dpo(batch_size=6),
        make_dpo(**cut),
        make_dpo(DPOConfig(reference="adapter"), **cut),
    ]
    weights = [adapter_of(AgentRLTrainer(run).train().run_dir) for run in runs]
    assert largest_difference(weights[0], weights[1]) < 1e-5
    assert largest_difference(weights[0], weights[2]) < 1e-5


def test_training_goes_on_from_the_adapter_of_a_run_which_is_then_the_reference(
    make_run: MakeRun, make_dpo: MakeRun, tmp_path: Path
) -> None:
    imitation = make_run(budget=BudgetConfig(train_samples=8, max_steps=2), model=FLOAT32)
    first = AgentSFTTrainer(imitation).train()
    run = dataclasses.replace(make_dpo(num_epochs=1), adapter=AdapterConfig(start_from=first.run_dir))
    result = AgentRLTrainer(run).train()
    logged = [json.loads(line) for line in rows(Path(result.run_dir))]
    assert logged[0]["train/rewards/margins"] == pytest.approx(0, abs=1e-4)
    old, new = adapter_of(first.run_dir), adapter_of(result.run_dir)
    assert 0 < largest_difference(old, new) < 0.05
    unlike = dataclasses.replace(run, sft=dataclasses.replace(run.sft, lora_r=8))
    with pytest.raises(ValueError, match=r"adapter\.start_from: .* was made with sft\.lora_r=4: set that, too"):
        AgentRLTrainer(unlike)
    nowhere = dataclasses.replace(run, adapter=AdapterConfig(start_from=str(tmp_path)))
    with pytest.raises(ValueError, match=r"adapter\.start_from: there is no adapter in"):
        AgentRLTrainer(nowhere)


def test_a_loss_that_is_not_finite_stops_before_a_weight_moves_and_names_the_pair(
    make_dpo: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = AgentRLTrainer(make_dpo())
    step, seen = PreferenceModule.training_step, {}

    def poison(module: PreferenceModule, batch: Any, index: int) -> Tensor:
        assert module.reference is not None
        seen.update({name: p.detach().clone() for name, p in module.trained_parameters().items()})
        seen["module"] = module
        module.reference[module.sample_ids.index("pairs:3/chosen")] = float("nan")
        return step(module, batch, index)

    monkeypatch.setattr(PreferenceModule, "training_step", poison)
    told = r"no weight was changed.*Samples: pairs:3/chosen, pairs:3/rejected\."
    with pytest.raises(NonFiniteError, match=told):
        trainer.train()
    module = seen.pop("module")
    assert all(torch.equal(p, seen[name]) for name, p in module.trained_parameters().items())


# The public reference's classes


def test_the_trainer_takes_the_references_configs_and_refuses_what_cannot_be_done(tmp_path: Path) -> None:
    data = pairs_file(tmp_path / "pairs.jsonl")
    sft = AgentSFTConfig(base_model="embedded:tiny", train_data=data, output_dir=tmp_path)
    assert AgentRLTrainer(sft, DPO).run.rl == DPO
    with pytest.raises(
        ValueError, match=r"^sft\.train_data: .*pairs\.jsonl:1: record: .* has prompt, chosen, rejected"
    ):
        AgentRLTrainer(sft, RLTrainingConfig())
    with pytest.raises(ValueError, match="rl_config must be an RLTrainingConfig"):
        AgentRLTrainer(sft)
    world = dataclasses.replace(sft, train_data="agent_sft:train")
    with pytest.raises(ValueError, match=r"sft\.train_data: agent_sft:train has conversations, not pairs"):
        AgentRLTrainer(world, DPO)


# A run like any other

COMMAND = [
    *("train", "objective=dpo", "model=tiny", "data=file", "sft.batch_size=2"),
    *("sft.gradient_accumulation_steps=2", "sft.learning_rate=0.01", "budget=smoke", "budget.max_steps=24"),
    *("sft.num_epochs=12", "trainer.checkpoint_every_n_steps=4", "sft.lora_r=4"),
]


def start(folder: Path, data: str, *overrides: str) -> Forked:
    place = [f"sft.train_data={data}", f"sft.output_dir={folder.parent}", f"run_name={folder.name}"]
    return Forked(*COMMAND, *place, *overrides, environment={"WANDB_MODE": "disabled"})


@pytest.mark.thorough
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    data = pairs_file(tmp_path / "pairs.jsonl", WORDS[:7])  # the last step of an epoch is short
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    finish(start(alone, data))
    process = start(killed, data)
    for moment in (3, 13):
        send_when(process, killed, moment, signal.SIGKILL)
        process = resume(killed)
    finish(process)
    for name in ("adapter/adapter_model.safetensors", "reference.json"):
        assert (killed / name).read_bytes() == (alone / name).read_bytes()
    untimed = [
        [{name: v for name, v in json.loads(row).items() if "second" not in name} for row in rows(folder)]
        for folder in (killed, alone)
    ]
    assert untimed[0] == untimed[1]
    assert len(untimed[0]) == 24


def test_a_run_tells_its_margins_in_log_result_and_report(tmp_path: Path) -> None:
    data, held_out = pairs_file(tmp_path / "pairs.jsonl"), pairs_file(tmp_path / "eval.jsonl", WORDS[:2])
    folder = tmp_path / "run"
    given = (f"sft.eval_data={held_out}", "budget.max_steps=4", "trainer.eval_every_n_steps=2", "dpo.loss=ipo")
    output = finish(start(folder, data, *given))
    assert "pairs: reward margin" in output
    logged = {name for row in rows(folder) for name in json.loads(row)}
    metrics = ("chosen", "rejected", "accuracies", "margins")
    assert logged >= {f"{part}/rewards/{name}" for part in ("train", "eval") for name in metrics}
    assert logged >= {"train/logps/chosen", "train/logps/rejected", "eval/loss", "train/grad_norm"}
    result = json.loads((folder / "result.json").read_text())
    assert (result["objective"], result["status"], result["steps"]) == ("dpo", "done", 4)
    assert result["before"]["preferences"]["margin"] == 0.0
    assert result["after"]["preferences"]["num_pairs"] == 2
    assert result["data"]["train"] == {"read": 8, "used": 8, "reference": data, "skipped": 0}
    page = (folder / "report.html").read_text()
    assert "reward margin, chosen over rejected" in page
    assert "pairs whose chosen has the larger reward" in page
