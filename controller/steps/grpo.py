"""C5: all three knobs at once by GRPO, from question, budget and a glance at the lowest tier, beside two stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from controller import baselines, grpo
from controller.grpo import Problem
from controller.policy import Policy, settings
from controller.schema import REWARDS
from controller.steps import bandit, stage2
from controller.steps.ground import Ground, Ints, ground
from controller.targets import points, target
from suite.result import Result

if TYPE_CHECKING:
    from controller.steps.bench import Bench


def run(bench: Bench, folder: Path) -> Result:
    """Train on `tune` with both rewards, judge on `test`."""
    here, seed = ground(bench), bench.cfg.seed

    def problem(side: str, reward: str) -> Problem:
        return _problem(here, side, reward)

    trained = bandit.train(settings(here.space), problem, bench.task.grpo, name="grpo", seed=seed, folder=folder)
    columns = {f"end_to_end_{reward}": _columns(one.policy, problem("test", reward)) for reward, one in trained.items()}
    result = stage2.report("C5", "end_to_end", here, trained, columns, folder, seed=seed)
    targets = result.facts["targets"]
    table = here.test.table
    for reward in REWARDS:
        mine, other = columns[f"end_to_end_{reward}"], stage2.columns_on_test(bench, here, reward)
        gap = baselines.compare(table.pick(mine), table.pick(other), seed=seed)
        told = f"{points(gap['accuracy'].value, gap['accuracy'].ci95)}, {gap['latency_ms'].value:+.2f} ms"
        low = gap["accuracy"].ci95[0] if gap["accuracy"].ci95 else None
        met = None if low is None else gap["accuracy"].value >= 0
        targets.append(target("C5", f"{reward}: accuracy against C4", "at least equal", told, met=met))
    return replace(result, facts=result.facts | {"targets": targets})


def columns_on_test(bench: Bench, here: Ground, reward: str) -> Ints:
    """What the controller chooses on `test`, (n, m)."""
    policy = Policy.load(bandit.policy_file(bench.folder("grpo"), reward), settings(here.space))
    return _columns(policy, _problem(here, "test", reward))


def _problem(here: Ground, side: str, reward: str) -> Problem:
    data = getattr(here, side)
    return grpo.problem(
        here.glance(data), accuracy=data.accuracy, latency_ms=data.latency_ms, budgets_ms=here.budgets_ms,
        mask_ms=data.p95_ms if reward == "masked" else None,
    )  # fmt: skip


def _columns(policy: Policy, test: Problem) -> Ints:
    return policy.best(test.inputs, test.allowed)
