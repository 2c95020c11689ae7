"""Which of two conversations a model prefers, and by how much, against its reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sagetune.batching import collate, to_device
from sagetune.chat import Encoded
from sagetune.config import DPOConfig, RLTrainingConfig
from sagetune.losses import row_logps, token_losses
from sagetune.objectives.dpo import dpo_losses, log_ratios, pair_metrics


@dataclass(frozen=True, slots=True)
class PreferenceResult:
    """Figures of a model on held-out pairs. A reward is rl.kl_coef times the log-ratio to the reference."""

    accuracy: float
    """Share of pairs whose chosen has the larger reward, 0-1; 0 for the reference itself, which rewards nothing."""
    loss: float
    """Mean DPO loss of a pair."""
    margin: float
    """Mean reward of the chosen less that of the rejected."""
    chosen_reward: float
    rejected_reward: float
    chosen_logp: float
    """Mean log-probability of the chosen's supervised tokens, nats."""
    rejected_logp: float
    likelier: float
    """Share of pairs whose chosen is the likelier one, whatever the reference says, 0-1."""
    num_pairs: int


@torch.no_grad()
def sequence_logps(
    model: nn.Module, samples: Sequence[Encoded], *, batch_size: int, pad_token_id: int
) -> tuple[Tensor, Tensor]:
    """Log-probability of each sample's supervised tokens, and their number; float32 (n,) each, on the CPU.

    Raises ValueError naming the samples whose log-probability is not finite. The model's training mode is put back.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    logps, counts = torch.zeros(len(samples)), torch.zeros(len(samples))
    order = sorted(range(len(samples)), key=lambda index: len(samples[index].input_ids))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = to_device(collate(samples, places, pad_token_id), device)
        sums, num = row_logps(token_losses(model, batch), len(places))
        logps[places], counts[places] = sums.cpu(), num.cpu()
    model.train(was_training)
    bad = [samples[index].sample_id for index in (~torch.isfinite(logps)).nonzero()[:, 0].tolist()]
    if bad:
        raise ValueError(f"the log-probability of {', '.join(bad)} is not finite: set model.dtype=float32")
    return logps, counts


def compare(logps: Tensor, counts: Tensor, reference: Tensor, rl: RLTrainingConfig, dpo: DPOConfig) -> PreferenceResult:
    """The figures over pairs; tensors float32 (2 P,), a pair's chosen and then its rejected, as of `sequence_logps`."""
    pairs, lengths = logps.view(-1, 2), counts.view(-1, 2)
    ratios = log_ratios(pairs, reference.view(-1, 2))
    losses = dpo_losses(ratios, lengths, beta=rl.kl_coef, loss=dpo.loss, label_smoothing=dpo.label_smoothing)
    metrics = {name: values.mean().item() for name, values in pair_metrics(pairs, ratios, beta=rl.kl_coef).items()}
    return PreferenceResult(
        accuracy=metrics["rewards/accuracies"],
        loss=losses.mean().item(),
        margin=metrics["rewards/margins"],
        chosen_reward=metrics["rewards/chosen"],
        rejected_reward=metrics["rewards/rejected"],
        chosen_logp=metrics["logps/chosen"],
        rejected_logp=metrics["logps/rejected"],
        likelier=(pairs[:, 0] > pairs[:, 1]).float().mean().item(),
        num_pairs=len(pairs),
    )
