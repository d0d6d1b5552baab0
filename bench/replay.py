"""Replay against live decoding, on the embedded audio pair: same samples, same settings, same process.

    python -m bench.replay                  about 2 minutes on 2 idle cores
    python -m bench.replay --samples 10     a first impression

Each setting is decoded live and from the trace in turn, sample by sample, on one thread. A ratio is (live seconds) /
(replay seconds) of one setting, in seconds of the processor, which other work on the machine does not stretch; both
are the whole decoding of a sample, without scores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench import here
from edgecloud import task as live
from edgecloud.data import read_data
from edgecloud.pair import load_pair
from edgecloud.replayed import Replay
from edgecloud.schema import SpecDecConfig, VoicesConfig
from suite.config import RunConfig
from suite.context import RunContext
from suite.hardware.profile import HardwareConfig
from suite.models.spec import ModelConfig
from suite.records import SampleLog
from suite.tracking.tracker import GuardedTracker

SETTINGS: list[dict[str, Any]] = [
    {"gate": "always", "verification": "lossless", "k": 5},
    {"entropy_threshold": 0.5, "k": 3},
    {"entropy_threshold": 1.5, "k": 3},
    {"entropy_threshold": 1.5, "k": 5, "verification": "bild"},
    {"gate": "uhlm", "k": 4},
    {"gate": "oracle", "oracle_threshold": 6.0, "k": 3},
    {"gate": "random", "k": 3, "draft_schedule": "heuristic"},
]


def main() -> None:
    """Record, decode both ways, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40, help="clips (default 40)")
    parser.add_argument("--repeats", type=int, default=5, help="times each setting is decoded (default 5)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    float32 = HardwareConfig(dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        base = SpecDecConfig(sweep="replay", trace=f"{folder}/trace.jsonl", cloud_hardware=float32)
        models = {name: ModelConfig(source="zoo", id=f"omni_tiny/{name}") for name in ("edge", "cloud")}
        config = RunConfig(task=base, models=models, dataset=VoicesConfig(max_samples=args.samples), hardware=float32)
        rows = SampleLog(Path(folder) / "samples.jsonl")
        context = RunContext(config=config, folder=Path(folder), samples=rows, tracker=GuardedTracker(lambda: None))
        samples = read_data(config.dataset).samples
        pair = load_pair(context, base)
        prompts = [live.ask(sample, pair)[0] for sample in samples]
        print(f"{here()}, float32, {len(samples)} clips")
        ratios: list[float] = []
        for setting in SETTINGS:
            task = replace(base, **setting)
            player = Replay(replace(config, task=task), context)
            decode = live.decoder(task, pair, config.seed)
            recorded = [player.decode(sample, player.ask(sample)[0]).tokens for sample in samples]
            tokens, pairs, same = 0, [], True
            for _ in range(args.repeats):
                live_s = replay_s = 0.0
                for sample, prompt, before in zip(samples, prompts, recorded, strict=True):
                    start = time.process_time()
                    wanted = decode(sample, prompt)
                    middle = time.process_time()
                    played = player.decode(sample, player.ask(sample)[0])
                    replay_s += time.process_time() - middle
                    live_s += middle - start
                    same = same and wanted.tokens == played.tokens == before and wanted.counters == played.counters
                    tokens += len(played.tokens)
                pairs.append((live_s, replay_s))
            ratio = [a / b for a, b in pairs]
            ratios += ratio
            each_us = 1e6 * sum(b for _, b in pairs) / tokens
            print(
                f"  {statistics.median(ratio):6.0f}x ({min(ratio):.0f} to {max(ratio):.0f}), {each_us:5.1f} us a token"
                f" replayed, {'equal' if same else 'DIFFERENT'}: {' '.join(f'{k}={v}' for k, v in setting.items())}"
            )
        print(f"replay is {statistics.median(ratios):.0f}x faster than live (median; worst {min(ratios):.0f}x)")


if __name__ == "__main__":
    main()
