"""Signs that a policy has collapsed: too far from its reference, no chance left in it, nothing to learn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sagetune.config.rl import GuardConfig


class CollapsedPolicy(RuntimeError):
    """A guard with guard.action=stop has ended the run; its last checkpoint stays."""


class Guards:
    """Looks at each update's rollouts before they are learnt from, and tells what is wrong, once while it lasts.

    tell: prints a line.
    """

    def __init__(self, config: GuardConfig, tell: Callable[[str], None]) -> None:
        self._config = config
        self._tell = tell
        self._uniform = 0
        self._told: list[str] = []

    def look(self, update: int, *, kl: float, entropy: float, uniform: bool, reward: float) -> None:
        """kl, entropy: mean of a drawn token, nats. uniform: whether the rewards do not differ; reward: their mean.

        Raises CollapsedPolicy where the configuration says so.
        """
        config = self._config
        self._uniform = self._uniform + 1 if uniform else 0
        found: dict[str, str] = {}
        if config.max_kl is not None and kl > config.max_kl:
            found["max_kl"] = (
                f"the policy is {kl:.3g} nats a token from its reference, above guard.max_kl={config.max_kl:g}: raise "
                f"rl.kl_coef or lower sft.learning_rate"
            )
        if config.min_entropy is not None and entropy < config.min_entropy:
            found["min_entropy"] = (
                f"the policy has {entropy:.3g} nats of entropy a token left, below guard.min_entropy="
                f"{config.min_entropy:g}: all attempts at a task become one"
            )
        patience = config.zero_variance_updates
        if patience is not None and self._uniform >= patience:
            found["zero_variance_updates"] = (
                f"the rewards of {self._uniform} updates in a row do not differ (mean {reward:.3g}), so nothing can be "
                f"learnt from them: raise rollout.samples or rollout.temperature, start from what has learnt to answer "
                f"(adapter.start_from), or stop if all is solved"
            )
        for name, line in found.items():
            if config.action == "stop":
                raise CollapsedPolicy(f"update {update}: {line}")
            if name not in self._told:
                self._tell(f"update {update}: {line}")
        self._told = list(found)

    def state_dict(self) -> dict[str, Any]:
        return {"uniform": self._uniform, "told": self._told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._uniform, self._told = state["uniform"], state["told"]
