"""C4: stage 2 of the two-stage controller: experts and blocks by GRPO, at the tier that stage 1 chose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller import grpo
from controller.grpo import Problem
from controller.policy import Policy, settings
from controller.steps import bandit, stage1, standing
from controller.steps.bandit import Trained
from controller.steps.ground import Ground, Ints, ground
from controller.targets import Target, share, target
from suite.result import Metric, Result

if TYPE_CHECKING:
    from controller.steps.bench import Bench

KNOBS = ("top_k", "blocks")
OF_OPTIMUM, ADHERENCE = 0.97, {"reference": 0.80, "masked": 0.95}


def run(bench: Bench, folder: Path) -> Result:
    """Train on `tune` with both rewards, judge on `test`."""
    here, seed = ground(bench), bench.cfg.seed
    tiers = {
        (side, reward): stage1.tiers(bench, here, getattr(here, side), reward=reward)
        for side in ("tune", "held", "test")
        for reward in ADHERENCE
    }

    def problem(side: str, reward: str) -> Problem:
        data, chosen = getattr(here, side), tiers[side, reward]
        return grpo.problem(
            here.sight(data, chosen), accuracy=data.accuracy, latency_ms=data.latency_ms, budgets_ms=here.budgets_ms,
            mask_ms=data.p95_ms if reward == "masked" else None, tiers=chosen, tier_actions=here.per_tier,
        )  # fmt: skip

    trained = bandit.train(
        settings(here.space, *KNOBS), problem, bench.task.stage2, name="stage2", seed=seed, folder=folder
    )
    columns = {f"two_stage_{reward}": _columns(here, one.policy, tiers["test", reward], problem("test", reward))
               for reward, one in trained.items()}  # fmt: skip
    return report("C4", "two_stage", here, trained, columns, folder, seed=seed)


def columns_on_test(bench: Bench, here: Ground, reward: str) -> Ints:
    """What both stages choose on `test`, (n, m)."""
    chosen = stage1.tiers(bench, here, here.test, reward=reward)
    test = here.test
    problem = grpo.problem(
        here.sight(test, chosen), accuracy=test.accuracy, latency_ms=test.latency_ms, budgets_ms=here.budgets_ms,
        mask_ms=test.p95_ms if reward == "masked" else None, tiers=chosen, tier_actions=here.per_tier,
    )  # fmt: skip
    return _columns(here, load(bench, here, reward), chosen, problem)


def load(bench: Bench, here: Ground, reward: str) -> Policy:
    """The trained stage."""
    return Policy.load(bandit.policy_file(bench.folder("stage2"), reward), settings(here.space, *KNOBS))


def _columns(here: Ground, policy: Policy, tiers: Ints, test: Problem) -> Ints:
    return tiers * here.per_tier + policy.best(test.inputs, test.allowed)


def report(
    row: str, name: str, here: Ground, trained: Mapping[str, Trained], columns: Mapping[str, Ints], folder: Path,
    *, seed: int,
) -> Result:  # fmt: skip
    """What C4 and C5 say of their policies: metrics, targets, curves, plots."""
    every = {**columns, **standing.baselines_of(here, seed=seed)}
    found = standing.stand(here, every, seed=seed)
    standing.draw(folder, row.lower(), here, every, found)
    bandit.draw(folder / "plots", row.lower(), trained)
    metrics: dict[str, Metric] = {}
    for policy, chosen in every.items():
        of_one = standing.over_budgets(here, chosen, seed=seed)
        metrics |= {f"{policy}_{key}": metric for key, metric in of_one.items()}
    facts: dict[str, Any] = {
        reward: {
            "best_epoch": one.best_epoch,
            "played": one.played,
            "optimal": one.optimal,
            "ceiling": one.ceiling,
            "curve": [{key: line[key] for key in bandit.SHOWN} for line in one.curve],
        }
        for reward, one in trained.items()
    }
    targets = [*_targets(row, trained, columns, here, seed=seed)]
    headline = [key for key in metrics if key.startswith((name, "lookup_accuracy", "oracle_accuracy"))]
    return Result(
        metrics=metrics,
        facts=facts
        | {"headline": headline, "targets": targets, "tables": [standing.table_of(f"{row}: by budget", found)]},
    )


def _targets(
    row: str, trained: Mapping[str, Trained], columns: Mapping[str, Ints], here: Ground, *, seed: int
) -> Iterator[Target]:
    for (reward, one), chosen in zip(trained.items(), columns.values(), strict=True):
        rewards = [line["reward"] for line in one.curve]
        rise = f"{rewards[0]:.3f} to {rewards[-1]:.3f}"
        yield target(row, f"{reward}: reward rises in training", "rises", rise, met=rewards[-1] > rewards[0])
        got, best = one.played["decided_reward"], one.optimal["decided_reward"]
        aim = f"at least {100 * OF_OPTIMUM:.0f} % of the exactly optimised policy's"
        said = f"{got:.3f} of {best:.3f}; a policy that knew every answer {one.ceiling:.3f}"
        yield target(row, f"{reward}: reward on test", aim, said, met=got >= OF_OPTIMUM * best if best > 0 else None)
        kept = standing.over_budgets(here, chosen, seed=seed)["adherence"]
        assert kept.value is not None  # a mean of at least one sample
        least = ADHERENCE[reward]
        what = "expected latency within budget" + (" (the mask's own rule; C8 runs it)" if reward == "masked" else "")
        said = f"{share(kept.value, kept.ci95)}; always the cheapest {100 * _most(here):.1f} %"
        yield target(row, f"{reward}: {what}", f"over {100 * least:.0f} %", said, met=kept.value > least)
        table, tune = here.test.table, here.tune.table
        yield from standing.hull_targets(row, f"{reward}: ", table, table.pick(chosen), tune, seed=seed)


def _most(here: Ground) -> float:
    """Adherence of the fastest configuration, the most there is: the least budget is the mean of the cheapest."""
    return float((here.test.latency_ms.min(axis=1, keepdims=True) <= here.budgets_ms).mean())
