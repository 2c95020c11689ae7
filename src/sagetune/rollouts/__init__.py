"""Learning from rewards: the policy acts, what it drew is rewarded, and PPO or GRPO takes optimiser steps on it.

Letters: N rollouts of an update, A drawn tokens of the longest of them, V vocabulary. A rollout's drawn tokens of all
its turns stand one after another, so prompts and observations have no place in tensors (N, A), and nothing has to step
over them.
"""
