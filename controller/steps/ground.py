"""What every controller is trained and judged on: accuracy, expected latency and features of three sets of samples.

`tune` teaches, `held` (a fifth of the tune split) chooses the epoch, `test` gives the figures. Latency is the
estimator's, which is known for every sample and has no noise; real runs are C8's (adaptive.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from controller import baselines, features
from controller.baselines import Table
from controller.estimator import Estimator
from controller.features import Features
from controller.policy import feasible, joined
from controller.space import Space
from controller.steps import latency, profile
from controller.table import Profile
from suite.rng import generator

if TYPE_CHECKING:
    from controller.steps.bench import Bench

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
HELD = 0.2
BUDGET_SIZE = 16
"""Length of a budget's feature vector."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """n samples in c configurations."""

    ids: tuple[str, ...]
    datasets: tuple[str, ...]
    accuracy: Floats
    """(n, c), 0 to 1."""
    latency_ms: Floats
    """(n, c), expected."""
    p95_ms: Floats
    """(n, c)."""
    language: Floats
    """(n, d)."""
    vision: Floats
    """(n, tiers, d)."""

    @property
    def table(self) -> Table:
        """Accuracy and expected latency."""
        return Table(accuracy=self.accuracy, latency_ms=self.latency_ms)

    def take(self, rows: Ints) -> Side:
        """The samples of these rows."""
        return Side(
            ids=tuple(self.ids[row] for row in rows),
            datasets=tuple(self.datasets[row] for row in rows),
            accuracy=self.accuracy[rows],
            latency_ms=self.latency_ms[rows],
            p95_ms=self.p95_ms[rows],
            language=self.language[rows],
            vision=self.vision[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The three sets, and the m budgets that all controllers face."""

    space: Space
    budgets_ms: Floats
    """(m,): from the cheapest configuration's mean latency to the dearest's."""
    tune: Side
    held: Side
    test: Side

    def budget_features(self, budget_ms: float) -> Floats:
        """(`BUDGET_SIZE`,)."""
        return features.budget_features(budget_ms, float(self.budgets_ms[0]), float(self.budgets_ms[-1]), BUDGET_SIZE)

    @cached_property
    def _encoded(self) -> Floats:
        return np.stack([self.budget_features(one) for one in self.budgets_ms.tolist()])[None]

    @property
    def per_tier(self) -> int:
        """Configurations of a tier, which are the actions of stage 2."""
        return len(self.space) // len(self.space.tiers)

    def budget_only(self, side: Side) -> Tensor:
        """States of C2, (n, m, f)."""
        return joined(np.zeros((len(side.ids), 1, 0)), self._encoded)

    def question(self, side: Side) -> Tensor:
        """States of C3, (n, m, f)."""
        return joined(side.language[:, None], self._encoded)

    def sight(self, side: Side, tiers: Ints) -> Tensor:
        """States of C4, (n, m, f), where stage 1 chose `tiers` (n, m)."""
        seen = np.take_along_axis(side.vision, tiers[..., None], axis=1)
        return joined(seen, side.language[:, None], self._encoded)

    def glance(self, side: Side) -> Tensor:
        """States of C5, (n, m, f): what the lowest tier shows."""
        return joined(side.vision[:, :1], side.language[:, None], self._encoded)

    def open_tiers(self, side: Side) -> npt.NDArray[np.bool_]:
        """Tiers whose cheapest configuration fits the budget at p95, (n, m, tiers); the lowest always."""
        return feasible(side.p95_ms[:, None, :: self.per_tier], self.budgets_ms)


def ground(bench: Bench) -> Ground:
    """From the steps `profile` and `latency`."""
    found, estimator = profile.read(bench), latency.read(bench)
    seen = features.read(bench.folder("profile") / profile.FEATURES)
    whole = _side(found, estimator, seen)
    splits = np.array(found.splits)
    tune, test = np.flatnonzero(splits == "tune"), np.flatnonzero(splits == "test")
    shuffled = generator(bench.cfg.seed, "controllers", "held out").permutation(tune)
    cut = max(1, round(HELD * len(tune)))
    sides = {"held": whole.take(np.sort(shuffled[:cut])), "tune": whole.take(np.sort(shuffled[cut:]))}
    budgets = baselines.budgets(sides["tune"].latency_ms.mean(axis=0))
    return Ground(space=found.space, budgets_ms=budgets, test=whole.take(test), **sides)


def _side(found: Profile, estimator: Estimator, seen: Features) -> Side:
    totals = estimator.totals(found.text_tokens)
    return Side(
        ids=found.ids, datasets=found.datasets, accuracy=found.accuracy, latency_ms=totals.mean_ms,
        p95_ms=totals.p95_ms, language=seen.language.double().numpy(), vision=seen.vision.double().numpy(),
    )  # fmt: skip
