"""Writes tests/data/{dpo,ppo,ppo_update,grpo}_vectors.json: what TRL 1.12.0, the last one with PPO, computes.

pip install -e '.[oracle]' && python tests/oracles/make_rl_vectors.py [folder]

TRL's own trainers run; numbers are read out of them (of PPO, whose update is one long function, out of its frame).
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
import trl.experimental.ppo.ppo_trainer as ppo_trainer
from datasets import Dataset
from peft import get_peft_model, inject_adapter_in_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from rl_model import EOS, PAD, VOCABULARY, base_model, fill, llama, lora, short_name

FOLDER = Path(__file__).parents[1] / "data"
QUIET: dict[str, Any] = {
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "logging_steps": 1,
    "seed": 0,
}
DPO_CASES = (("sigmoid", 0.1, 0.0), ("hinge", 0.3, 0.0), ("ipo", 1.0, 0.0), ("robust", 0.1, 0.2))
GRPO_CASES = (
    # loss_type, level, clip_low, clip_high, kl_coef
    ("grpo", "token", 0.2, 0.2, 0.0),
    ("dapo", "token", 0.2, 0.28, 0.04),
    ("dr_grpo", "token", 0.1, 0.3, 0.0),
    ("grpo", "sequence", 0.02, 0.05, 0.1),
)


def tokenizer(side: str = "right") -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": PAD, "<eos>": EOS, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side=side)


def written(values: Any) -> Any:
    """Tensors as lists of numbers with nine digits, which tell every float32 apart."""
    if isinstance(values, Tensor):
        return written(values.detach().tolist())
    if isinstance(values, dict):
        return {name: written(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [written(value) for value in values]
    return float(f"{values:.9g}") if isinstance(values, float) else values


def adapter_tensors(model: torch.nn.Module, what: str) -> dict[str, Tensor]:
    trained = {short_name(name): p for name, p in model.named_parameters() if p.requires_grad}
    return {name: (p.grad if what == "grad" else p.detach()).flatten().clone() for name, p in trained.items()}


def dpo(folder: str) -> dict[str, Any]:
    rows = [
        {
            "prompt": f"w{3 + i} w7",
            "chosen": f" w{9 + i} w5 w6" + " w8" * i,
            "rejected": f" w{12 + i} w8" + " w4" * (i % 2),
        }
        for i in range(4)
    ]
    args = DPOConfig(
        folder,
        per_device_train_batch_size=4,
        max_steps=3,
        learning_rate=1e-3,  # Adam divides by the gradient: at 1e-2 rounding alone moves one weight by 4e-6
        lr_scheduler_type="constant",
        max_grad_norm=1e9,
        beta=0.1,
        **QUIET,
    )
    trainer = DPOTrainer(
        base_model(), args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer(), peft_config=lora()
    )
    fill(trainer.model, 0.3, only="lora_")
    batch = next(iter(trainer.get_train_dataloader()))
    cases = []
    for loss, beta, smoothing in DPO_CASES:
        trainer.loss_types, trainer.beta, trainer.label_smoothing = [loss], beta, smoothing
        trainer._metrics["train"].clear()
        trainer.model.zero_grad()
        value = trainer._compute_loss(trainer.model, dict(batch), return_outputs=False)
        value.backward()
        metrics = {name: found[0] for name, found in trainer._metrics["train"].items() if name[:4] in ("rewa", "logp")}
        case = {"loss": loss, "beta": beta, "label_smoothing": smoothing, "value": value.item(), "metrics": metrics}
        cases.append(case | {"gradients": adapter_tensors(trainer.model, "grad")})
    trainer.loss_types, trainer.beta, trainer.label_smoothing = ["sigmoid"], 0.1, 0.0
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    trainer.train()
    logged = [row for row in trainer.state.log_history if "rewards/margins" in row]
    steps = {"losses": [row["loss"] for row in logged], "weights": adapter_tensors(trainer.model, "weight")}
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "completion_mask": batch["completion_mask"],
        "cases": cases,
        "steps": steps,
    }


class Frames:
    """Takes the place of one of TRL's functions and keeps local variables of whoever calls it."""

    def __init__(self, name: str, wanted: tuple[str, ...], given: tuple[str, ...]) -> None:
        self.function = getattr(ppo_trainer, name)
        self.wanted, self.given, self.found = wanted, given, []
        setattr(ppo_trainer, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.function(*args, **kwargs)
        caller = inspect.currentframe().f_back.f_locals
        row = {name: caller[name].clone() for name in self.wanted if isinstance(caller.get(name), Tensor)}
        self.found.append(row | dict(zip(self.given, args, strict=False)) | {"result": result})
        return result


def ppo(folder: str) -> dict[str, Any]:
    torch.manual_seed(0)
    policy, reference = LlamaForCausalLM(llama()), LlamaForCausalLM(llama())
    value, reward = (LlamaForSequenceClassification(llama(num_labels=1)) for _ in range(2))
    for place, model in enumerate((policy, reference, value, reward)):
        fill(model, 0.2 + 0.05 * place)
    data = Dataset.from_dict({"input_ids": [[3 + i % 5, 7, 5 + i % 3, 4] for i in range(4)]})
    args = PPOConfig(
        folder,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=3,
        total_episodes=4,
        response_length=5,
        stop_token="eos",
        temperature=1.0,
        learning_rate=5e-2,  # far enough that ratios and values are clipped
        num_sample_generations=0,
        gamma=0.97,
        lam=0.9,
        kl_coef=0.05,
        **(QUIET | {"seed": 3}),  # one of the four replies ends early with it
    )
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer("left"),
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=data,
        eval_dataset=data,
    )
    shared = ("rewards", "values", "padding_mask", "padding_mask_p1", "logprobs", "ref_logprobs", "kl")
    whitened = Frames("masked_whiten", shared, ("advantages",))
    batch = ("new_logprobs", "mb_logprobs", "mb_advantage", "vpred", "mb_values", "mb_return", "micro_batch_inds")
    means = Frames("masked_mean", batch, ("per_token", "mask"))
    trainer.train()
    rollout = {name: whitened.found[0][name] for name in (*shared, "advantages")}
    rollout["whitened"] = whitened.found[0]["result"].masked_fill(rollout["padding_mask"], 0)
    # Of each update TRL asks for four means: value loss, its clipped share, policy loss, its clipped share.
    asked = [row for row in means.found if "new_logprobs" in row]
    updates = [asked[place : place + 4] for place in range(0, len(asked), 4)]
    order = ("value_loss", "value_clipped", "policy_loss", "policy_clipped")
    figures = []
    for update in updates:
        row = {name: update[-1][name] for name in batch if name in update[-1]}
        row |= {name: mean["result"].item() for name, mean in zip(order, update, strict=True)}
        row["value_loss"] *= 0.5
        row |= {"mask": update[2]["mask"], "value_mask": update[0]["mask"]}
        figures.append(row)
    return {"gamma": 0.97, "lam": 0.9, "clip": 0.2, "rollout": rollout, "updates": figures[1:]}


