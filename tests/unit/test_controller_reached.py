"""C8's report: what it says must not depend on how fast the machine was in that hour."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controller.baselines import Table
from controller.steps import reached
from suite.rng import generator
from tests.unit.test_controller_estimator import SPACE, profile

BUDGETS = np.array([20.0, 30.0, 40.0])


def rows(found, drift):
    """Every policy's real runs: any configuration, its time as profiled, on a machine `drift` times as slow."""
    told = []
    for place, name in enumerate(found.ids):
        runs = {}
        for policy in ("controller", "lookup", "lookup_p95", "random", "oracle"):
            columns = generator(0, name, policy).integers(len(SPACE), size=len(BUDGETS))
            runs[policy] = [
                {
                    "tier": SPACE.configurations[column].tier,
                    "top_k": SPACE.configurations[column].top_k,
                    "blocks": SPACE.configurations[column].blocks,
                    "accuracy": found.accuracy[place, column],
                    "total_ms": drift * found.total_ms[place, column],
                    "decision_ms": 0.1 * drift,
                }
                for column in columns
            ]
        told.append({"id": name, "runs": runs.pop("controller"), "beside": runs})
    return told


def test_a_slower_hour_moves_the_hull_along(tmp_path: Path) -> None:
    found = replace(profile(30, seed=3), splits=("test",) * 30)
    found = replace(found, accuracy=generator(0, "answers").random(found.accuracy.shape))
    tune = Table(accuracy=generator(0, "tune").random(found.accuracy.shape), latency_ms=found.total_ms)
    facts = []
    for drift in (1.0, 1.5):
        folder = tmp_path / str(drift)
        folder.mkdir()
        facts.append(reached.report(found, tune, rows(found, drift), BUDGETS, folder, seed=1).facts)
    then, now = facts
    assert now["slower_than_profiled"] == pytest.approx(1.5 * then["slower_than_profiled"])
    strict, beforehand = zip(
        *([one["reached"] for one in told["targets"] if "fixed hull" in one["what"]] for told in facts), strict=True
    )
    assert strict[0] == strict[1] and beforehand[0] == beforehand[1] and strict != beforehand
