"""A short training of an adapter on a part of the pool, and what its checkpoints tell of each sample.

less: gradients of the adapter (Xia et al., arXiv:2402.04333). s2l: loss trajectories (arXiv:2403.07384).
Letters: n samples, P trained parameters, D sketch dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import AdamW

from sagetune.adapters import add_adapter
from sagetune.batching import collate, to_device
from sagetune.chat import Encoded
from sagetune.config import AdapterConfig, AgentSFTConfig, CoresetConfig
from sagetune.losses import token_losses
from sagetune.selection.picks import Progress
from sagetune.selection.scoring import bare, language_model

BATCH_SIZE = 4
SKETCH_SEED = 20240917


@contextmanager
def trainable_adapter(model: nn.Module, seed: int) -> Iterator[PeftModel]:
    """Inside, a PEFT model whose adapter may be trained; afterwards `model` is as it was.

    A model without an adapter gets a fresh LoRA of the default size, in place, and loses it again.
    """
    causal = language_model(model)
    training = causal.training
    trained = {name: parameter.requires_grad for name, parameter in causal.named_parameters()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = causal if isinstance(causal, PeftModel) else _with_adapter(causal)
        before = {name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad}
        if not before:
            raise ValueError("the adapter of the model is frozen: less and s2l train it for a while, load it trainable")
        try:
            yield adapted
        finally:
            with torch.no_grad():
                for name, parameter in adapted.named_parameters():
                    if name in before:
                        parameter.copy_(before[name])
                        parameter.grad = None
            if adapted is not causal:
                adapted.unload()
                for name, parameter in causal.named_parameters():
                    parameter.requires_grad_(trained[name])
            causal.train(training)


def checkpoints(
    model: PeftModel, samples: Sequence[Encoded], options: CoresetConfig, seed: int, on_progress: Progress | None = None
) -> Iterator[tuple[float, AdamW]]:
    """Train on a random share of `samples`; after each epoch yield its mean learning rate and the optimiser.

    AdamW, batches of BATCH_SIZE, mean over the supervised tokens, linear decay to zero.
    """
    rng = np.random.default_rng(seed)
    num = max(1, round(options.warmup_share * len(samples)))
    drawn = rng.permutation(len(samples))[:num]
    steps_per_epoch = -(-num // BATCH_SIZE)
    total = steps_per_epoch * options.warmup_epochs
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.0)
    device = next(model.parameters()).device
    step = 0
    for _ in range(options.warmup_epochs):
        model.train()
        rates = []
        for places in np.array_split(rng.permutation(drawn), steps_per_epoch):
            rates.append(options.warmup_learning_rate * (1 - step / total))
            optimizer.param_groups[0]["lr"] = rates[-1]
            losses = token_losses(model, to_device(collate(samples, places.tolist(), pad_token_id=0), device))
            loss = (losses.nll * losses.weights).sum() / losses.weights.sum()
            if not torch.isfinite(loss):
                names = ", ".join(samples[place].sample_id for place in places)
                raise ValueError(f"the loss of the warm-up is not finite; leave out the bad one of the samples {names}")
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if on_progress is not None:
                on_progress(len(places))
        model.eval()
        yield float(np.mean(rates)), optimizer


def gradient_features(
    model: PeftModel,
    samples: Sequence[Encoded],
    dim: int,
    optimizer: AdamW | None = None,
    on_progress: Progress | None = None,
) -> Tensor:
    """Unit rows float32 (n, D): the gradient of each sample's mean loss by the adapter, sketched; NaN where it is.

    optimizer: its moments turn the gradient into Adam's direction m / (sqrt(v) + epsilon), as LESS does for training
    samples (its equation 5, with Adam's bias correction); None = the gradient itself, as for the development set.
    The sketch adds each coordinate with a random sign to a random one of D sums (Charikar et al. 2002).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    generator = torch.Generator().manual_seed(SKETCH_SEED)
    bucket = torch.randint(0, dim, (size,), generator=generator)
    sign = torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8).mul_(2).sub_(1)
    device = bare(model).device
    rows = torch.zeros(len(samples), dim)
    for place in range(len(samples)):
        losses = token_losses(model, to_device(collate(samples, [place], pad_token_id=0), device))
        ((losses.nll * losses.weights).sum() / losses.weights.sum()).backward()
        direction = torch.cat([_direction(p, optimizer).flatten().cpu() for p in parameters])
        if torch.isfinite(direction).all():
            rows[place].index_add_(0, bucket, direction * sign)
        else:
            rows[place] = float("nan")
        model.zero_grad()
        if on_progress is not None:
            on_progress(1)
    return F.normalize(rows, dim=1)


def _with_adapter(model: nn.Module) -> PeftModel:
    return add_adapter(bare(model), AgentSFTConfig(base_model="given", train_data="given"), AdapterConfig())


def _direction(parameter: nn.Parameter, optimizer: AdamW | None) -> Tensor:
    gradient = parameter.grad
    assert gradient is not None
    if optimizer is None:
        return gradient.float()
    group, state = optimizer.param_groups[0], optimizer.state[parameter]
    beta1, beta2 = group["betas"]
    step = float(state["step"]) + 1
    first = beta1 * state["exp_avg"] + (1 - beta1) * gradient
    second = beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient.square()
    return (first / (1 - beta1**step) / ((second / (1 - beta2**step)).sqrt() + group["eps"])).float()
