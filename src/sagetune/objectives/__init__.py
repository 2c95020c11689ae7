"""Objectives beyond imitation as pure functions of tensors: preferences (DPO), rewards (PPO, GRPO), divergence (KL).

Letters: P pairs, B rows, T tokens, G groups, N samples of one group. Masks are bool, True at tokens that the policy
wrote itself; what a tool or a user wrote is False and carries neither loss nor advantage. Losses come without their
mean: a mean over an optimiser step needs the sums and counts of all of its micro-batches.
"""
