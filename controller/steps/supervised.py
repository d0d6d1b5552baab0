"""C2: copy the most accurate configuration within each budget; the baseline controller, which sees the budget alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from controller import baselines, plots, supervised
from controller.baselines import Ties
from controller.policy import Policy, settings
from controller.steps import standing
from controller.steps.ground import Ground, Ints, Side, ground
from controller.supervised import Lesson, Score
from controller.targets import Target, share, target
from suite.result import Result
from suite.stats import Estimate

if TYPE_CHECKING:
    from controller.steps.bench import Bench

FILE = "policy.safetensors"
AIMS = {"tier": 0.70, "top_k": 0.65, "blocks": 0.65}
ALL_THREE = 0.60


def run(bench: Bench, folder: Path) -> Result:
    """Train on `tune`, grade on `test`."""
    here, seed = ground(bench), bench.cfg.seed
    policy, fitted = supervised.train(
        settings(here.space), _lesson(here, here.tune), _lesson(here, here.held), bench.task.supervised,
        name="supervised", seed=seed, checkpoint=folder / "training.pt",
    )  # fmt: skip
    policy.save(folder / FILE)
    score = supervised.grade(policy, _lesson(here, here.test), seed=seed)
    columns = {"supervised": policy.best(here.budget_only(here.test)), **standing.baselines_of(here, seed=seed)}
    found = standing.stand(here, columns, seed=seed)
    standing.draw(folder, "c2", here, columns, found)
    plots.draw_confusion(folder / "plots" / "c2_confusion.svg", here.space, score.confusion)
    metrics = {f"{knob}_right": one.metric(unit="1", origin="computed") for knob, one in score.knobs.items()}
    metrics["all_right"] = score.every.metric(unit="1", origin="computed")
    cheapest = supervised.grade(policy, _lesson(here, here.test, ties="cheapest"), seed=seed)
    note = "of equally good configurations the cheapest is the label"
    metrics["all_right_cheapest"] = cheapest.every.metric(unit="1", origin="computed", note=note)
    metrics |= standing.over_budgets(here, columns["supervised"], seed=seed)
    facts = {"best_epoch": fitted.best_epoch, "curve": list(fitted.curve), "targets": list(_targets(score, here))}
    return Result(metrics=metrics, facts=facts | {"tables": [standing.table_of("C2: by budget", found)]})


def columns_on_test(bench: Bench, here: Ground) -> Ints:
    """What the trained controller chooses on `test`, (n, m)."""
    return Policy.load(bench.folder("supervised") / FILE, settings(here.space)).best(here.budget_only(here.test))


def _lesson(here: Ground, side: Side, *, ties: Ties = "accurate") -> Lesson:
    return Lesson(inputs=here.budget_only(side), labels=baselines.labels(side.table, here.budgets_ms, ties=ties))


def _targets(score: Score, here: Ground) -> Iterator[Target]:
    """The aims, each beside the most that the budget alone can tell of these labels."""
    labels = _lesson(here, here.test).labels
    places = np.moveaxis(here.space.places()[labels], -1, 0)
    for (knob, aim), place, count in zip(AIMS.items(), places, here.space.shape, strict=True):
        yield _target(f"{knob} as labelled", score.knobs[knob], aim, supervised.ceiling(place, count))
    yield _target("all three as labelled", score.every, ALL_THREE, supervised.ceiling(labels, len(here.space)))


def _target(what: str, one: Estimate, aim: float, most: float) -> Target:
    assert one.value is not None  # a mean of at least one sample
    reached = f"{share(one.value, one.ci95)}; the budget alone tells at most {100 * most:.1f} %"
    return target("C2", what, f"over {100 * aim:.0f} %", reached, met=one.value > aim)
