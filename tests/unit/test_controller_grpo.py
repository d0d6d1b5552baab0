"""GRPO against TRL's numbers, the exact policy gradient, and problems whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from controller import grpo, optimum
from controller.fit import Fitted
from controller.grpo import Problem, advantages, draw, objective
from controller.policy import Policy, joined
from controller.schema import GrpoConfig
from suite.errors import UserError
from suite.rng import generator

KNOBS = {"tier": ("low", "high"), "blocks": (8, 12, 16)}
BUDGETS_MS = np.array([25.0, 40.0, 60.0])

# What the lines of TRL 1.16.0's `trainer/grpo_trainer.py` compute from these in double precision: 2765 to 2787 for
# the advantages, 3083 to 3154 (loss_type=grpo, use_bias_correction_kl=False, epsilon .2) for loss and gradient.
REWARDS = [[1.0, 0.0, 0.3, 0.6, 0.95], [0.5] * 5, [0.0, 0.0, 0.0, 0.0, 1.0], [0.9, 0.8, 0.85, -0.1, 0.3]]
TRL_ADVANTAGES = {
    "group": [
        [1.007699338, -1.335787495, -0.632741445, 0.070304605, 0.890524997],
        [0.0] * 5,
        [-0.447113618, -0.447113618, -0.447113618, -0.447113618, 1.788454471],
        [0.8027709, 0.573407786, 0.688089343, -1.490860243, -0.573407786],
    ],
    "batch": [
        [1.133161528, -1.50209784, -0.711520029, 0.079057781, 1.00139856],
        [0.0] * 5,
        [-0.527051874, -0.527051874, -0.527051874, -0.527051874, 2.108207495],
        [0.922340779, 0.658814842, 0.79057781, -1.712918589, -0.658814842],
    ],
    "none": [
        [0.43, -0.57, -0.27, 0.03, 0.38],
        [0.0] * 5,
        [-0.2, -0.2, -0.2, -0.2, 0.8],
        [0.35, 0.25, 0.3, -0.65, -0.25],
    ],
}
LOGP = [
    [-1.0, -0.5, -2.0, -3.0, -1.2],
    [-0.7, -0.7, -1.5, -2.5, -0.1],
    [-0.3, -0.4, -4.0, -1.1, -0.9],
    [-2.2, -1.9, -0.8, -0.2, -1.4],
]
OLD_LOGP = [
    [-1.1, -0.9, -2.0, -2.4, -1.2],
    [-0.2, -0.9, -1.5, -2.0, -0.3],
    [-0.6, -0.4, -3.0, -1.0, -0.9],
    [-1.6, -2.3, -0.75, -0.4, -1.4],
]
START_LOGP = -1.5
TRL_LOSS = {0.0: 0.06091635395979496, 0.04: 0.09196515044310624}
TRL_GRADIENT = {
    0.0: [
        [-0.055684, 0.099638039, 0.031637072, -0.001929199, -0.04452625],
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.030177013, 0.022355681, 0.0, 0.020228257, -0.089422724],
        [-0.022028501, 0.0, -0.032726541, 0.091047041, 0.028670389],
    ],
    0.04: [
        [-0.054897061, 0.10090228, 0.03033963, -0.008892577, -0.044007886],
        [0.001101342, 0.001101342, 0.0, -0.003436564, 0.001506806],
        [0.031574624, 0.023689939, -0.022364988, 0.020887616, -0.088520347],
        [-0.024056006, -0.000983649, -0.031719712, 0.092501977, 0.028860714],
    ],
}


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def bandit(n: int, *, seed: int = 0, masked: bool = False) -> Problem:
    """The tier and the depth a sample needs are two of its features; more of either costs 20 or 15 ms."""
    features = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n, 2))
    needs_tier, needs_blocks = (features[:, :1] > 0).astype(int), 1 + (features[:, 1:] > 0)
    tier, blocks = np.divmod(np.arange(6), 3)
    accuracy = ((tier >= needs_tier) & (blocks >= needs_blocks)).astype(float)
    latency_ms = np.broadcast_to(10.0 + 20 * tier + 15 * blocks, accuracy.shape)
    budgets = np.eye(len(BUDGETS_MS))
    inputs = joined(features[:, None], budgets[None])
    return grpo.problem(
        inputs,
        accuracy=accuracy,
        latency_ms=latency_ms,
        budgets_ms=BUDGETS_MS,
        mask_ms=latency_ms if masked else None,
    )


def policy(problem: Problem, seed: int = 0) -> Policy:
    return Policy(KNOBS, features=problem.inputs.shape[-1], width=64, seed=seed)


def moved(problem: Problem) -> Policy:
    """A policy away from the uniform start."""
    network = policy(problem)
    torch.nn.init.normal_(network.heads.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return network


@pytest.mark.parametrize("scale", TRL_ADVANTAGES)
def test_advantages_are_those_of_trl(scale: str) -> None:
    assert torch.allclose(advantages(double(REWARDS), scale), double(TRL_ADVANTAGES[scale]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kl", TRL_LOSS)
def test_loss_and_gradient_are_those_of_trl(kl: float) -> None:
    logp = double(LOGP).requires_grad_()
    start = torch.full_like(logp, START_LOGP)
    gain = double(TRL_ADVANTAGES["group"])
    loss = objective(logp, double(OLD_LOGP), gain, clip=0.2, kl=kl, start_logp=start)
    (gradient,) = torch.autograd.grad(loss, logp)
    assert loss.item() == pytest.approx(TRL_LOSS[kl], abs=1e-6)
    assert torch.allclose(gradient, double(TRL_GRADIENT[kl]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", TRL_ADVANTAGES)
def test_advantages_of_a_group_sum_to_zero(scale: str) -> None:
    rewards = torch.from_numpy(np.random.default_rng(3).random((50, 7)))
    assert advantages(rewards, scale, 0.05).sum(dim=-1).abs().max() < 1e-12


def test_a_spread_below_the_floor_is_not_blown_up() -> None:
    """Equal accuracies that differ by 2 % of overrun: a tenth of the weight of a wrong answer, not all of it."""
    noise, wrong = double([0.3, 0.3, 0.3, 0.29, 0.3]), double([1.0, 1.0, 1.0, 0.0, 1.0])
    assert advantages(noise).min() == pytest.approx(advantages(wrong).min().item(), rel=0.05)
    assert advantages(noise, floor=grpo.FLOOR).min() == pytest.approx(-0.008 / 0.0501)
    assert torch.equal(advantages(wrong, floor=grpo.FLOOR), advantages(wrong))


@pytest.mark.parametrize("scale", TRL_ADVANTAGES)
def test_groups_of_zero_spread_give_no_gradient(scale: str) -> None:
    problem = bandit(8)
    network = moved(problem)
    # In single precision the mean of five equal numbers is not always that number.
    rewards = torch.rand(8, 3, 1, generator=torch.Generator().manual_seed(0)).expand(8, 3, 5)
    assert (rewards != rewards.mean(dim=-1, keepdim=True)).any()
    assert grpo.equal(rewards).all()
    logp = network.log_probabilities(problem.inputs)[..., :5]
    objective(logp, logp.detach(), advantages(rewards, scale), clip=0.2).backward()
    assert all(values.grad is not None and not values.grad.any() for values in network.parameters())


def gradient(network: Policy, loss: Tensor) -> Tensor:
    parts = torch.autograd.grad(loss, list(network.parameters()))
    return torch.cat([part.flatten() for part in parts])


def sampled_gradient(network: Policy, problem: Problem, rewards: Tensor, scale: str, groups: int) -> Tensor:
    """Mean GRPO gradient of so many groups of five in every state."""
    everything = network.log_probabilities(problem.inputs, problem.allowed)[None].expand(groups, -1, -1, -1)
    uniforms = generator(5, "many").random((*everything.shape[:-1], 5), dtype=np.float32)
    actions = draw(everything.detach(), torch.from_numpy(uniforms))
    logp = everything.gather(-1, actions)
    earned = rewards[None].expand_as(everything).gather(-1, actions)
    return gradient(network, objective(logp, logp.detach(), advantages(earned, scale), clip=0.2))


@pytest.mark.parametrize("masked", [False, True])
def test_the_mean_gradient_is_the_exact_one(masked: bool) -> None:
    """Without scaling: the same direction, (G - 1) / G as long, because a group's mean contains the draw itself."""
    problem = bandit(4, masked=masked)
    network, rewards = moved(problem), problem.rewards(GrpoConfig())
    exact = gradient(network, -optimum.expected(network.log_probabilities(problem.inputs, problem.allowed), rewards))
    mean = sampled_gradient(network, problem, rewards, "none", 4000)
    assert torch.cosine_similarity(mean, exact, dim=0) > 0.99
    assert mean.norm() / exact.norm() == pytest.approx(4 / 5, abs=0.05)


