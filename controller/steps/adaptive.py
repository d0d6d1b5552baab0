"""C8: the two-stage controller at work: it picks the tier, looks, picks experts and blocks, and the model answers.

Everything is run and timed: the controller, and beside it on the same sample in the same minute the configurations of
the lookup tables (whose mean, or p95, keeps the budget), one drawn at random within the budget, and the oracle's. The
controller's own time counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from controller import baselines, features, page
from controller.adapter import Run
from controller.data import Sample, accuracy
from controller.export import Decider, exported
from controller.policy import Array
from controller.space import Knobs
from controller.steps import latency, profile, reached, stage1, stage2
from controller.steps.ground import Floats, Ground, Ints, ground
from controller.timing import WARM_UP
from suite.context import ok
from suite.errors import UserError
from suite.result import Result
from suite.rng import generator

if TYPE_CHECKING:
    from controller.steps.bench import Bench
    from suite.context import RunContext


@dataclass(frozen=True, kw_only=True)
class Controller:
    """Both stages, ready to decide: arrays are looked up, nothing is estimated any more."""

    here: Ground
    first: Decider
    second: Decider
    p95_ms: Floats
    """(text tokens, c): p95 latency by length of the question; zeros where any configuration may be chosen."""

    def tier(self, language: Array, budget: Floats, budget_ms: float, text_tokens: int) -> int:
        """Number of the tier; the lowest where nothing fits."""
        if budget_ms < self.here.budgets_ms[0]:
            return 0
        expected = self.p95_ms[text_tokens, :: self.here.per_tier]
        return self.first.decide(np.concatenate([language, budget]), expected, budget_ms)

    def rest(
        self, vision: Array, language: Array, budget: Floats, budget_ms: float, tier: int, text_tokens: int
    ) -> int:
        """Column of the configuration, once the image was seen at the tier; the cheapest where nothing fits."""
        if budget_ms < self.here.budgets_ms[0]:
            return 0
        start = tier * self.here.per_tier
        expected = self.p95_ms[text_tokens, start : start + self.here.per_tier]
        return start + self.second.decide(np.concatenate([vision, language, budget]), expected, budget_ms)


def run(bench: Bench, ctx: RunContext) -> Result:
    """Run every sample at every budget; one row a sample.

    Raises:
        UserError: bad input.
    """
    bench.result("stage2")
    here = ground(bench)
    asked = bench.task.latency_budget_ms
    budgets = here.budgets_ms if asked is None else np.array([asked])
    samples = bench.samples("test", bench.sizes.test)[: bench.sizes.timed["adaptive"]]
    chosen = _fixed(bench, here, budgets)
    controller = _controller(bench, here, longest=max(len(bench.adapter.text(sample.question)) for sample in samples))
    for sample in samples[:WARM_UP]:
        _steered(bench, controller, sample, float(budgets[-1]))
    ctx.each(samples, lambda sample: _row(bench, controller, chosen, sample, budgets), label=bench.task.method)
    rows = ok(ctx.samples)
    if not rows:
        raise UserError(f"No sample was answered; the first one: {next(iter(ctx.samples))['error']}")
    by_id = {sample.id: sample for sample in samples}
    page.write(ctx.folder / "samples.html", rows, lambda name: page.png(by_id[name].open()))
    return reached.report(profile.read(bench), here.tune.table, rows, budgets, ctx.folder, seed=bench.cfg.seed)


def _controller(bench: Bench, here: Ground, *, longest: int) -> Controller:
    """The stages of `task.reward` for questions of up to `longest` tokens; with ONNX installed, exported too."""
    folder, reward = bench.folder("stage2"), bench.task.reward
    lengths = np.arange(longest + 1)
    p95 = np.zeros((len(lengths), len(here.space)))
    if reward == "masked":
        p95 = latency.read(bench).totals(lengths).p95_ms
    with FileLock(folder / "lock"):  # another launch may be writing the same files
        first = exported(stage1.load(bench, here, reward), folder / f"{reward}_tier.onnx")
        second = exported(stage2.load(bench, here, reward), folder / f"{reward}.onnx")
    return Controller(here=here, first=first, second=second, p95_ms=p95)


def _fixed(bench: Bench, here: Ground, budgets: Floats) -> dict[str, dict[str, Ints]]:
    """Columns (budgets,) of each sample's comparisons, by sample id and name."""
    tune, test = here.tune, here.test
    right, mean = tune.accuracy.mean(axis=0), tune.latency_ms.mean(axis=0)
    table = baselines.lookup(right, mean, budgets)
    safe = baselines.lookup(right, tune.p95_ms.mean(axis=0), budgets)
    drawn = baselines.random_within(mean, budgets, test.ids, seed=bench.cfg.seed)
    best = baselines.oracle(test.table, budgets)
    return {
        name: {"lookup": table, "lookup_p95": safe, "random": drawn[place], "oracle": best[place]}
        for place, name in enumerate(test.ids)
    }


