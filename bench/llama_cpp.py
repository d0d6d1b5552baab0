"""task.engine=llama_cpp against llama.cpp's own decoding, on the embedded text pair: same file, prompts and process.

    python -m bench.llama_cpp               about 3 minutes on 2 idle cores; needs llama-cpp-python
    python -m bench.llama_cpp --kind Q4_0   the cloud written anew, in numbers that llama.cpp's kernels read faster

Greedy. The peer is the loop of llama.cpp's own simplest example, token by token, with its sampler; nothing of it is
Python but the loop. (`llama_cpp.Llama` is slower, and cannot be told to leave AMX alone, see edgecloud/llama_cpp.py.)
What it takes to read several tokens at once bounds what any draft can gain, so it is printed too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

from bench.specdec import TUNING, Ours, Run, best, facts, load_pair, ratio, timed
from edgecloud.data import encode, read_prompts
from edgecloud.decode import Ending, Output
from edgecloud.llama_cpp import LlamaCpp, bindings, llama_cpp_engine
from edgecloud.lm import CachedLM
from edgecloud.schema import PromptsConfig
from edgecloud.to_gguf import write
from suite.hardware.machine import cpu_model
from suite.models.loading import Loaded

DRAFTED = (1, 2, 3, 4, 7)  # tokens of a round whose reading is timed
ROUNDS = 25


def cloud_engine(cloud: Loaded, kind: str | None) -> LlamaCpp:
    """The cloud from its own file, or from one written with `kind` of numbers."""
    if kind is None:
        return llama_cpp_engine(cloud)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{kind}.gguf"
        write(cloud.model, file, kind)
        return LlamaCpp(file, threads=torch.get_num_threads())  # mapped by now, so its name may go


def reading(engine: LlamaCpp, prompt: list[int]) -> dict[int, float]:
    """Median ms to read 1 token, and 1 + each of `DRAFTED`, after `prompt`; taken in turn."""
    times_ms: dict[int, list[float]] = {1 + drafted: [] for drafted in (0, *DRAFTED)}
    for _ in range(ROUNDS):
        for tokens, found in times_ms.items():
            engine.rollback(0)
            engine.feed(prompt, keep=1)
            start = time.perf_counter()
            engine.feed(prompt[:tokens], keep=tokens)
            found.append(1e3 * (time.perf_counter() - start))
    return {tokens: statistics.median(found) for tokens, found in times_ms.items()}


def main() -> None:
    """Tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=36, help="prompts measured (default 36)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens a prompt (default 64)")
    parser.add_argument(
        "--kind", choices=("Q4_0", "Q8_0", "BF16"), help="the cloud's numbers (default: its own file's)"
    )
    args = parser.parse_args()

    edge, cloud = load_pair("auto")
    tokenizer, threads = cloud.tokenizer, torch.get_num_threads()
    ending = Ending(max_new_tokens=args.tokens, eos=frozenset([tokenizer.eos_token_id]))
    api, draft = bindings(), llama_cpp_engine(edge)
    peer, verifier = cloud_engine(cloud, args.kind), cloud_engine(cloud, args.kind)
    ours = Ours(CachedLM(edge.model, engine=draft), CachedLM(cloud.model, engine=verifier), ending)
    sampler = api.llama_sampler_init_greedy()

    def plain(prompt: list[int]) -> list[int]:
        peer.rollback(0)
        peer.feed(prompt, keep=1)
        tokens = [api.llama_sampler_sample(sampler, peer.context, -1)]
        while len(tokens) < args.tokens and tokens[-1] not in ending.eos:
            last = (api.llama_token * 1)(tokens[-1])
            api.llama_decode(peer.context, api.llama_batch_get_one(last, 1))
            tokens.append(api.llama_sampler_sample(sampler, peer.context, -1))
        return tokens

    samples = read_prompts(PromptsConfig().file(), args.prompts + TUNING)
    prompts = [encode(sample, tokenizer) for sample in samples]
    tuning, measured = prompts[:TUNING], prompts[TUNING:]
    plain(prompts[0])
    contenders = {"llama.cpp": plain, "this suite, cloud alone": ours.alone}
    others = [*contenders]
    for drafter in ("edge", "mixed"):
        tried = {f"k={k}": ours.lossless(k, mixed=drafter == "mixed") for k in (1, 2, 3, 4, 5)}
        k = best(tried, tuning)
        contenders[f"this suite, {drafter} drafts, lossless, {k}"] = tried[k]
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    outputs: dict[str, list[Output]] = {name: [] for name in contenders if name not in others}
    for prompt in measured:
        for name, decode in contenders.items():
            runs[name].append(timed(decode, prompt))
            if name in outputs and ours.last is not None:
                outputs[name].append(ours.last)

    print(f"{cpu_model()}, {threads} threads, {args.kind or peer.file.name}, {draft.file.name}")
    print(f"llama-cpp-python {version('llama-cpp-python')}, torch {torch.__version__}")
    print(f"{len(measured)} prompts, at most {args.tokens} new tokens each")
    for name in runs:
        print(f"  {statistics.median(run.ms_per_token for run in runs[name]):7.2f} ms/token  {name}")
    costs_ms = reading(peer, prompts[0][:32])
    print(f"tokens read at once, ms: {', '.join(f'{tokens} in {ms:.1f}' for tokens, ms in costs_ms.items())}")
    most = (f"{tokens * costs_ms[1] / ms:.2f}x with {tokens - 1}" for tokens, ms in costs_ms.items() if tokens > 1)
    print(f"so drafts that are free and always right gain at most {', '.join(most)} tokens drafted")
    for mine, told in outputs.items():
        print(f"{mine}, against:")
        for name in others:
            print(f"  {ratio(runs[name], runs[mine])}  {name}")
        tested, drafted, a_round, loop = facts(told)
        print(f"  accepted: {tested} of tested, {drafted} of drafted, {a_round} a round")
        print(f"  the loop's own time: {loop} of the models'")
        same = sum(a.tokens == b.tokens for a, b in zip(runs["llama.cpp"], runs[mine], strict=True))
        print(f"  same text as llama.cpp: {same} of {len(measured)}")


if __name__ == "__main__":
    main()