def test_scaling_by_the_group_weighs_all_states_alike() -> None:
    """Rewards ten times smaller pull ten times less without it, and as hard with it: the direction bends."""
    problem = bandit(4)
    network = moved(problem)
    rewards = problem.rewards(GrpoConfig())
    faint = rewards * double([1.0, 1.0, 1.0, 0.1])[:, None, None].float()
    exact = gradient(network, -optimum.expected(network.log_probabilities(problem.inputs), faint))
    cosines = {}
    for scale in ("none", "group"):
        mean = sampled_gradient(network, problem, faint, scale, 4000)
        cosines[scale] = torch.cosine_similarity(mean, exact, dim=0).item()
        same = sampled_gradient(network, problem, rewards, scale, 4000)
        assert torch.allclose(mean, same, rtol=0, atol=2e-3 * same.norm().item()) == (scale == "group")
    assert cosines["none"] > 0.99
    assert cosines["group"] < cosines["none"] - 0.02


def test_draws_follow_the_distribution_and_never_take_what_is_masked() -> None:
    allowed = torch.tensor([False, True, True, False, True, False])
    logp = torch.tensor([0.3, 5.0, -0.2, 0.0, 1.0, 9.0]).masked_fill(~allowed, -torch.inf).log_softmax(-1)
    uniforms = torch.from_numpy(generator(0, "draws").random(200_000, dtype=np.float32))
    uniforms[:2] = torch.tensor([0.0, np.nextafter(np.float32(1), np.float32(0))])
    actions = draw(logp, uniforms)
    assert allowed[actions].all()
    counts = torch.bincount(actions, minlength=6) / len(actions)
    assert torch.allclose(counts, logp.exp(), atol=0.005)


