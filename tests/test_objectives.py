"""The losses of DPO, PPO and GRPO: closed forms, and TRL 1.12.0's own numbers (tests/oracles/make_rl_vectors.py)."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sagetune.objectives.dpo import dpo_losses, log_ratios, pair_metrics
from sagetune.objectives.grpo import group_advantages, grpo_losses, normalised
from sagetune.objectives.kl import KLController, kl_estimate
from sagetune.objectives.ppo import advantages_and_returns, masked_mean, policy_losses, value_losses, whiten

DATA = Path(__file__).parent / "data"
NAMES = ("dpo", "ppo", "ppo_update", "grpo")


def vectors(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}_vectors.json").read_text())


def close(ours: Tensor, theirs: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(ours, torch.as_tensor(theirs, dtype=ours.dtype), atol=tolerance, rtol=0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# DPO


def test_a_policy_that_is_its_reference_has_loss_log_2_and_no_reward() -> None:
    logps = random(3, 2)
    ratios = log_ratios(logps, logps)
    close(dpo_losses(ratios, torch.ones(3, 2), beta=0.1), [math.log(2)] * 3)
    metrics = pair_metrics(logps, ratios, beta=0.1)
    assert not metrics["rewards/margins"].any()
    assert not metrics["rewards/accuracies"].any(), "equal rewards are no preference"


def test_smoothed_labels_are_the_mean_of_both_labellings() -> None:
    ratios, lengths = random(4, 2), torch.ones(4, 2)
    right, wrong = (dpo_losses(r, lengths, beta=0.5) for r in (ratios, ratios.flip(1)))
    close(dpo_losses(ratios, lengths, beta=0.5, label_smoothing=0.3), 0.7 * right + 0.3 * wrong)


def test_the_robust_loss_of_noisy_labels_is_the_loss_of_clean_ones() -> None:
    """Its point: the expectation over labels that are flipped with the assumed share is the clean loss."""
    ratios, lengths, share = random(4, 2), torch.ones(4, 2), 0.2
    robust = [dpo_losses(r, lengths, beta=0.5, loss="robust", label_smoothing=share) for r in (ratios, ratios.flip(1))]
    close((1 - share) * robust[0] + share * robust[1], dpo_losses(ratios, lengths, beta=0.5))


def test_hinge_and_ipo_rest_where_they_should() -> None:
    lengths = torch.tensor([[2.0, 5.0]])
    assert dpo_losses(torch.tensor([[12.0, 1.0]]), lengths, beta=0.1, loss="hinge").item() == 0  # margin above 1
    at_target = torch.tensor([[2 * 3.5, 5 * 1.0]])  # means 3.5 and 1.0 a token, 1 / (2 beta) = 2.5 apart
    close(dpo_losses(at_target, lengths, beta=0.2, loss="ipo"), [0.0])


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss must be one of sigmoid, .*, got 'kto'"):
        dpo_losses(random(1, 2), torch.ones(1, 2), beta=0.1, loss="kto")


# KL


def test_both_estimators_are_zero_at_equality_and_k3_is_never_negative() -> None:
    logps, reference = random(64, seed=1), random(64, seed=2)
    assert not kl_estimate(logps, logps, "k1").any()
    assert not kl_estimate(logps, logps, "k3").any()
    assert (kl_estimate(logps, reference, "k3") >= 0).all()
    assert (kl_estimate(logps, reference, "k1") < 0).any()


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_the_estimators_have_the_divergence_as_their_expectation(kind: str) -> None:
    policy, reference = random(5, seed=3).log_softmax(0), random(5, seed=4).log_softmax(0)
    divergence = (policy.exp() * (policy - reference)).sum()
    close((policy.exp() * kl_estimate(policy, reference, kind)).sum(), divergence.item())


def test_an_adaptive_coefficient_moves_to_its_target_and_no_faster_than_a_fifth() -> None:
    fixed, adaptive = KLController(coefficient=0.1), KLController(coefficient=0.1, target=6.0, horizon=100)
    for controller in (fixed, adaptive):
        controller.update(kl=60.0, num_samples=10)
    assert fixed.coefficient == 0.1
    assert adaptive.coefficient == pytest.approx(0.1 * (1 + 0.2 * 10 / 100))
    adaptive.update(kl=6.0, num_samples=10)  # on target
    assert adaptive.coefficient == pytest.approx(0.1 * (1 + 0.2 * 10 / 100))
    adaptive.update(kl=3.0, num_samples=10)
    assert adaptive.coefficient < 0.1 * (1 + 0.2 * 10 / 100)
    resumed = KLController(coefficient=1.0, target=6.0, horizon=100)
    resumed.load_state_dict(adaptive.state_dict())
    assert resumed.coefficient == adaptive.coefficient


def test_an_adaptive_coefficient_holds_a_policy_at_its_target() -> None:
    """A policy whose KL answers to the penalty as 1 / coefficient settles where the KL is the target."""
    controller = KLController(coefficient=0.02, target=4.0, horizon=200)
    for _ in range(300):
        controller.update(kl=1 / controller.coefficient, num_samples=32)
    assert 1 / controller.coefficient == pytest.approx(4.0, rel=1e-3)


# PPO


def test_undiscounted_advantages_are_what_is_still_earned_less_the_value() -> None:
    rewards, values, mask = random(2, 6), random(2, 6, seed=1), torch.ones(2, 6, dtype=torch.bool)
    advantages, returns = advantages_and_returns(rewards, values, mask, gamma=1.0, lam=1.0)
    still = rewards.flip(1).cumsum(1).flip(1)
    close(advantages, still - values, 1e-5)
    close(returns, still, 1e-5)


def test_lambda_zero_looks_one_action_ahead() -> None:
    rewards, values, mask = random(1, 4), random(1, 4, seed=1), torch.ones(1, 4, dtype=torch.bool)
    advantages, _ = advantages_and_returns(rewards, values, mask, gamma=0.9, lam=0.0)
    ahead = torch.cat([values[:, 1:], torch.zeros(1, 1)], 1)
    close(advantages, rewards + 0.9 * ahead - values)


def test_observations_between_actions_are_stepped_over() -> None:
    """The advantages are those of the actions alone, wherever observations stand and whatever value they are given."""
    rewards, values = random(2, 5), random(2, 5, seed=1)
    places = torch.tensor([[0, 1, 4, 6, 7], [2, 3, 5, 8, 9]])  # columns of the five actions among ten tokens
    mask = torch.zeros(2, 10, dtype=torch.bool).scatter_(1, places, True)
    wide_rewards = torch.zeros(2, 10).scatter(1, places, rewards)
    wide_values = random(2, 10, seed=2).scatter(1, places, values)
    alone = advantages_and_returns(rewards, values, torch.ones(2, 5, dtype=torch.bool), gamma=0.9, lam=0.8)
    among = advantages_and_returns(wide_rewards, wide_values, mask, gamma=0.9, lam=0.8)
    for wide, narrow in zip(among, alone, strict=True):
        assert torch.equal(wide.gather(1, places), narrow)
        assert not wide[~mask].any()


def test_a_reward_at_an_observation_is_refused() -> None:
    mask = torch.tensor([[True, False]])
    with pytest.raises(ValueError, match="rewards: some stand at masked tokens"):
        advantages_and_returns(torch.ones(1, 2), torch.zeros(1, 2), mask, gamma=1.0, lam=1.0)


def test_at_ratio_1_the_policy_loss_is_minus_the_mean_advantage_and_its_gradient_reinforces() -> None:
    logps, advantages, mask = random(2, 5).requires_grad_(), random(2, 5, seed=1), random(2, 5, seed=2) > -0.5
    found = policy_losses(logps, logps.detach(), advantages, mask, clip_low=0.2, clip_high=0.2)
    close(masked_mean(found.losses, mask).detach(), -masked_mean(advantages, mask).item())
    assert not found.clipped.any()
    found.losses.sum().backward()
    close(logps.grad, -advantages * mask)


def test_beyond_the_clip_range_there_is_no_gradient_except_back() -> None:
    logps = torch.tensor([[0.5, 0.5, -0.5, -0.5]], requires_grad=True)
    advantages, mask = torch.tensor([[1.0, -1.0, 1.0, -1.0]]), torch.ones(1, 4, dtype=torch.bool)
    found = policy_losses(logps, torch.zeros(1, 4), advantages, mask, clip_low=0.2, clip_high=0.3)
    found.losses.sum().backward()
    assert found.clipped.tolist() == [[True, False, False, True]]
    assert (logps.grad != 0).tolist() == [[False, True, True, False]]
    close(found.losses[0, 0].detach(), -1.3)
    close(found.losses[0, 3].detach(), 0.8)


def test_masked_tokens_carry_no_loss_even_where_their_log_probabilities_are_nonsense() -> None:
    logps = torch.tensor([[-1.0, 500.0]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    found = policy_losses(logps, torch.tensor([[-1.0, -500.0]]), torch.ones(1, 2), mask, clip_low=0.2, clip_high=0.2)
    found.losses.sum().backward()
    assert logps.grad.tolist() == [[-1.0, 0.0]]


def test_whitened_values_have_mean_0_and_variance_1_over_the_mask() -> None:
    values, mask = 3 + 2 * random(4, 6), random(4, 6, seed=2) > -0.3
    white = whiten(values, mask)
    close(white[mask].mean(), 0.0)
    close(white[mask].var(), 1.0, 1e-5)
    assert not white[~mask].any()
    close(whiten(values, mask, shift_mean=False)[mask].mean(), values[mask].mean().item(), 1e-5)
    with pytest.raises(ValueError, match="at least two values"):
        whiten(values, torch.zeros(4, 6, dtype=torch.bool))


# GRPO


def test_the_advantages_of_a_group_sum_to_0_and_equal_rewards_teach_nothing() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
    for scale in ("group", "batch", "none"):
        advantages = group_advantages(rewards, scale)
        close(advantages.sum(1), [0.0, 0.0])
        assert not advantages[1].any()
    close(group_advantages(rewards, "none")[0], [0.0, -1.0, -1.0, 2.0])
    with pytest.raises(ValueError, match="two samples or more"):
        group_advantages(torch.ones(3, 1))
    with pytest.raises(ValueError, match="scale must be one of group, batch, none"):
        group_advantages(rewards, "task")


def test_the_three_normalisations_of_one_batch() -> None:
    losses, mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [5.0, 0.0, 0.0, 0.0]]), torch.ones(2, 4, dtype=torch.bool)
    mask[1, 1:] = False
    means = {}
    for by in ("sequence", "token", "constant"):
        total, count = normalised(losses, mask, by, max_tokens=4)
        means[by] = (total / count).item()
    assert means == {"sequence": pytest.approx(3.0), "token": pytest.approx(9 / 5), "constant": pytest.approx(9 / 8)}


def test_the_sums_of_micro_batches_make_the_step() -> None:
    losses, mask = random(6, 5), random(6, 5, seed=2) > -0.3
    for by in ("sequence", "token", "constant"):
        whole = normalised(losses, mask, by, max_tokens=5)
        parts = [normalised(losses[rows], mask[rows], by, max_tokens=5) for rows in (slice(0, 1), slice(1, 6))]
        for place in range(2):
            close(torch.stack([part[place] for part in parts]).sum().float(), whole[place].item())


# TRL's numbers


def test_ppo_has_trls_advantages() -> None:
    found = vectors("ppo")
    rollout = {name: torch.tensor(value) for name, value in found["rollout"].items()}
    acts = ~rollout["padding_mask_p1"]  # TRL gives the score to the token after the last one
    assert not acts.all(), "a reply that ends early is among the vectors"
    advantages, _ = advantages_and_returns(
        rollout["rewards"], rollout["values"], acts, gamma=found["gamma"], lam=found["lam"]
    )
    close(advantages, rollout["advantages"])
    close(whiten(advantages, ~rollout["padding_mask"]), rollout["whitened"])
    close(kl_estimate(rollout["logprobs"], rollout["ref_logprobs"], "k1"), rollout["kl"])


def test_ppo_has_trls_policy_and_value_losses() -> None:
    found = vectors("ppo")
    for update in found["updates"]:
        row = {name: torch.tensor(value) for name, value in update.items()}
        mask, value_mask, clip = row["mask"], row["value_mask"], found["clip"]
        policy = policy_losses(
            row["new_logprobs"], row["mb_logprobs"], row["mb_advantage"], mask, clip_low=clip, clip_high=clip
        )
        value = value_losses(row["vpred"], row["mb_values"], row["mb_return"], value_mask, clip=clip)
        close(masked_mean(policy.losses, mask), row["policy_loss"])
        close(masked_mean(policy.clipped.float(), mask), row["policy_clipped"])
        close(masked_mean(value.losses, value_mask), row["value_loss"], 1e-6 * max(1.0, row["value_loss"].item()))
        close(masked_mean(value.clipped.float(), value_mask), row["value_clipped"])
        assert row["policy_clipped"] > 0


def test_grpo_has_trls_advantages() -> None:
    found = vectors("grpo")
    rewards = torch.tensor(found["rewards"]).view(3, 4)
    for scale, advantages in found["advantages"].items():
        close(group_advantages(rewards, scale).flatten(), advantages)


@pytest.mark.parametrize("place", range(4))
def test_grpo_has_trls_losses_and_gradients(place: int) -> None:
    found = vectors("grpo")
    case, mask = found["cases"][place], torch.tensor(found["mask"]).bool()
    logps = torch.tensor(found["logps"], requires_grad=True)
    by = {"grpo": "sequence", "dapo": "token", "dr_grpo": "constant"}[case["loss_type"]]
    losses = grpo_losses(
        logps,
        torch.tensor(found["old_logps"]),
        torch.tensor(found["advantages_of_rows"]),
        mask,
        clip_low=case["clip_low"],
        clip_high=case["clip_high"],
        level=case["level"],
        reference=torch.tensor(found["reference"]),
        kl_coef=case["kl_coef"],
    )
    total, count = normalised(losses.losses, mask, by, found["max_tokens"])
    (total / count).backward()
    close((total / count).detach(), case["value"])
    close(logps.grad, case["gradient"])


@pytest.mark.oracle
@pytest.mark.skipif(find_spec("trl") is None, reason="TRL 1.12.0 is not installed: pip install -e '.[oracle]'")
def test_trl_still_computes_the_committed_numbers(tmp_path: Path) -> None:
    script = Path(__file__).parent / "oracles" / "make_rl_vectors.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        again = json.loads((tmp_path / f"{name}_vectors.json").read_text())
        assert flat(again) == pytest.approx(flat(vectors(name)), abs=1e-6)


def flat(value: Any) -> list[float]:
    """All numbers in order."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in flat(item)]
    if isinstance(value, list):
        return [number for item in value for number in flat(item)]
    return [float(value)] if isinstance(value, int | float) else []
