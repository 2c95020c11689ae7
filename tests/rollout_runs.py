"""What tests of PPO and GRPO share: a tiny model whose tokens differ in likelihood, and runs on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from sagetune.adapters import add_adapter
from sagetune.chat import prepare_tokenizer, prompt_ids
from sagetune.config import (
    AdapterConfig,
    AgentSFTConfig,
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    RLTrainingConfig,
    RolloutConfig,
    RunConfig,
    TrainerConfig,
    WandbConfig,
)
from sagetune.embedded import tiny_model, tiny_tokenizer
from sagetune.models import load_model
from sagetune.rollouts.roles import Roles
from sagetune.rollouts.rollout import Rollout

FLOAT32 = ModelConfig(dtype="float32")
SPREAD = 4.0
"""The tiny model's logits lie within 1.3 of each other, whatever an adapter does; times this they can be moved."""


def base_folder(path: Path) -> str:
    """The tiny model with larger embeddings, which are its output head, too."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(SPREAD)
    prepare_tokenizer(tokenizer)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def questions(path: Path, num: int = 1) -> str:
    """A file of conversations that nothing but a reward function judges."""
    asked = ("pick", "choose", "take", "select")[:num]
    turns = ([{"role": "user", "content": word}, {"role": "assistant", "content": "x"}] for word in asked)
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    return str(path)


@torch.no_grad()
def two_armed_folder(path: Path) -> str:
    """The tiny model with an output head of its own, which after "pick" leaves two likely tokens, both alike: a, b."""
    tokenizer, tiny = tiny_tokenizer(), tiny_model()
    prepare_tokenizer(tokenizer)
    config = tiny.config
    config.tie_word_embeddings = False
    model = LlamaForCausalLM(config)
    model.load_state_dict(tiny.state_dict())
    prompt = prompt_ids([{"role": "user", "content": "pick"}], [], tokenizer)
    state = model.model(torch.tensor([prompt])).last_hidden_state[0, -1]
    direction = torch.sin(torch.arange(len(state)).float())
    direction -= direction @ state / (state @ state) * state
    model.lm_head.weight.zero_()
    for arm, sign in zip(tokenizer.encode("ab"), (1, -1), strict=True):
        model.lm_head.weight[arm] = 8 * state / (state @ state) + 0.2 * sign * direction
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def bandit(rollout: Rollout) -> float:
    """Of the arms a and b the second one pays."""
    return float(rollout.replies[0] == "b")


def rollout_run(base: str, data: str, folder: Path, algorithm: str, **given: Any) -> RunConfig:
    """A run of updates with 32 rollouts of one token, all in one optimiser step; keyword arguments set groups, or
    fields of `sft`.
    """
    groups = {name: given.pop(name) for name in list(given) if name in RunConfig.__dataclass_fields__}
    sft = {"learning_rate": 1e-2, "lora_r": 4, "batch_size": 32, "gradient_accumulation_steps": 1} | given
    options: dict[str, Any] = {
        "rl": RLTrainingConfig(algorithm=algorithm, kl_coef=0.01),
        "rollout": RolloutConfig(tasks=1, samples=32, max_new_tokens=1),
        "optim": OptimConfig(lr_schedule="constant", warmup_ratio=0),
        "model": FLOAT32,
        "evaluation": EvaluationConfig(data=None, batch_size=32),
        "trainer": TrainerConfig(accelerator="cpu"),
        "wandb": WandbConfig(mode="disabled"),
    }
    return RunConfig(sft=AgentSFTConfig(base, data, output_dir=folder, **sft), **(options | groups))


def make_roles(base: str, *, has_value: bool = True) -> Roles:
    torch.manual_seed(0)
    sft = AgentSFTConfig(base, "agent_sft:train", lora_r=4)
    model = add_adapter(load_model(base, FLOAT32), sft, AdapterConfig())
    return Roles(model.eval(), start=None, has_value=has_value, seed=0)


def fill(roles: Roles, role: str, size: float = 0.3) -> None:
    """Move the role's parameters away from where they start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in roles.trained[role].values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