CONFIG = GrpoConfig(lr=5e-3, epochs=40, batch_size=16, scale_rewards="group")


@pytest.mark.parametrize("seed", range(5))
def test_a_bandit_with_a_known_answer_is_solved(seed: int, tmp_path: Path) -> None:
    """Every state's best action is decided, where to overrun pays and where the mask forbids it."""
    for masked in (False, True):
        problem = bandit(32, seed=seed, masked=masked)
        network = policy(problem, seed)
        path = tmp_path / f"{masked}.pt"
        fitted = grpo.train(network, problem, problem, CONFIG, name="grpo", seed=seed, checkpoint=path)
        played = grpo.play(network, problem, CONFIG)
        assert played["decided_reward"] == pytest.approx(optimum.ceiling(problem, CONFIG), abs=1e-6)
        assert fitted.curve[-1]["reward"] > fitted.curve[0]["reward"]
        # The least budget fits the cheapest action, so a masked policy is never late.
        assert played["decided_adherence"] == pytest.approx(1.0 if masked else played["decided_adherence"])
        assert not masked or played["adherence"] == pytest.approx(1.0)


@pytest.mark.parametrize("scale", ["batch", "none"])
def test_the_other_scales_and_several_updates_learn_too(scale: str, tmp_path: Path) -> None:
    problem = bandit(32)
    network = policy(problem)
    config = replace(CONFIG, scale_rewards=scale, updates=2, kl=0.001)
    grpo.train(network, problem, problem, config, name="grpo", seed=0, checkpoint=tmp_path / "c.pt")
    assert grpo.play(network, problem, config)["decided_reward"] > 0.97 * optimum.ceiling(problem, config)


def test_divergence_is_held_down_by_its_weight(tmp_path: Path) -> None:
    """The start is uniform: with a heavy weight the policy stays near its entropy, log 6."""
    problem, entropies = bandit(32), []
    for kl in (0.0, 10.0):
        config = replace(CONFIG, epochs=10, kl=kl, updates=2)
        fitted = grpo.train(
            policy(problem), problem, problem, config, name="grpo", seed=0, checkpoint=tmp_path / f"{kl}.pt"
        )
        entropies.append(fitted.curve[-1]["entropy"])
    assert entropies[0] < 0.8 * entropies[1]
    assert entropies[1] == pytest.approx(np.log(6), rel=0.02)


def test_the_curve_counts_what_happened(tmp_path: Path) -> None:
    problem = bandit(32)
    config = GrpoConfig(lr=3e-3, epochs=3, batch_size=16)
    fitted = grpo.train(policy(problem), problem, problem, config, name="grpo", seed=0, checkpoint=tmp_path / "c.pt")
    assert [row["epoch"] for row in fitted.curve] == [1, 2, 3]
    for row in fitted.curve:
        assert sum(row["tier"]) == pytest.approx(1.0)
        assert len(row["blocks"]) == 3
        assert 0 < row["frac_zero_std"] < 1
        assert 0 < row["entropy"] < np.log(6)
        assert row["reward"] <= row["accuracy"]