def ppo_update(folder: str) -> dict[str, Any]:
    """One whole update: a policy and a value adapter over one base, the reference by the switched-off adapter."""
    torch.manual_seed(0)
    policy = get_peft_model(base_model(), lora())
    fill(policy, 0.3, only="lora_")
    value = LlamaForSequenceClassification(llama(num_labels=1))
    value.model.load_state_dict(base_model().model.state_dict())
    inject_adapter_in_model(lora(), value)
    fill(value, 0.2, only="lora_")
    fill(value, 0.1, only="score")
    value.score.requires_grad_(True)
    reward = LlamaForSequenceClassification(llama(num_labels=1))
    fill(reward, 0.35)
    data = Dataset.from_dict({"input_ids": [[3 + i % 5, 7, 5 + i % 3, 4] for i in range(4)]})
    args = PPOConfig(
        folder,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=2,
        total_episodes=4,
        response_length=5,
        temperature=1.0,
        learning_rate=1e-3,
        num_sample_generations=0,
        gamma=0.97,
        lam=0.9,
        kl_coef=0.05,
        **(QUIET | {"seed": 4}),
    )
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer("left"),
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=data,
        eval_dataset=data,
    )
    models = {"policy": policy, "value": value}
    before = {role: adapter_tensors(model, "weight") for role, model in models.items()}
    whitened = Frames("masked_whiten", ("queries", "responses", "scores"), ())
    logged: list[dict[str, float]] = []
    trainer.log = lambda metrics, *_: logged.append(dict(metrics))
    trainer.train()
    seen = whitened.found[0]
    assert not (seen["responses"] == PAD).any(), "choose a seed whose replies are not cut"
    told = {name: float(value) for name, value in logged[0].items() if "/" in name and "eos" not in name}
    rollout = {name: seen[name] for name in ("queries", "responses", "scores")}
    after = {role: adapter_tensors(model, "weight") for role, model in models.items()}
    return {"gamma": 0.97, "lam": 0.9, "kl_coef": 0.05, **rollout, "before": before, "after": after, "metrics": told}


