"""Rollouts -> tensors: what policy, reference and value made of each drawn token when it was drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sagetune.batching import Batch, collate, to_device
from sagetune.chat import Encoded
from sagetune.losses import CHUNK, losses_of, supervised_logits
from sagetune.rollouts.roles import POLICY, REFERENCE, VALUE, Roles
from sagetune.rollouts.rollout import Rollout, rows_of


@dataclass(frozen=True, slots=True)
class Part:
    """Rollouts of one forward pass: their rows as a batch, and where their tokens stand in tensors (n, A)."""

    places: list[int]
    batch: Batch
    mask: Tensor
    """bool (n, A)."""

    def dense(self, flat: Tensor) -> Tensor:
        """The drawn tokens' values in row-major order, (tokens,), as (n, A); 0 where there is none."""
        return flat.new_zeros(self.mask.shape).masked_scatter(self.mask, flat)


@dataclass(frozen=True, slots=True)
class Experience:
    """The N rollouts of an update. Tensors float32 (N, A), without gradient, 0 where `mask` is False."""

    rollouts: Sequence[Rollout]
    rows: list[list[Encoded]]
    """Of each rollout."""
    mask: Tensor
    """bool (N, A): the drawn tokens of each."""
    scores: Tensor
    """Rewards, (N,)."""
    logps: Tensor
    """Log-probabilities of the policy that acted, at the temperature of the draws; nats."""
    reference: Tensor
    """The same of the reference."""
    entropy: Tensor
    """Of the distribution that each token was drawn from; nats."""
    values: Tensor
    """What the value model made of the state before each token; 0 where there is none."""

    def parts(self, places: Sequence[int], size: int, pad_token_id: int) -> Iterator[Part]:
        """Rollouts `places`, at most `size` in a forward pass, each with all its rows."""
        for start in range(0, len(places), size):
            yield self.part(list(places[start : start + size]), pad_token_id)

    def part(self, places: list[int], pad_token_id: int) -> Part:
        rows = [row for place in places for row in self.rows[place]]
        batch = to_device(collate(rows, range(len(rows)), pad_token_id), self.mask.device)
        return Part(places, batch, self.mask[places])


def drawn_logps(model: torch.nn.Module, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each drawn token, with gradient, and the entropy that it was drawn at; float32 (tokens,)."""
    found = supervised_logits(model, batch)
    if temperature != 1:
        found = replace(found, logits=found.logits / temperature)
    return -losses_of(found).nll, entropies(found.logits.detach())


def entropies(logits: Tensor) -> Tensor:
    """Entropy of each row's softmax, nats; (tokens, V) to float32 (tokens,)."""
    parts = (logits[start : start + CHUNK].float().log_softmax(-1) for start in range(0, len(logits), CHUNK))
    return torch.cat([-(logps.exp() * logps).sum(-1) for logps in parts] or [logits.new_zeros(0).float()])


@torch.no_grad()
def look_back(
    roles: Roles,
    rollouts: Sequence[Rollout],
    rewards: Sequence[float],
    *,
    temperature: float,
    batch_size: int,
    pad_token_id: int,
) -> Experience:
    """What policy, reference and value, where there is one, make of the rollouts before they are learnt from."""
    rows = [rows_of(rollout.turns, rollout.trajectory.task_id) for rollout in rollouts]
    device = next(roles.model.parameters()).device
    lengths = torch.tensor([rollout.num_tokens for rollout in rollouts], device=device)
    mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
    logps, reference, entropy, values = (torch.zeros(mask.shape, device=device) for _ in range(4))
    scores = torch.tensor(rewards, dtype=torch.float32, device=device)
    experience = Experience(rollouts, rows, mask, scores, logps, reference, entropy, values)
    for part in experience.parts(range(len(rollouts)), batch_size, pad_token_id):
        with roles.acting(POLICY) as model:
            found = drawn_logps(model, part.batch, temperature)
            logps[part.places], entropy[part.places] = (part.dense(flat) for flat in found)
        with roles.acting(REFERENCE) as model:
            reference[part.places] = part.dense(drawn_logps(model, part.batch, temperature)[0])
        if roles.head is not None:
            with roles.acting(VALUE):
                values[part.places] = part.dense(roles.values(part.batch))
    return experience
