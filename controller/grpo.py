"""Group relative policy optimisation of a controller (C4, C5): a bandit, one decision and one reward an episode.

For a state, that is one (sample, budget), G configurations are drawn from the policy; each earns

    r = alpha accuracy - beta max(0, latency - budget) / budget

and is judged against its own group: A = (r - mean r) / (std r + 1e-4), std with Bessel's correction. The policy rises
along the ratio-clipped objective min(ratio A, clip(ratio) A), less `kl` times the k3 estimate of the divergence from
the policy at the start. Source: Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, equations 3 and 4 and section 4.1.2.
`scale_rewards=none` drops the division (Liu et al. 2025, arXiv:2503.20783, section 3.2): only then is the expected
gradient that of the reward, times (G - 1) / G, because a group's mean contains the draw itself.

- A group whose rewards are all equal says nothing and contributes nothing; `frac_zero_std` is the share of such groups.
- A group whose accuracies are all equal has rewards that differ by a few ms of latency, and dividing by so small a
  spread would blow them up to the size of a wrong answer. So no spread below `FLOOR` is divided by; one different
  answer in a group of five spreads it by 0.13 at least, which `FLOOR` does not touch.
- Scaling by the group weighs a state where little is at stake like one where all is, so its optimum is not the
  reward's where the features leave doubt; `batch` and `none` have the reward's.
- An epoch is every sample once, at all m budgets: a batch of 32 samples is 32 m groups, at the price of one.
- Draws depend on (seed, epoch, sample, budget). All actions are tabulated, so what is logged is exact, not sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from controller.fit import Fitted, fit
from controller.policy import Policy, feasible
from controller.schema import GrpoConfig
from suite.errors import UserError
from suite.rng import generator

FLOOR = 0.05
"""Least spread of a group's or a batch's rewards that advantages are divided by; rewards are at most `alpha`."""
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """n samples by m budgets by a actions, everything known of each."""

    inputs: Tensor
    """(n, m, f), of `policy.joined`."""
    accuracy: Tensor
    """(n, m, a), 0 to 1."""
    latency_ms: Tensor
    """(n, m, a)."""
    budgets_ms: Tensor
    """(m,)."""
    allowed: Tensor
    """(n, m, a): what may be drawn and decided."""

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def within(self) -> Tensor:
        """Which actions meet the budget, (n, m, a)."""
        return self.latency_ms <= self.budgets_ms[:, None]

    def rewards(self, config: GrpoConfig) -> Tensor:
        """Reward of each action, (n, m, a)."""
        budgets = self.budgets_ms[:, None]
        return config.alpha * self.accuracy - config.beta * (self.latency_ms - budgets).clamp(min=0) / budgets


def problem(
    inputs: Tensor,
    *,
    accuracy: Array,
    latency_ms: Array,
    budgets_ms: Array,
    mask_ms: Array | None = None,
    tiers: Array | None = None,
    tier_actions: int = 0,
) -> Problem:
    """A problem from the profile's tables.

    Args:
        inputs: (n, m, f), of `policy.joined`.
        accuracy: (n, c) by configuration.
        latency_ms: (n, c), of the reward.
        budgets_ms: (m,).
        mask_ms: (n, c) p95 latency that must fit the budget; None: every configuration may be drawn.
        tiers: (n, m) number of the tier that stage 1 chose; then the actions are that tier's configurations. None:
            all configurations are actions.
        tier_actions: configurations of a tier; with `tiers`.

    Raises:
        UserError: a number is missing.
    """
    for name, table in (("accuracy", accuracy), ("latency", latency_ms)):
        if not np.isfinite(table).all():
            missing = int((~np.isfinite(table)).any(axis=1).sum())
            raise UserError(
                f"{missing} of {len(table)} samples have no {name} for some configuration; train on samples that have."
            )
    shape = (*inputs.shape[:2], accuracy.shape[1])
    tables = [accuracy, latency_ms] if mask_ms is None else [accuracy, latency_ms, mask_ms]
    tables = [np.broadcast_to(table[:, None, :], shape) for table in tables]
    if tiers is not None:
        columns = tiers[..., None] * tier_actions + np.arange(tier_actions)
        tables = [np.take_along_axis(table, columns, axis=2) for table in tables]
    allowed = np.ones(tables[0].shape, dtype=bool) if mask_ms is None else feasible(tables[2], budgets_ms)
    return Problem(
        inputs=inputs,
        accuracy=torch.tensor(tables[0], dtype=torch.float32),
        latency_ms=torch.tensor(tables[1], dtype=torch.float32),
        budgets_ms=torch.tensor(budgets_ms, dtype=torch.float32),
        allowed=torch.tensor(allowed),
    )


def advantages(rewards: Tensor, scale: str = "group", floor: float = 0.0) -> Tensor:
    """How much better each draw is than its group, the shape of `rewards` (..., G).

    Args:
        rewards: the last axis is a group.
        scale: divide by the spread of the `group`, of the whole `batch`, or by `none`.
        floor: least spread that is divided by.
    """
    gaps = rewards - rewards.mean(dim=-1, keepdim=True)
    # The mean of equal numbers is not always that number.
    gaps = gaps.masked_fill(equal(rewards)[..., None], 0.0)
    if scale == "none":
        return gaps
    spread = rewards.std() if scale == "batch" else rewards.std(dim=-1, keepdim=True)
    return gaps / (spread.clamp(min=floor) + 1e-4)


def equal(rewards: Tensor) -> Tensor:
    """Which groups (..., G) have one reward only, (...)."""
    return rewards.amax(dim=-1) == rewards.amin(dim=-1)


def objective(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    *,
    clip: float,
    kl: float = 0.0,
    start_logp: Tensor | None = None,
) -> Tensor:
    """The loss of drawn actions, a scalar: equation 3 of the paper, negated, where an answer is one action.

    Args:
        logp: (...) log-probability now.
        old_logp: (...) when they were drawn.
        advantages: (...).
        clip: how far a ratio may leave 1 and still be paid for it.
        kl: weight of k3 = exp(d) - d - 1, d = start_logp - logp.
        start_logp: (...) of the policy at the start; needed where `kl` is above 0.
    """
    ratio = (logp - old_logp).exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    if kl > 0 and start_logp is not None:
        gap = start_logp - logp
        loss = loss + kl * (gap.exp() - gap - 1)
    return loss.mean()


def draw(logp: Tensor, uniforms: Tensor) -> Tensor:
    """Actions (..., G) drawn with float32 uniforms (..., G) in [0, 1) from log-probabilities (..., a)."""
    mass = logp.exp().double().cumsum(dim=-1)
    # In double precision a uniform times the last sum stays below it, and an action of no mass is never the first
    # whose sum is above.
    return torch.searchsorted(mass, uniforms.double() * mass[..., -1:], right=True)


@torch.no_grad()
def play(policy: Policy, problem: Problem, config: GrpoConfig) -> dict[str, Any]:
    """What the policy does on a problem, exactly: expectations over its distribution, and of its decisions.

    Returns:
        `reward`, `accuracy`, `latency_ms`, `adherence` (share within budget), `entropy` in nats; the first four again
        with `decided_` in front, where the most probable action is taken; and for each knob how often each setting is
        decided.
    """
    logp = policy.log_probabilities(problem.inputs, problem.allowed)
    chance = logp.exp()
    decided = logp.argmax(dim=-1)
    states = decided.numel()
    row: dict[str, Any] = {}
    tables = {
        "reward": problem.rewards(config),
        "accuracy": problem.accuracy,
        "latency_ms": problem.latency_ms,
        "adherence": problem.within.float(),
    }
    for name, table in tables.items():
        row[name] = (chance * table).sum().item() / states
        row[f"decided_{name}"] = table.gather(-1, decided[..., None]).sum().item() / states
    row["entropy"] = torch.special.entr(chance).sum().item() / states
    for name, places in policy.places(decided.numpy()).items():
        row[name] = (np.bincount(places.ravel(), minlength=len(policy.knobs[name])) / states).tolist()
    return row


def train(
    policy: Policy, tune: Problem, held_out: Problem, config: GrpoConfig, *, name: str, seed: int, checkpoint: Path
) -> Fitted:
    """Train in place; the best epoch is that whose decisions earn the most on held-out samples.

    The curve's rows are `play` on `tune`, `held_out_reward` and `held_out_decided_reward`, and `frac_zero_std`.
    """
    policy.normalise(tune.inputs)
    start = copy.deepcopy(policy)
    rewards = tune.rewards(config)
    zero: list[float] = []

    @lru_cache(maxsize=1)
    def uniforms(epoch: int) -> Tensor:
        shape = (*rewards.shape[:2], config.group_size)
        return torch.from_numpy(generator(seed, name, "groups", epoch).random(shape, dtype=np.float32))

    def batch(rows: Tensor, epoch: int) -> Callable[[], Tensor]:
        inputs, allowed = tune.inputs[rows], tune.allowed[rows]
        with torch.no_grad():
            everything = policy.log_probabilities(inputs, allowed)
            actions = draw(everything, uniforms(epoch)[rows])
            old_logp = everything.gather(-1, actions)
            start_logp = start.log_probabilities(inputs, allowed).gather(-1, actions) if config.kl else None
        earned = rewards[rows].gather(-1, actions)
        zero.append(equal(earned).float().mean().item())
        gain = advantages(earned, config.scale_rewards, FLOOR)

        def loss() -> Tensor:
            logp = policy.log_probabilities(inputs, allowed).gather(-1, actions)
            return objective(logp, old_logp, gain, clip=config.clip, kl=config.kl, start_logp=start_logp)

        return loss

    def score(epoch: int) -> dict[str, Any]:
        row = play(policy, tune, config) | {"frac_zero_std": float(np.mean(zero))}
        zero.clear()
        return row | held_out_rewards(policy, held_out, config)

    return fit(
        policy,
        batch,
        score,
        name=name,
        config=config,
        items=len(tune),
        by="held_out_decided_reward",
        seed=seed,
        checkpoint=checkpoint,
        updates=config.updates,
    )


def held_out_rewards(policy: Policy, held_out: Problem, config: GrpoConfig) -> dict[str, float]:
    """`held_out_reward` and `held_out_decided_reward` of `play`."""
    played = play(policy, held_out, config)
    return {f"held_out_{name}": played[name] for name in ("reward", "decided_reward")}
