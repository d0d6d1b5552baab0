"""Speculative decoding against transformers' own, on the embedded text pair: same models, prompts and process, greedy.

    python -m bench.specdec                 about 6 minutes on 2 idle cores
    python -m bench.specdec --prompts 6     a first impression

Every prompt is decoded by every contender in turn, so a ratio compares neighbours in time. Settings are tuned on
prompts that are not measured, for the peers as for us. A ratio is (peer's ms per token) / (ours), median over prompts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf

from edgecloud.data import Sample, encode, read_prompts
from edgecloud.decode import Ending, Output, Rules, generate, speculate
from edgecloud.gates import GATES
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling
from edgecloud.schema import PromptsConfig
from edgecloud.verify import VERIFIERS, Verification, in_process
from suite.config import CONF
from suite.hardware.machine import cpu_model
from suite.hardware.profile import HardwareConfig
from suite.models.loading import load
from suite.models.plan import Placement
from suite.models.spec import ModelConfig
from suite.records.provenance import packages
from suite.stats import corpus_ci

Decode = Callable[[list[int]], list[int]]
TUNING = 6  # prompts used to choose settings, never measured


@dataclass(slots=True)
class Run:
    """One prompt by one contender."""

    tokens: list[int]
    ms_per_token: float


def timed(decode: Decode, prompt: list[int]) -> Run:
    """Decode once and clock it."""
    start = time.perf_counter()
    tokens = decode(prompt)
    return Run(tokens, 1e3 * (time.perf_counter() - start) / len(tokens))


class Bench:
    """The pair, and every way to decode with it."""

    def __init__(self, dtype: str, max_new_tokens: int) -> None:
        """Load the embedded pair once, for us and for transformers alike."""
        models = OmegaConf.to_container(OmegaConf.load(CONF / "models" / "smollm2.yaml"))
        assert isinstance(models, dict)
        hardware = HardwareConfig(dtype=dtype)
        edge, cloud = (
            load(ModelConfig(**models[name]), placement=Placement(), hardware=hardware) for name in ("edge", "cloud")
        )
        self.tokenizer, self.dtype, self.max_new_tokens = cloud.tokenizer, cloud.dtype, max_new_tokens
        self.hf_edge, self.hf_cloud = edge.model, cloud.model
        self.edge, self.cloud = CachedLM(edge.model), CachedLM(cloud.model)
        self.ending = Ending(max_new_tokens=max_new_tokens, eos=frozenset([self.tokenizer.eos_token_id]))
        self.last: Output | None = None

    def plain(self, prompt: list[int]) -> list[int]:
        """transformers: the cloud alone."""
        return self._generate(prompt)

    def assisted(self, **settings: Any) -> Decode:
        """transformers: assisted generation; `settings` go to the assistant's generation config, its own place."""

        def decode(prompt: list[int]) -> list[int]:
            config, before = self.hf_edge.generation_config, {}
            for name, value in settings.items():
                before[name] = getattr(config, name)
                setattr(config, name, value)
            try:
                return self._generate(prompt, assistant_model=self.hf_edge)
            finally:
                for name, value in before.items():
                    setattr(config, name, value)

        return decode

    def ours_cloud(self, prompt: list[int]) -> list[int]:
        """This suite: the cloud alone."""
        self.last = generate(self.cloud, Prompt(tokens=prompt), self.ending, Sampling(), Luck(0, ""), "cloud")
        return self.last.tokens

    def ours(self, k: int) -> Decode:
        """This suite: lossless speculative decoding."""
        rules = Rules(k=k, gate=GATES["always"], threshold=0.0)
        how = Verification(sampling=Sampling())
        parts = in_process(self.edge, self.cloud, VERIFIERS["lossless"], how)

        def decode(prompt: list[int]) -> list[int]:
            self.last = speculate(*parts, Prompt(tokens=prompt), rules, self.ending, Luck(0, ""))
            return self.last.tokens

        return decode

    def _generate(self, prompt: list[int], **options: Any) -> list[int]:
        ids = torch.tensor([prompt])
        out = self.hf_cloud.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.eos_token_id,
            **options,
        )
        return list(out[0, len(prompt) :].tolist())


