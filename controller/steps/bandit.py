"""What C4 and C5 share: train by GRPO, with and without a mask, beside the exactly optimised policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller import grpo, optimum, plots
from controller.grpo import Problem
from controller.policy import Policy, Settings
from controller.schema import REWARDS, GrpoConfig

SHOWN = ("reward", "decided_reward", "decided_accuracy", "decided_adherence", "entropy", "frac_zero_std")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A policy by GRPO, the exactly optimised one, and what each does on `test`."""

    policy: Policy
    best_epoch: int
    curve: tuple[dict[str, Any], ...]
    played: dict[str, Any]
    """`grpo.play` on `test`."""
    optimal: dict[str, Any]
    """The same of the exactly optimised policy."""
    optimal_in_training: dict[str, Any]
    """The same on `tune`."""
    ceiling: float
    """Mean reward on `test` of the best action of every state."""


def train(
    knobs: Settings, problem: Callable[[str, str], Problem], config: GrpoConfig, *, name: str, seed: int, folder: Path
) -> dict[str, Trained]:
    """By reward, `reference` and `masked`.

    Args:
        knobs: what is decided.
        problem: of a set (`tune`, `held`, `test`) and a reward.
        config: of the training.
        name: of the step.
        seed: of weights and draws.
        folder: the step's; policies and checkpoints go there.
    """
    found = {}
    for reward in REWARDS:
        sides = [problem(side, reward) for side in ("tune", "held", "test")]
        found[reward] = _train(knobs, sides, config, name, seed, folder / reward)
    return found


def _train(knobs: Settings, sides: Sequence[Problem], config: GrpoConfig, name: str, seed: int, file: Path) -> Trained:
    tune, held, test = sides
    made = []
    for method in (grpo, optimum):
        policy = Policy(knobs, features=tune.inputs.shape[-1], width=config.width, seed=seed)
        checkpoint = file.with_name(f"{file.name}_{method.__name__.rpartition('.')[2]}.pt")
        fitted = method.train(policy, tune, held, config, name=name, seed=seed, checkpoint=checkpoint)
        made.append((policy, fitted))
    (policy, fitted), (exact, _) = made
    policy.save(file.with_suffix(".safetensors"))
    return Trained(
        policy=policy,
        best_epoch=fitted.best_epoch,
        curve=fitted.curve,
        played=grpo.play(policy, test, config),
        optimal=grpo.play(exact, test, config),
        optimal_in_training=grpo.play(exact, tune, config),
        ceiling=optimum.ceiling(test, config),
    )


def policy_file(folder: Path, reward: str) -> Path:
    """Where a trained policy is stored."""
    return folder / f"{reward}.safetensors"


def draw(where: Path, row: str, trained: Mapping[str, Trained]) -> None:
    """Training curves, a figure a reward."""
    for reward, one in trained.items():
        optimum = {name: one.optimal_in_training[name] for name in SHOWN if name in one.optimal_in_training}
        curve = {"GRPO": one.curve}
        plots.draw_training(where / f"{row}_training_{reward}.svg", curve, quantities=SHOWN, optimum=optimum)