def test_play_adds_up_by_hand() -> None:
    """A uniform policy on one state: 5 of 6 settings of a sample that needs little are right, 20 ms fits one."""
    problem = bandit(1)
    problem = Problem(
        inputs=problem.inputs[:, :1],
        accuracy=torch.tensor([[[0.0, 1, 1, 1, 1, 1]]]),
        latency_ms=torch.tensor([[[10.0, 25, 40, 30, 45, 60]]]),
        budgets_ms=torch.tensor([20.0]),
        allowed=torch.ones(1, 1, 6, dtype=torch.bool),
    )
    played = grpo.play(policy(problem), problem, GrpoConfig())
    assert played["accuracy"] == pytest.approx(5 / 6)
    assert played["latency_ms"] == pytest.approx(35.0)
    assert played["adherence"] == pytest.approx(1 / 6)
    assert played["reward"] == pytest.approx(5 / 6 - 0.5 * (5 + 20 + 10 + 25 + 40) / 20 / 6)
    assert played["entropy"] == pytest.approx(np.log(6))
    assert played["decided_accuracy"] == 0.0  # of equals the first
    assert played["decided_adherence"] == 1.0


def test_the_second_stage_sees_the_configurations_of_its_tier() -> None:
    tables = np.arange(12.0).reshape(2, 6)
    tiers = np.array([[0, 1, 1], [1, 0, 0]])
    made = grpo.problem(
        torch.zeros(2, 3, 1),
        accuracy=tables,
        latency_ms=tables * 10,
        budgets_ms=BUDGETS_MS,
        mask_ms=tables * 10,
        tiers=tiers,
        tier_actions=3,
    )
    assert made.accuracy[0, 0].tolist() == [0, 1, 2]
    assert made.accuracy[0, 2].tolist() == [3, 4, 5]
    assert made.latency_ms[1, 0].tolist() == [90, 100, 110]
    assert made.allowed[0, 0].tolist() == [True, True, True]
    assert made.allowed[0, 1].tolist() == [True, True, False]
    assert made.allowed[1, 0].tolist() == [True, False, False]


def test_samples_without_times_are_refused() -> None:
    tables = np.ones((3, 6))
    holes = np.where(np.arange(3)[:, None] == 1, np.nan, tables)
    with pytest.raises(UserError, match="1 of 3 samples have no latency"):
        grpo.problem(torch.zeros(3, 3, 1), accuracy=tables, latency_ms=holes, budgets_ms=BUDGETS_MS)


def test_a_killed_training_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, config = bandit(40), replace(CONFIG, epochs=12, kl=0.01, updates=2)

    def run(name: str) -> tuple[Policy, Fitted]:
        network = policy(problem)
        path = tmp_path / name
        return network, grpo.train(network, problem, problem, config, name="grpo", seed=7, checkpoint=path)

    def dies(seed: int, *key: str | int) -> np.random.Generator:
        if key[-1] == 9:
            raise KeyboardInterrupt
        return generator(seed, *key)

    whole, expected = run("whole.pt")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("controller.fit.generator", dies)
        run("killed.pt")
    assert len(torch.load(tmp_path / "killed.pt", weights_only=True)["curve"]) == 5
    resumed, fitted = run("killed.pt")
    assert fitted == expected
    for name, values in whole.state_dict().items():
        assert torch.equal(values, resumed.state_dict()[name]), name
    assert run("whole.pt")[1] == expected  # finished: nothing left to train


@pytest.mark.parametrize("scale", ["batch", "none"])
def test_grpo_comes_near_the_exact_optimum(scale: str, tmp_path: Path) -> None:
    """Where the features do not tell everything; scaling by the group has another optimum there."""
    problem = bandit(64)
    flips = torch.from_numpy(np.random.default_rng(9).random(problem.accuracy.shape) < 0.2)
    problem = replace(problem, accuracy=torch.where(flips, 1 - problem.accuracy, problem.accuracy))
    config = replace(CONFIG, scale_rewards=scale)
    rewards = {}
    for module in (grpo, optimum):
        network = policy(problem)
        path = tmp_path / f"{module.__name__}.pt"
        module.train(network, problem, problem, config, name="grpo", seed=0, checkpoint=path)
        rewards[module] = grpo.play(network, problem, config)["decided_reward"]
    assert rewards[grpo] > 0.97 * rewards[optimum]
    assert rewards[optimum] < optimum.ceiling(problem, config)
