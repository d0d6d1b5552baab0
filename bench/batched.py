"""Throughput of batched evaluation on the embedded text pair: the same prompts, one, two, four and eight at a time.

    python -m bench.batched                 about 8 minutes on 2 idle cores

Every batch size decodes all prompts in turn, in rounds, so that a ratio compares neighbours in time. Lossless, greedy.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench import here
from bench.specdec import Bench
from edgecloud.batch import BatchedLM, Batcher, in_lanes
from edgecloud.data import encode, read_prompts
from edgecloud.decode import Output, Rules, generate, speculate
from edgecloud.gates import GATES
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling
from edgecloud.schema import PromptsConfig
from edgecloud.verify import VERIFIERS, Verification, in_process

Decode = Callable[[Prompt], Output]
SIZES = (1, 2, 4, 8)


def decoders(bench: Bench, k: int, size: int) -> dict[str, Decode]:
    """The cloud alone and lossless speculation, for `size` threads at a time."""
    batcher, greedy = Batcher(), Sampling()
    edges, clouds = (BatchedLM(model, slots=size, batcher=batcher) for model in (bench.hf_edge, bench.hf_cloud))
    rules = Rules(k=k, gate=GATES["always"], threshold=0.0)

    def alone(cloud: CachedLM) -> Decode:
        return lambda prompt: generate(cloud, prompt, bench.ours.ending, greedy, Luck(0, ""), "cloud")

    def lossless(edge: CachedLM, cloud: CachedLM) -> Decode:
        parts = in_process(edge, cloud, VERIFIERS["lossless"], Verification(sampling=greedy))
        return lambda prompt: speculate(*parts, prompt, rules, bench.ours.ending, Luck(0, ""))

    lanes = [(edges.sequence(), clouds.sequence()) for _ in range(size)]
    if size == 1:  # what a job that does not ask for batches runs on
        lanes = [(bench.ours.edge, bench.ours.cloud)]
    return {
        "cloud alone": in_lanes([alone(cloud) for _, cloud in lanes], batcher),
        f"lossless, k={k}": in_lanes([lossless(*lane) for lane in lanes], batcher),
    }


def tokens_s(decode: Decode, prompts: Sequence[Prompt], size: int) -> float:
    """Emitted tokens of all prompts a second."""
    start = time.perf_counter()
    with ThreadPoolExecutor(size) as pool:
        tokens = sum(len(out.tokens) for out in pool.map(decode, prompts))
    return tokens / (time.perf_counter() - start)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16, help="prompts a round (default 16)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds (default 4)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens a prompt (default 64)")
    parser.add_argument("--k", type=int, default=3, help="draft length (default 3)")
    parser.add_argument("--dtype", default="auto", help="precision of both models (default: bfloat16 where native)")
    args = parser.parse_args()

    bench = Bench(args.dtype, args.tokens)
    samples = read_prompts(PromptsConfig().file(), args.prompts)
    prompts = [Prompt(tokens=encode(sample, bench.tokenizer)) for sample in samples]
    contenders = {size: decoders(bench, args.k, size) for size in SIZES}
    rates: dict[tuple[str, int], list[float]] = {}
    for number in range(args.rounds + 1):
        for size, by_name in contenders.items():
            for name, decode in by_name.items():
                rate = tokens_s(decode, prompts if number else prompts[:2], size)
                if number:  # the round before the first is for warming up
                    rates.setdefault((name, size), []).append(rate)

    print(f"{here()}, {bench.dtype}")
    print(f"{len(prompts)} prompts, at most {args.tokens} new tokens each, {args.rounds} rounds")
    for (name, size), found in sorted(rates.items()):
        ratios = [a / b for a, b in zip(found, rates[name, 1], strict=True)]
        told = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {statistics.median(found):7.1f} tokens/s  {told}  {name}, {size} at a time")


if __name__ == "__main__":
    main()
