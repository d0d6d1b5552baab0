"""C3: stage 1 of the two-stage controller, the image's tier from question and budget, for each of its rewards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from controller import baselines, plots, supervised
from controller.baselines import Table
from controller.policy import Policy, settings
from controller.schema import REWARDS
from controller.steps.bandit import policy_file
from controller.steps.ground import Ground, Ints, Side, ground
from controller.supervised import Lesson, shares
from controller.targets import share, target
from suite.result import Metric, Result
from suite.stats import mean_ci

if TYPE_CHECKING:
    from controller.steps.bench import Bench

AIM = 0.75


def run(bench: Bench, folder: Path) -> Result:
    """Train on `tune` and grade on `test`, once for each reward of stage 2."""
    here, seed = ground(bench), bench.cfg.seed
    (folder / "plots").mkdir(exist_ok=True)
    metrics: dict[str, Metric] = {}
    facts: dict[str, Any] = {"targets": [], "tables": []}
    for reward in REWARDS:
        tune, held, test = (_lesson(here, side, reward) for side in (here.tune, here.held, here.test))
        policy, fitted = supervised.train(
            settings(here.space, "tier"), tune, held, bench.task.stage1,
            name="stage1", seed=seed, checkpoint=folder / f"{reward}.pt",
        )  # fmt: skip
        policy.save(policy_file(folder, reward))
        score = supervised.grade(policy, test, seed=seed)
        plots.draw_confusion(folder / "plots" / f"c3_confusion_{reward}.svg", here.space, score.confusion)
        commonest = test.labels == _commonest(tune.labels, len(here.space.tiers))
        right, without = score.knobs["tier"], mean_ci(commonest.mean(axis=1), seed=seed)
        assert right.value is not None and without.value is not None  # means of at least one sample
        metrics[f"{reward}_tier_right"] = right.metric(unit="1", origin="computed")
        note = "commonest label of a budget"
        metrics[f"{reward}_tier_right_by_budget_alone"] = without.metric(unit="1", origin="computed", note=note)
        told = f"{share(right.value, right.ci95)}; by the budget alone {share(without.value, without.ci95)}"
        facts["targets"].append(
            target("C3", f"{reward}: tier as labelled", f"over {100 * AIM:.0f} %", told, met=right.value > AIM)
        )
        counts = score.confusion["tier"]
        facts[reward] = {"best_epoch": fitted.best_epoch, "curve": list(fitted.curve), "confusion": counts.tolist()}
        facts["tables"].append(_distribution(here, policy.best(here.question(here.test)), reward))
    return Result(metrics=metrics, facts=facts)


def tiers(bench: Bench, here: Ground, side: Side, *, reward: str) -> Ints:
    """Numbers of the tiers that stage 1 chooses, (n, m); `masked`: among those that can meet the budget."""
    allowed = torch.from_numpy(here.open_tiers(side)) if reward == "masked" else None
    return load(bench, here, reward).best(here.question(side), allowed)


def load(bench: Bench, here: Ground, reward: str) -> Policy:
    """The trained stage."""
    return Policy.load(policy_file(bench.folder("stage1"), reward), settings(here.space, "tier"))


def _lesson(here: Ground, side: Side, reward: str) -> Lesson:
    """Labelled by what stage 2 may choose from: where it is masked, p95 and not the mean must keep the budget."""
    table = Table(accuracy=side.accuracy, latency_ms=side.p95_ms) if reward == "masked" else side.table
    # by data set: at one budget small print wants the tier and a diagram the blocks, and the question tells which
    columns = baselines.labels(table, here.budgets_ms, groups=side.datasets)
    return Lesson(inputs=here.question(side), labels=here.space.places()[columns, 0])


def _commonest(labels: Ints, settings: int) -> Ints:
    """The commonest label of each budget, (m,), of labels (n, m)."""
    chosen: Ints = shares(labels, settings).argmax(axis=1)
    return chosen


def _distribution(here: Ground, chosen: Ints, reward: str) -> dict[str, Any]:
    """Share of each tier by budget, and by data set."""
    names = np.array(here.test.datasets)
    rows = []
    for place, budget in enumerate(here.budgets_ms):
        rows.append([f"{budget:.1f} ms", *_percent(chosen[:, place], len(here.space.tiers))])
    for name in dict.fromkeys(here.test.datasets):
        rows.append([name, *_percent(chosen[names == name], len(here.space.tiers))])
    header = ["budget, or data set", *here.space.tiers]
    return {"title": f"C3: share of the tiers, {reward}", "header": header, "rows": rows, "report_only": True}


def _percent(chosen: Ints, settings: int) -> list[str]:
    return [f"{100 * float((chosen == setting).mean()):.0f} %" for setting in range(settings)]
