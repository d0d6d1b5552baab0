"""C2 and C3: controllers that copy the best configuration of each (sample, budget), by cross-entropy.

The label of a state is the most accurate configuration within the budget (baselines.py). C2 sees the budget alone and
sets all three knobs: it can learn no more than the commonest label of each budget. C3 sees the question too and sets
the tier. An epoch is every state once. Held-out samples choose the best epoch and give the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from controller.fit import Fitted, fit
from controller.policy import Policy, Settings
from controller.schema import TrainConfig
from suite import stats
from suite.stats import Estimate

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """States and the actions that are right in them."""

    inputs: Tensor
    """(n, m, f), of `policy.joined`."""
    labels: Ints
    """(n, m), numbers of actions."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a policy agrees with labels over n samples by m budgets."""

    knobs: dict[str, Estimate]
    """Share right by knob. The interval resamples samples: the budgets of one sample are not independent."""
    every: Estimate
    """Share with all knobs right."""
    confusion: dict[str, Ints]
    """By knob, (settings, settings): how often the row is the label and the column was chosen."""


def train(
    knobs: Settings, tune: Lesson, held_out: Lesson, config: TrainConfig, *, name: str, seed: int, checkpoint: Path
) -> tuple[Policy, Fitted]:
    """The policy of the best epoch by held-out share right, and the curve: loss, held-out loss and share right."""
    policy = Policy(knobs, features=tune.inputs.shape[-1], width=config.width, seed=seed)
    policy.normalise(tune.inputs)
    inputs, labels = tune.inputs.flatten(0, 1), torch.from_numpy(tune.labels).flatten()
    held_inputs, held_labels = held_out.inputs.flatten(0, 1), torch.from_numpy(held_out.labels).flatten()

    def loss_of(inputs: Tensor, labels: Tensor) -> Tensor:
        return torch.nn.functional.nll_loss(policy.log_probabilities(inputs), labels)

    @torch.no_grad()
    def score(epoch: int) -> dict[str, float]:
        logp = policy.log_probabilities(held_inputs)
        right = (logp.argmax(dim=-1) == held_labels).float().mean().item()
        return {"held_out_loss": torch.nn.functional.nll_loss(logp, held_labels).item(), "held_out_right": right}

    fitted = fit(
        policy,
        lambda rows, epoch: lambda: loss_of(inputs[rows], labels[rows]),
        score,
        name=name,
        config=config,
        items=len(labels),
        by="held_out_right",
        seed=seed,
        checkpoint=checkpoint,
    )
    return policy, fitted


def grade(policy: Policy, lesson: Lesson, *, seed: int) -> Score:
    """Compare what the policy decides with the labels."""
    labels = policy.places(lesson.labels)
    chosen = policy.places(policy.best(lesson.inputs))
    right = {name: labels[name] == chosen[name] for name in labels}
    confusion = {}
    for name, values in policy.knobs.items():
        counts = np.zeros((len(values), len(values)), dtype=np.int64)
        np.add.at(counts, (labels[name], chosen[name]), 1)
        confusion[name] = counts
    return Score(
        knobs={name: stats.mean_ci(hits.mean(axis=1), seed=seed, purpose=name) for name, hits in right.items()},
        every=stats.mean_ci(np.logical_and.reduce(list(right.values())).mean(axis=1), seed=seed, purpose="every"),
        confusion=confusion,
    )


def shares(places: Ints, settings: int) -> npt.NDArray[np.float64]:
    """How often each setting was chosen at each budget, (m, settings), from numbers of settings (n, m)."""
    share: npt.NDArray[np.float64] = (places[..., None] == np.arange(settings)).mean(axis=0)
    return share


def ceiling(labels: Ints, settings: int) -> float:
    """Share right of whoever sees the budget alone and knows the commonest of these labels (n, m) at each."""
    return float(shares(labels, settings).max(axis=1).mean())
