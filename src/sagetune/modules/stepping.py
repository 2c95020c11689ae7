"""One exact optimiser step, whatever is optimised: its schedule, its gradients, and how it is resumed half-way."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from sagetune.adapters import parameter_groups
from sagetune.config import RunConfig

Parameters = Mapping[str, nn.Parameter]


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; raised before the optimiser touches a weight."""


def refuse(what: str, step: int, samples: Iterable[str]) -> NoReturn:
    """Raise NonFiniteError for optimiser step `step`, naming the samples that were in it."""
    raise NonFiniteError(
        f"the {what} of step {step} is not finite; no weight was changed by it. Samples: {', '.join(samples)}. "
        f"Look at them with `sagetune doctor`, lower sft.learning_rate, or set model.dtype=float32."
    )


def optimizer_and_schedule(model: nn.Module, run: RunConfig, task_steps: Sequence[int]) -> dict[str, Any]:
    """What `configure_optimizers` returns: AdamW over the groups of `parameter_groups`, its rate scheduled by the step.

    task_steps: optimiser steps of each task of a stream, whose rates rise and fall one after the other.
    """
    optim = run.optim
    optimizer = AdamW(
        parameter_groups(model, run.sft, optim), betas=(optim.beta1, optim.beta2), eps=optim.epsilon, fused=True
    )

    def factor(step: int) -> float:
        """`lr_factor` of the task that the step is in; the scheduler asks for one step more than there are."""
        for steps in task_steps[:-1]:
            if step < steps:
                return lr_factor(step, math.ceil(optim.warmup_ratio * steps), steps, optim.lr_schedule)
            step -= steps
        last = task_steps[-1]
        return lr_factor(step, math.ceil(optim.warmup_ratio * last), last, optim.lr_schedule)

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def lr_factor(step: int, warmup: int, total: int, schedule: str) -> float:
    """Learning rate over its peak at optimiser step `step` (from 0) of `total`.

    Rises linearly over `warmup` steps, then falls along a cosine or a line to 0 after the last step, or stays.
    """
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(total - warmup, 1)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}[schedule]


def finish_gradients(parameters: Parameters, factor: float, limit: float) -> Tensor:
    """Multiply the gradients by `factor`, clip their global norm to `limit` (0 = not), return the norm before that.

    A norm that is not finite is returned, and nothing is clipped: the caller must not go on.
    """
    gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
    torch._foreach_mul_(gradients, factor)
    norm = nn.utils.get_total_norm(gradients)
    if limit > 0 and torch.isfinite(norm):
        nn.utils.clip_grads_with_norm_(list(parameters.values()), limit, norm)
    return norm


def over_processes(values: list[float], world_size: int, device: torch.device) -> list[float]:
    """The sums of `values` over all processes."""
    if world_size == 1:
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def open_step(parameters: Parameters, window: dict[str, Any], begun: bool) -> dict[str, Any]:
    """What Lightning does not keep in a checkpoint: random states, and the open step with its gradients."""
    return {
        "random": random_states(),
        "window": window,
        "gradients": {name: p.grad for name, p in parameters.items() if p.grad is not None and begun},
        "threads": torch.get_num_threads(),
    }


def reopen_step(state: dict[str, Any], parameters: Parameters, window: dict[str, Any]) -> None:
    """Put back what `open_step` returned."""
    torch.set_num_threads(state["threads"])  # another number sums in another order, and the last bits differ
    window.update(state["window"])
    for name, parameter in parameters.items():
        if name in state["gradients"]:
            parameter.grad = state["gradients"][name].to(parameter.device)
    set_random_states(state["random"])


def random_states() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's global generators, as plain containers and tensors."""
    legacy: Any = np.random.get_state(legacy=True)
    kind, keys, position, has_gauss, gauss = legacy
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [str(kind), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` returned."""
    random.setstate(states["python"])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