def best(contenders: dict[str, Decode], prompts: Sequence[list[int]]) -> str:
    """Name of the fastest by median ms per token."""
    return min(contenders, key=lambda name: statistics.median(timed(contenders[name], p).ms_per_token for p in prompts))


def ratio(peer: Sequence[Run], ours: Sequence[Run]) -> str:
    """Median of the paired ratios with its 95 % interval and quartiles."""
    ratios = [a.ms_per_token / b.ms_per_token for a, b in zip(peer, ours, strict=True)]
    ci = corpus_ci(lambda index: float(statistics.median(ratios[i] for i in index)), len(ratios), seed=0).ci95
    low, _, high = statistics.quantiles(ratios, n=4)
    return (
        f"{statistics.median(ratios):.2f}x [{ci[0]:.2f}, {ci[1]:.2f}], quartiles {low:.2f} to {high:.2f}" if ci else "-"
    )


def main() -> None:
    """Tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=36, help="prompts measured (default 36)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens a prompt (default 64)")
    parser.add_argument("--dtype", default="auto", help="precision of both models (default: bfloat16 where native)")
    args = parser.parse_args()

    bench = Bench(args.dtype, args.tokens)
    samples: list[Sample] = read_prompts(PromptsConfig().file(), args.prompts + TUNING)
    prompts = [encode(sample, bench.tokenizer) for sample in samples]
    tuning, measured = prompts[:TUNING], prompts[TUNING:]
    ours = {f"k={k}": bench.ours(k) for k in (1, 2, 3, 4, 5)}
    constant = {"num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.0}
    peers = {f"{n} tokens": bench.assisted(num_assistant_tokens=n, **constant) for n in (1, 2, 3, 4, 5)}
    with torch.inference_mode():
        bench.plain(prompts[0])
        k, setting = best(ours, tuning), best(peers, tuning)
        contenders = {
            "generate": bench.plain,
            "generate(assistant_model), defaults": bench.assisted(),
            f"generate(assistant_model), best: {setting}": peers[setting],
            "this suite, cloud alone": bench.ours_cloud,
            f"this suite, lossless, {k}": ours[k],
        }
        runs: dict[str, list[Run]] = {name: [] for name in contenders}
        outputs: list[Output] = []
        for prompt in measured:
            for name, decode in contenders.items():
                runs[name].append(timed(decode, prompt))
            assert bench.last is not None
            outputs.append(bench.last)

    *rest, mine = runs
    print(f"{cpu_model()}, {torch.get_num_threads()} threads, {bench.dtype}")
    print(f"{len(measured)} prompts, at most {args.tokens} new tokens each")
    print(", ".join(f"{name} {version}" for name, version in packages().items() if name in ("torch", "transformers")))
    for name in runs:
        print(f"  {statistics.median(run.ms_per_token for run in runs[name]):7.2f} ms/token  {name}")
    print("ratios, paired by prompt (median, its 95 % interval, quartiles):")
    for name in rest:
        print(f"  {ratio(runs[name], runs[mine])}  {name}")
    same = sum(a.tokens == b.tokens for a, b in zip(runs["generate"], runs[mine], strict=True))
    total, models = sum(o.times_s[-1] for o in outputs), sum(o.edge_s + o.cloud_s for o in outputs)
    accepted, tested = (sum(getattr(o.counters, name) for o in outputs) for name in ("accepted", "tested"))
    drafted, rounds = (sum(getattr(o.counters, name) for o in outputs) for name in ("drafted", "rounds"))
    print(
        f"same text as generate: {same} of {len(measured)} (a block and a single step round differently below float32)"
    )
    print(f"accepted: {accepted / tested:.3f} of tested, {accepted / drafted:.3f} of drafted")
    print(f"accepted a round: {accepted / rounds:.2f}")
    print(f"the loop's own time: {100 * (total - models) / models:.1f} % of the models'")


if __name__ == "__main__":
    main()