def _row(
    bench: Bench, controller: Controller, chosen: Mapping[str, Mapping[str, Ints]], sample: Sample, budgets: Floats
) -> dict[str, Any]:
    """One sample at every budget, policies in an order drawn anew."""
    runs: dict[str, list[dict[str, Any]]] = {reached.OWN: [], **{name: [] for name in chosen[sample.id]}}
    for place, budget in enumerate(budgets.tolist()):
        done = {}
        for number in generator(bench.cfg.seed, sample.id, "order of policies", place).permutation(len(runs)):
            name = [*runs][number]
            if name == reached.OWN:
                done[name] = _steered(bench, controller, sample, budget)
            else:
                done[name] = _plain(bench, controller.here, sample, int(chosen[sample.id][name][place]))
        for name, one in done.items():
            runs[name].append({"budget_ms": budget, **one, "met": one["total_ms"] <= budget})
    own = runs[reached.OWN]
    metrics = {
        name: float(np.mean([float(one[key]) for one in own]))
        for name, key in (("accuracy", "accuracy"), ("latency_ms", "total_ms"), ("adherence", "met"))
    }
    return {
        "dataset": sample.dataset, "question": sample.question, "answers": list(sample.answers),
        "runs": own, "beside": {name: found for name, found in runs.items() if name != reached.OWN}, "metrics": metrics,
    }  # fmt: skip


def _steered(bench: Bench, controller: Controller, sample: Sample, budget_ms: float) -> dict[str, Any]:
    """One run of the controller; `decision_ms` is all that would not be done without it."""
    adapter, here, image = bench.adapter, controller.here, sample.open()
    asked = adapter.ask(sample.question)
    start = time.perf_counter()
    budget = here.budget_features(budget_ms)
    language = adapter.language(asked.question, asked.ids)
    tier = controller.tier(language, budget, budget_ms, len(asked.ids))
    first_ms = 1000 * (time.perf_counter() - start)
    seen = adapter.see(image, here.space.tiers[tier])
    start = time.perf_counter()
    vision = features.pool_one(seen.tokens)
    column = controller.rest(vision, language, budget, budget_ms, tier, len(asked.ids))
    decision_ms = first_ms + 1000 * (time.perf_counter() - start)
    knobs = here.space.configurations[column]
    done = adapter.answer(
        seen, asked, top_k=knobs.top_k, kept=bench.kept[knobs.blocks],
        max_new_tokens=bench.task.max_new_tokens,
    )  # fmt: skip
    return _told(bench, sample, knobs, done, decision_ms)


def _plain(bench: Bench, here: Ground, sample: Sample, column: int) -> dict[str, Any]:
    """One run of a configuration that was known before."""
    return _told(bench, sample, here.space.configurations[column], profile.run_one(bench, sample, column), 0.0)


def _told(bench: Bench, sample: Sample, knobs: Knobs, done: Run, decision_ms: float) -> dict[str, Any]:
    return {
        "tier": knobs.tier, "top_k": knobs.top_k, "blocks": knobs.blocks, "answer": done.answer,
        "accuracy": accuracy(sample, done.answer, bench.task.vqa), "decision_ms": decision_ms,
        "parts": done.parts, "total_ms": done.total_ms + decision_ms,
    }  # fmt: skip
