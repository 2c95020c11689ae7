"""A policy that has collapsed is told with its figures, or stops the run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sagetune.config import GuardConfig
from sagetune.rollouts.guards import CollapsedPolicy, Guards


def test_guards_tell_once_while_it_lasts_or_stop_with_the_figures() -> None:
    told: list[str] = []
    guards = Guards(GuardConfig(zero_variance_updates=2), told.append)
    sound: dict[str, Any] = {"kl": 0.1, "entropy": 1.0, "uniform": False, "reward": 0.5}
    for update, change in enumerate([{}, {"kl": 3.0}, {"kl": 4.0}, {}, {"kl": 5.0}, {"entropy": 1e-4}]):
        guards.look(update, **(sound | change))
    assert [line.split(":")[0] for line in told] == ["update 1", "update 4", "update 5"]
    assert "3 nats a token from its reference, above guard.max_kl=2" in told[0]
    assert "0.0001 nats of entropy a token left, below guard.min_entropy=0.001" in told[2]
    guards.look(6, **(sound | {"uniform": True}))
    resumed = Guards(GuardConfig(zero_variance_updates=2, action="stop"), told.append)
    resumed.load_state_dict(json.loads(json.dumps(guards.state_dict())))
    with pytest.raises(CollapsedPolicy, match="update 7: the rewards of 2 updates in a row do not differ"):
        resumed.look(7, **(sound | {"uniform": True}))
    off = Guards(GuardConfig(max_kl=None, min_entropy=None, zero_variance_updates=None, action="stop"), told.append)
    off.look(8, kl=99.0, entropy=0.0, uniform=True, reward=0.0)
