"""How long the decision process takes to solve: every shipped parameter set, and both cost axes.

    python -m bench.argo_mdp                a few seconds

Milliseconds of wall time, median (least to most) of so many rounds; solutions are cached within a round, not between.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

from omegaconf import DictConfig, OmegaConf

from argo import mdp
from argo.mdp import Mdp
from argo.schema import MdpConfig
from suite.config import CONF
from suite.hardware.machine import cpu_model


def timed(work: Callable[[], object], rounds: int) -> str:
    """Median, least and most milliseconds."""
    taken_ms = []
    for number in range(rounds + 1):
        mdp.solve.cache_clear()
        start = time.perf_counter()
        work()
        if number:  # the round before the first is for warming up
            taken_ms.append(1e3 * (time.perf_counter() - start))
    return f"{statistics.median(taken_ms):6.2f} ms ({min(taken_ms):.2f} to {max(taken_ms):.2f})"


def shipped() -> dict[str, MdpConfig]:
    """The parameter sets of the `mdp` group."""
    sets = {}
    for path in sorted((CONF / "mdp").glob("*.yaml")):
        values = OmegaConf.load(path)
        assert isinstance(values, DictConfig)
        sets[path.stem] = MdpConfig(**{str(key): value for key, value in values.items() if key != "defaults"})
    return sets


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="rounds (default 50)")
    args = parser.parse_args()

    print(f"{cpu_model()}, Python {platform.python_version()}, numpy {version('numpy')}, {args.rounds} rounds")
    for name, config in shipped().items():
        process, points = Mdp.at(config, 2.0), mdp.cost_points(config, "linear", 10)
        kinks, policies = mdp.breakpoints(config), mdp.same_policy(config, points)
        print(f"{name}, {config.lattice()[0]} units of U")
        print(f"  {timed(partial(mdp.solve, process), args.rounds)}  one solution")
        solved = timed(partial(mdp.same_policy, config, points), args.rounds)
        print(f"  {solved}  the {len(points)} points of the linear axis: {len(policies)} different policies")
        print(f"  {timed(partial(mdp.breakpoints, config), args.rounds)}  all {len(kinks)} breakpoints")


if __name__ == "__main__":
    main()
