"""What one decision of the controller costs: numpy arrays against the exported graph, and all of it in a run.

    python -m bench.controller_decision               half a minute on 2 idle cores

First the policy alone: microseconds of wall time a decision, one thread, the two taking turns on the same random
states; their decisions are compared. The network has the size of the embedded model's second stage unless told
otherwise. Then everything that a controller adds to a run of the embedded model, piece by piece, each of them cold:
the model runs in between. Tokenising is told apart: it is done once, and the model would need it without a controller.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.controller_profile import asked, opened
from controller import features
from controller.export import Arrays, Decider, Session, export
from controller.policy import Policy, settings
from controller.steps.ground import BUDGET_SIZE
from controller.timing import WARM_UP
from suite.hardware.machine import cpu_model
from suite.rng import generator

KNOBS = {"top_k": (4, 6, 8, 10, 12), "blocks": (8, 10, 12, 14, 16)}
BUDGET_MS, LOW_MS, HIGH_MS = 30.0, 10.0, 60.0
BAR = 0.01
"""Share of a run's time that the controller's own may take."""
PIECES = ("budget", "question", "stage 1", "image", "stage 2")
"""What is counted to the controller."""


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=10_000, help="decisions of the policy alone (default 10000)")
    parser.add_argument("--features", type=int, default=288, help="length of a state's vector (default 288)")
    parser.add_argument("--width", type=int, default=128, help="units of a hidden layer (default 128)")
    parser.add_argument("--runs", type=int, default=200, help="runs of the model (default 200)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    policy = Policy(KNOBS, features=args.features, width=args.width, seed=0)
    torch.nn.init.normal_(policy.heads.weight, generator=torch.Generator().manual_seed(0))
    draws = generator(0, "decisions")
    states = draws.normal(size=(args.states, args.features)).astype(np.float32)
    latency_ms = np.sort(draws.uniform(50, 150, size=(args.states, policy.actions)), axis=1).astype(np.float32)
    budgets_ms = draws.uniform(40, 160, size=args.states).astype(np.float32).tolist()

    deciders: dict[str, Decider] = {
        f"numpy {np.__version__}": Arrays(policy),
        f"onnxruntime {version('onnxruntime')}": session(policy),
    }
    for decider in deciders.values():
        decider.decide(states[0], latency_ms[0], budgets_ms[0])
    taken_us: dict[str, list[float]] = {name: [] for name in deciders}
    equal = 0
    for state, limits, budget in zip(states, latency_ms, budgets_ms, strict=True):
        decided = set()
        for name, decider in deciders.items():
            start = time.perf_counter()
            decided.add(decider.decide(state, limits, budget))
            taken_us[name].append(1e6 * (time.perf_counter() - start))
        equal += len(decided) == 1
    print(f"{cpu_model()}, Python {platform.python_version()}, {args.features} features, width {args.width}")
    print(f"the same decision in {equal} of {args.states} states")
    tell(taken_us)

    taken_us = pieces(args.runs)
    print(f"\nin {args.runs} runs of molmoe_tiny, half of them the cheapest and half the dearest configuration")
    tell(taken_us)
    own = np.sum([taken_us[name] for name in PIECES], axis=0)
    whole = np.array(taken_us["run without a controller"])
    share = 100 * own.sum() / (own + whole).sum()
    print(f"  the controller's own: median {np.median(own):.0f} us; {share:.2f} % of all")
    print(f"bar: {100 * BAR:g} %")


def session(policy: Policy) -> Session:
    """The policy, exported."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.onnx"
        export(policy, path)
        return Session(path)


def tell(taken_us: Mapping[str, Sequence[float]]) -> None:
    """A line each."""
    for name, values in taken_us.items():
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        print(f"  {name:24} median {p50:8.1f} us   p95 {p95:8.1f}   p99 {p99:8.1f}")


class Clock:
    """Microseconds of wall time by name."""

    def __init__(self) -> None:
        self.taken_us: dict[str, list[float]] = {}

    def __call__(self, name: str, work: Callable[..., Any], *args: object) -> Any:
        """What the work gives."""
        start = time.perf_counter()
        done = work(*args)
        self.note(name, time.perf_counter() - start)
        return done

    def note(self, name: str, seconds: float) -> None:
        """One more time."""
        self.taken_us.setdefault(name, []).append(1e6 * seconds)


def pieces(count: int) -> dict[str, list[float]]:
    """Microseconds of each piece in `count` runs, and of the runs; the policies are random and not obeyed."""
    adapter, _ = opened()
    space, width = adapter.space, adapter.width
    first = Arrays(Policy(settings(space, "tier"), features=width + BUDGET_SIZE, width=128, seed=0))
    second = Policy(settings(space, "top_k", "blocks"), features=2 * width + BUDGET_SIZE, width=128, seed=0)
    arrays, graph = Arrays(second), session(second)
    p95_ms = np.arange(len(space), dtype=float)
    per_tier = len(space) // len(space.tiers)
    clock = Clock()
    for number, (image, question) in enumerate(asked(count + WARM_UP)[: count + WARM_UP]):
        if number == WARM_UP:
            clock = Clock()
        knobs = (space.cheapest, space.dearest)[number % 2]
        words = clock("tokenising, of the run", adapter.ask, question)
        budget = clock("budget", features.budget_features, BUDGET_MS, LOW_MS, HIGH_MS, BUDGET_SIZE)
        mean = clock("question", adapter.language, words.question, words.ids)
        clock("stage 1", decide, first, (mean, budget), p95_ms[::per_tier])
        seen = adapter.see(image, knobs.tier)
        look = clock("image", features.pool_one, seen.tokens)
        clock("stage 2", decide, arrays, (look, mean, budget), p95_ms[:per_tier])
        run = adapter.answer(seen, words, top_k=knobs.top_k, kept=range(knobs.blocks), max_new_tokens=3)
        clock.note("run without a controller", run.total_ms / 1000)
        clock("stage 2 as ONNX, instead", decide, graph, (look, mean, budget), p95_ms[:per_tier])
    return clock.taken_us


def decide(decider: Decider, state: Sequence[np.ndarray], p95_ms: np.ndarray) -> int:
    """As a stage of the controller does (steps/adaptive.py)."""
    return decider.decide(np.concatenate(state), p95_ms, BUDGET_MS)


if __name__ == "__main__":
    main()
