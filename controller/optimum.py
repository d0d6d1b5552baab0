"""The optimum that GRPO is measured against: the same network, trained on the exact expected reward.

Every action's reward is tabulated, so the expectation over the policy is a sum, and its gradient needs no draws:

    grad E[r] = sum over actions of p(a) grad log p(a) r(a)

What is left between this policy and the best action of every state (`ceiling`) is what the features do not tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from controller.fit import Fitted, fit
from controller.grpo import Problem, held_out_rewards, play
from controller.policy import Policy
from controller.schema import GrpoConfig


def expected(logp: Tensor, rewards: Tensor) -> Tensor:
    """Mean over states of the expected reward, a scalar, from log-probabilities and rewards (..., a)."""
    return (logp.exp() * rewards).sum(dim=-1).mean()


def ceiling(problem: Problem, config: GrpoConfig) -> float:
    """Mean reward of the best allowed action of every state: what a policy that knew everything would earn."""
    rewards = problem.rewards(config).masked_fill(~problem.allowed, -torch.inf)
    return rewards.amax(dim=-1).mean().item()


def train(
    policy: Policy, tune: Problem, held_out: Problem, config: GrpoConfig, *, name: str, seed: int, checkpoint: Path
) -> Fitted:
    """As `grpo.train` with the same curve, less `frac_zero_std`: there are no groups."""
    policy.normalise(tune.inputs)
    rewards = tune.rewards(config)

    def score(epoch: int) -> dict[str, Any]:
        return play(policy, tune, config) | held_out_rewards(policy, held_out, config)

    def loss(rows: Tensor) -> Tensor:
        return -expected(policy.log_probabilities(tune.inputs[rows], tune.allowed[rows]), rewards[rows])

    return fit(
        policy,
        lambda rows, epoch: lambda: loss(rows),
        score,
        name=name,
        config=config,
        items=len(tune),
        by="held_out_decided_reward",
        seed=seed,
        checkpoint=checkpoint,
    )
