"""One frozen base model in three roles: policy, value, reference. Each is an adapter, or the base without one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from sagetune.adapters import OWN
from sagetune.batching import Batch
from sagetune.lora_linear import speed_up
from sagetune.losses import supervised_states

POLICY, VALUE, REFERENCE = OWN, "value", "reference"


class Roles(nn.Module):
    """A PeftModel whose adapter is the policy, with what is needed beside it.

    start: the adapter that the policy starts from, a copy of which stays as the reference; None = the reference is the
    base model itself. has_value: with an adapter and a head that estimate what is still to be earned; the head starts
    at zero, so every value does. Only inside `acting` is a role's adapter the one that computes; a backward pass must
    stay inside, where nothing else has a gradient.
    """

    def __init__(self, model: PeftModel, *, start: Path | None, has_value: bool, seed: int) -> None:
        super().__init__()
        self.model = model
        self.head: nn.Linear | None = None
        if start is not None:
            model.load_adapter(str(start), REFERENCE, is_trainable=False)
        if has_value:
            torch.manual_seed(seed)  # the adapter's initial values depend on the seed alone
            model.add_adapter(VALUE, copy.deepcopy(model.peft_config[POLICY]))
            self.head = nn.Linear(model.get_base_model().get_decoder().config.hidden_size, 1, bias=False)
            nn.init.zeros_(self.head.weight)
            self.head.to(next(model.parameters()).device)
        speed_up(model)
        self.trained = {role: self._parameters_of(role) for role in (POLICY, VALUE) if role in model.peft_config}
        """The trained parameters of each role by name."""
        self._be(POLICY)

    @contextmanager
    def acting(self, role: str) -> Iterator[PeftModel]:
        """Inside, the model computes as `role`, and only what that role trains can get a gradient."""
        try:
            if role == REFERENCE and REFERENCE not in self.model.peft_config:
                with torch.no_grad(), self.model.disable_adapter():
                    yield self.model
            else:
                self.model.set_adapter(role, inference_mode=role == REFERENCE)
                yield self.model
        finally:
            self._be(POLICY)

    def values(self, batch: Batch) -> Tensor:
        """What each supervised token's state is worth, float32 (tokens,), row-major. To be called acting as VALUE."""
        assert self.head is not None
        states = supervised_states(self.model.get_base_model().get_decoder(), batch)
        return self.head(states.float())[:, 0]

    def let_go(self) -> None:
        """Leave the policy's adapter alone on the model."""
        for role in (VALUE, REFERENCE):
            if role in self.model.peft_config:
                self.model.delete_adapter(role)

    def _be(self, role: str) -> None:
        self.model.set_adapter(role)
        for parameters in self.trained.values():  # PEFT freezes whatever is not active; an optimiser must find it all
            for parameter in parameters.values():
                parameter.requires_grad_(True)

    def _parameters_of(self, role: str) -> dict[str, nn.Parameter]:
        self.model.set_adapter(role)
        found = {f"model.{name}": p for name, p in self.model.named_parameters() if p.requires_grad}
        if role == VALUE and self.head is not None:
            found |= {f"head.{name}": p for name, p in self.head.named_parameters()}
        return found
