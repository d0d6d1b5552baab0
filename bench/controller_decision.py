"""What one decision of the controller costs: the exported graph against the policy in torch, call by call.

    python -m bench.controller_decision               a few seconds

Microseconds of wall time a decision, one thread, the two taking turns on the same random states; first their
decisions are compared. The network has the size of the embedded model's second stage unless told otherwise.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from controller.export import Decider, Session, export
from controller.policy import Policy
from suite.hardware.machine import cpu_model
from suite.rng import generator

KNOBS = {"top_k": (4, 6, 8, 10, 12), "blocks": (8, 10, 12, 14, 16)}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=10_000, help="decisions (default 10000)")
    parser.add_argument("--features", type=int, default=288, help="length of a state's vector (default 288)")
    parser.add_argument("--width", type=int, default=128, help="units of a hidden layer (default 128)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    policy = Policy(KNOBS, features=args.features, width=args.width, seed=0)
    torch.nn.init.normal_(policy.heads.weight, generator=torch.Generator().manual_seed(0))
    draws = generator(0, "decisions")
    states = draws.normal(size=(args.states, args.features)).astype(np.float32)
    latency_ms = np.sort(draws.uniform(50, 150, size=(args.states, policy.actions)), axis=1).astype(np.float32)
    budgets_ms = draws.uniform(40, 160, size=args.states).astype(np.float32).tolist()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.onnx"
        export(policy, path)
        session = Session(path)
    deciders: dict[str, Decider] = {
        f"onnxruntime {version('onnxruntime')}": session,
        f"torch {torch.__version__}": policy,
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
    for name, values in taken_us.items():
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        print(f"  {name:20} median {p50:6.1f} us   p95 {p95:6.1f}   p99 {p99:6.1f}")
    exported, torch_us = (float(np.median(values)) for values in taken_us.values())
    print(f"  {torch_us / exported:.1f} times faster exported")


if __name__ == "__main__":
    main()
