"""C3: stage 1 of the two-stage controller, the image's tier from question and budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from controller import baselines, plots, supervised
from controller.policy import Policy, settings
from controller.steps.ground import Ground, Ints, Side, ground
from controller.supervised import Lesson, shares
from controller.targets import share, target
from suite.result import Result
from suite.stats import mean_ci

if TYPE_CHECKING:
    from controller.steps.bench import Bench

FILE = "policy.safetensors"
AIM = 0.75


def run(bench: Bench, folder: Path) -> Result:
    """Train on `tune`, grade on `test`."""
    here, seed = ground(bench), bench.cfg.seed
    policy, fitted = supervised.train(
        settings(here.space, "tier"), _lesson(here, here.tune), _lesson(here, here.held), bench.task.stage1,
        name="stage1", seed=seed, checkpoint=folder / "training.pt",
    )  # fmt: skip
    policy.save(folder / FILE)
    lesson = _lesson(here, here.test)
    score = supervised.grade(policy, lesson, seed=seed)
    (folder / "plots").mkdir(exist_ok=True)
    counts = score.confusion["tier"]
    plots.draw_confusion(folder / "plots" / "c3_confusion.svg", here.space, score.confusion)
    commonest = lesson.labels == _commonest(_lesson(here, here.tune).labels, len(here.space.tiers))
    without = mean_ci(commonest.mean(axis=1), seed=seed)
    right = score.knobs["tier"]
    assert right.value is not None  # a mean of at least one sample
    metrics = {
        "tier_right": right.metric(unit="1", origin="computed"),
        "tier_right_by_budget_alone": without.metric(unit="1", origin="computed", note="commonest label of a budget"),
    }
    told = f"{share(right.value, right.ci95)}; by the budget alone {share(without.value or 0.0, without.ci95)}"
    targets = [target("C3", "tier as labelled", f"over {100 * AIM:.0f} %", told, met=right.value > AIM)]
    chosen = policy.best(here.question(here.test))
    facts = {"best_epoch": fitted.best_epoch, "curve": list(fitted.curve), "confusion": counts.tolist()}
    return Result(metrics=metrics, facts=facts | {"targets": targets, "tables": [_distribution(here, chosen)]})


def tiers(bench: Bench, here: Ground, side: Side, *, masked: bool) -> Ints:
    """Numbers of the tiers that stage 1 chooses, (n, m); `masked`: among those that can meet the budget."""
    policy = load(bench, here)
    allowed = torch.from_numpy(here.open_tiers(side)) if masked else None
    return policy.best(here.question(side), allowed)


def load(bench: Bench, here: Ground) -> Policy:
    """The trained stage."""
    return Policy.load(bench.folder("stage1") / FILE, settings(here.space, "tier"))


def _lesson(here: Ground, side: Side) -> Lesson:
    columns = baselines.labels(side.table, here.budgets_ms)
    return Lesson(inputs=here.question(side), labels=here.space.places()[columns, 0])


def _commonest(labels: Ints, settings: int) -> Ints:
    """The commonest label of each budget, (m,), of labels (n, m)."""
    chosen: Ints = shares(labels, settings).argmax(axis=1)
    return chosen


def _distribution(here: Ground, chosen: Ints) -> dict[str, Any]:
    """Share of each tier by budget, and by data set."""
    names = np.array(here.test.datasets)
    rows = []
    for place, budget in enumerate(here.budgets_ms):
        rows.append([f"{budget:.1f} ms", *_percent(chosen[:, place], len(here.space.tiers))])
    for name in dict.fromkeys(here.test.datasets):
        rows.append([name, *_percent(chosen[names == name], len(here.space.tiers))])
    header = ["budget, or data set", *here.space.tiers]
    return {"title": "C3: share of the tiers", "header": header, "rows": rows, "report_only": True}


def _percent(chosen: Ints, settings: int) -> list[str]:
    return [f"{100 * float((chosen == setting).mean()):.0f} %" for setting in range(settings)]