def grpo(folder: str) -> dict[str, Any]:
    rewards = [0.0, 1.0, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0, -1.0, 0.25, 0.0, 3.0]
    data = Dataset.from_list([{"prompt": f"w{3 + i}"} for i in range(3)])
    args = GRPOConfig(
        folder,
        per_device_train_batch_size=12,
        num_generations=4,
        max_completion_length=6,
        use_bias_correction_kl=False,
        **QUIET,
    )
    trainer = GRPOTrainer(
        base_model(),
        lambda completions, **_: rewards,
        args=args,
        train_dataset=data,
        processing_class=tokenizer("left"),
    )
    advantages = {}
    for scale in ("group", "batch", "none"):
        trainer.scale_rewards = scale
        rows = [{"prompt": f"w{3 + place // 4}"} for place in range(12)]
        advantages[scale] = trainer._generate_and_score_completions(rows)["advantages"]
    place = torch.arange(24, dtype=torch.float64).view(4, 6)
    logps, old = (-1.5 + torch.sin(place)).float(), (-1.5 + torch.sin(place) + 0.4 * torch.cos(3 * place)).float()
    reference = (-1.5 + torch.sin(place) - 0.3 * torch.cos(2 * place)).float()
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 1]])
    of_rows = torch.tensor([1.2, -0.7, 0.4, -1.1])
    inputs = {
        "prompt_ids": torch.ones(4, 1, dtype=torch.int64),
        "prompt_mask": torch.ones(4, 1, dtype=torch.int64),
        "completion_ids": torch.ones(4, 6, dtype=torch.int64),
        "completion_mask": torch.ones(4, 6, dtype=torch.int64),
        "tool_mask": mask,
        "num_items_in_batch": mask.sum(),
        "ref_per_token_logps": reference,
        "advantages": of_rows,
        "old_per_token_logps": old,
    }
    cases = []
    trainer.current_gradient_accumulation_steps = 1
    trainer.args.steps_per_generation = 1
    for loss_type, level, low, high, beta in GRPO_CASES:
        trainer.loss_type, trainer.importance_sampling_level, trainer.beta = loss_type, level, beta
        trainer.epsilon_low, trainer.epsilon_high = low, high
        leaf = logps.clone().requires_grad_()
        trainer._get_per_token_logps_and_entropies = lambda *_, leaf=leaf, **__: (leaf, torch.zeros(4, 6), None)
        value = trainer._compute_loss(SimpleNamespace(), inputs)
        value.backward()
        case = {"loss_type": loss_type, "level": level, "clip_low": low, "clip_high": high, "kl_coef": beta}
        cases.append(case | {"value": value.item(), "gradient": leaf.grad})
    shared = {"logps": logps, "old_logps": old, "reference": reference, "mask": mask, "max_tokens": 6}
    return {"rewards": rewards, "advantages": advantages, "advantages_of_rows": of_rows, **shared, "cases": cases}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    versions = {"trl": trl.__version__, "torch": torch.__version__}
    for name, make in (("dpo", dpo), ("ppo", ppo), ("ppo_update", ppo_update), ("grpo", grpo)):
        with tempfile.TemporaryDirectory() as work:
            vectors = written(versions | make(work))
        (folder / f"{name}_vectors.json").write_text(json.dumps(vectors) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
