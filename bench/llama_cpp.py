"""task.engine=llama_cpp against llama.cpp's own decoding, on the embedded text pair: same file, prompts and process.

    python -m bench.llama_cpp               about 3 minutes on 2 idle cores; needs llama-cpp-python

Greedy. The peer is the loop of llama.cpp's own simplest example, token by token, with its sampler; nothing of it is
Python but the loop. (`llama_cpp.Llama` is slower, and cannot be told to leave AMX alone, see edgecloud/llama_cpp.py.)
"""

from __future__ import annotations

import argparse
import statistics

import torch

from bench.specdec import TUNING, Ours, Run, best, load_pair, ratio, tell, timed
from edgecloud.data import encode, read_prompts
from edgecloud.decode import Ending, Output
from edgecloud.llama_cpp import bindings, llama_cpp_engine
from edgecloud.lm import CachedLM
from edgecloud.schema import PromptsConfig
from edgecloud.to_gguf import gguf_of
from suite.hardware.machine import cpu_model


def main() -> None:
    """Tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=36, help="prompts measured (default 36)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens a prompt (default 64)")
    args = parser.parse_args()

    edge, cloud = load_pair("auto")
    tokenizer, threads = cloud.tokenizer, torch.get_num_threads()
    ending = Ending(max_new_tokens=args.tokens, eos=frozenset([tokenizer.eos_token_id]))
    ours = Ours(*(CachedLM(one.model, engine=llama_cpp_engine(one)) for one in (edge, cloud)), ending)
    api, peer = bindings(), llama_cpp_engine(cloud)
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

    print(f"{cpu_model()}, {threads} threads, {gguf_of(cloud).name}, {gguf_of(edge).name}")
    print(f"{len(measured)} prompts, at most {args.tokens} new tokens each")
    for name in runs:
        print(f"  {statistics.median(run.ms_per_token for run in runs[name]):7.2f} ms/token  {name}")
    for mine, told in outputs.items():
        print(f"{mine}, against:")
        for name in others:
            print(f"  {ratio(runs[name], runs[mine])}  {name}")
        tell(told)
        same = sum(a.tokens == b.tokens for a, b in zip(runs["llama.cpp"], runs[mine], strict=True))
        print(f"  same text as llama.cpp: {same} of {len(measured)}")


if __name__ == "__main__":
    main()
