"""Speculative decoding against transformers' own, on the embedded text pair: same models, prompts and process, greedy.

    python -m bench.specdec                 5 to 13 minutes on 2 idle cores
    python -m bench.specdec --prompts 6     a first impression

Every prompt is decoded by every contender in turn, so a ratio compares neighbours in time. Settings are tuned on
prompts that are not measured, for the peers as for us. A ratio is (peer's ms per token) / (ours), median over prompts.
Ours is measured with the edge model as drafter and with `task.drafter=mixed`, each on the very weights of the peers;
with the draft packed in 4-bit blocks (`models.edge.quantization=4bit`), which changes how often it is right and not
what is written; and with both models packed, which for the cloud are the blocks of the GGUF file that its weights come
from.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Column, Table

from bench import here
from edgecloud.data import Sample, encode, read_prompts
from edgecloud.decode import Ending, Output, Rules, generate, speculate
from edgecloud.draft import MixedDrafter
from edgecloud.gates import GATES
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling
from edgecloud.schema import PromptsConfig
from edgecloud.verify import VERIFIERS, Verification, in_process
from suite.config import CONF
from suite.hardware.profile import HardwareConfig
from suite.models.loading import Loaded, load
from suite.models.plan import Placement
from suite.models.spec import ModelConfig
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


def load_pair(dtype: str, quantization: str = "none") -> tuple[Loaded, Loaded]:
    """The embedded text pair, edge and cloud."""
    models = OmegaConf.to_container(OmegaConf.load(CONF / "models" / "smollm2.yaml"))
    assert isinstance(models, dict)
    specs = [ModelConfig(**models[name], quantization=quantization) for name in ("edge", "cloud")]
    edge, cloud = (load(spec, placement=Placement(), hardware=HardwareConfig(dtype=dtype)) for spec in specs)
    return edge, cloud


class Ours:
    """The pair in this suite.

    Attributes:
        last: what was decoded last.
    """

    def __init__(self, edge: CachedLM, cloud: CachedLM, ending: Ending) -> None:
        self.edge, self.cloud, self.ending = edge, cloud, ending
        self.last: Output | None = None

    def alone(self, prompt: list[int]) -> list[int]:
        """The cloud alone."""
        self.last = generate(self.cloud, Prompt(tokens=prompt), self.ending, Sampling(), Luck(0, ""), "cloud")
        return self.last.tokens

    def lossless(self, k: int, *, mixed: bool = False) -> Decode:
        """Lossless speculative decoding; with `mixed` prompt lookup drafts where it can."""
        rules = Rules(k=k, gate=GATES["always"], threshold=0.0)
        edge, cloud = in_process(self.edge, self.cloud, VERIFIERS["lossless"], Verification(sampling=Sampling()))
        drafter = MixedDrafter(edge) if mixed else edge

        def decode(prompt: list[int]) -> list[int]:
            self.last = speculate(drafter, cloud, Prompt(tokens=prompt), rules, self.ending, Luck(0, ""))
            return self.last.tokens

        return decode


class Bench:
    """The pair, and every way to decode with it."""

    def __init__(self, dtype: str, max_new_tokens: int) -> None:
        """Load the embedded pair once, for us and for transformers alike, and once packed."""
        (edge, cloud), packed = load_pair(dtype), load_pair(dtype, "4bit")
        self.tokenizer, self.dtype, self.max_new_tokens = cloud.tokenizer, cloud.dtype, max_new_tokens
        self.hf_edge, self.hf_cloud = edge.model, cloud.model
        ending = Ending(max_new_tokens=max_new_tokens, eos=frozenset([self.tokenizer.eos_token_id]))
        self.ours = Ours(CachedLM(edge.model), CachedLM(cloud.model), ending)
        small_edge, small_cloud = (CachedLM(one.model, bits=one.pack_bits) for one in packed)
        self.small_edge = Ours(small_edge, self.ours.cloud, ending)
        self.packed = Ours(small_edge, small_cloud, ending)

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

    def lookup(self, most: int) -> Decode:
        """transformers: prompt lookup, no second model."""
        return lambda prompt: self._generate(prompt, prompt_lookup_num_tokens=most)

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


def ratio(peer: Sequence[Run], ours: Sequence[Run], separator: str = " ") -> str:
    """Median of the paired ratios with its 95 % interval."""
    ratios = [a.ms_per_token / b.ms_per_token for a, b in zip(peer, ours, strict=True)]
    ci = corpus_ci(lambda index: float(statistics.median(ratios[i] for i in index)), len(ratios), seed=0).ci95
    return f"{statistics.median(ratios):.2f}x" + (f"{separator}[{ci[0]:.2f}, {ci[1]:.2f}]" if ci else "")


def ms_per_token(runs: Sequence[Run]) -> str:
    """The median."""
    return f"{statistics.median(run.ms_per_token for run in runs):.1f}"


def main() -> None:
    """Tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16, help="prompts measured (default 16)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens a prompt (default 64)")
    parser.add_argument("--dtype", default="auto", help="precision of both models (default: bfloat16 where native)")
    args = parser.parse_args()

    bench = Bench(args.dtype, args.tokens)
    samples: list[Sample] = read_prompts(PromptsConfig().file(), args.prompts + TUNING)
    prompts = [encode(sample, bench.tokenizer) for sample in samples]
    tuning, measured = prompts[:TUNING], prompts[TUNING:]
    constant = {"num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.0}
    peers = {f"k={n}": bench.assisted(num_assistant_tokens=n, **constant) for n in (1, 2, 3, 4, 5)}
    lookups = {f"k={n}": bench.lookup(n) for n in (1, 2, 3, 4, 5, 8)}
    outputs: dict[str, list[Output]] = {}
    with torch.inference_mode():
        bench.plain(prompts[0])
        setting, length = best(peers, tuning), best(lookups, tuning)
        contenders = {
            "generate": bench.plain,
            "assisted, defaults": bench.assisted(),
            f"assisted, best {setting}": peers[setting],
            f"lookup, best {length}": lookups[length],
        }
        baselines: dict[str, str] = {}  # of each of our ways: its cloud, without drafts
        decoders: dict[str, Ours] = {}
        alone = ""
        for title, ours in (("", bench.ours), (", 4-bit draft", bench.small_edge), (", 4-bit both", bench.packed)):
            if ours is not bench.small_edge:  # its cloud is that of the first
                alone = f"cloud alone{title}"
                contenders[alone], decoders[alone], baselines[alone] = ours.alone, ours, alone
            for drafter in ("edge", "mixed"):
                tried = {f"k={k}": ours.lossless(k, mixed=drafter == "mixed") for k in (1, 2, 3, 4, 5)}
                k = best(tried, tuning)
                name = f"{drafter}, {k}{title}"
                contenders[name], decoders[name], baselines[name] = tried[k], ours, alone
        runs: dict[str, list[Run]] = {name: [] for name in contenders}
        for prompt in measured:
            for name, decode in contenders.items():
                runs[name].append(timed(decode, prompt))
                if name in decoders and (last := decoders[name].last) is not None:
                    outputs.setdefault(name, []).append(last)

    print(f"{here()}, {bench.dtype}")
    print(f"{len(measured)} prompts, at most {args.tokens} new tokens each")
    console = Console()
    console.print(speeds(runs, baselines, decoders))
    console.print(
        "x: how many times faster, median over the prompts, paired, and its 95 % interval. assisted and lookup are "
        "generate(assistant_model) and generate(prompt_lookup_num_tokens); the best k is chosen on other prompts."
    )
    console.print(drafts(runs, outputs))
    console.print("In bfloat16 a block of tokens and a single one round differently, and so may the text.")


def speeds(runs: Mapping[str, Sequence[Run]], baselines: Mapping[str, str], ours: Collection[str]) -> Table:
    """Our ways by row, the peers by column."""
    peers = [name for name in runs if name not in ours]
    table = Table("this suite,\nlossless", Column("ms a\ntoken", justify="right"))
    for peer in peers:
        table.add_column(peer.replace(", ", "\n") + f"\n{ms_per_token(runs[peer])} ms", justify="right")
    table.add_column("its cloud\nalone", justify="right")
    for mine in ours:
        against = [*peers, baselines[mine]] if baselines[mine] != mine else peers
        ratios = [ratio(runs[name], runs[mine], "\n") for name in against]
        table.add_row(mine.replace(", 4-bit", "\n4-bit"), ms_per_token(runs[mine]), *ratios)
    return table


def drafts(runs: Mapping[str, Sequence[Run]], outputs: Mapping[str, Sequence[Output]]) -> Table:
    """What the drafts were worth and the loop cost, of those that draft."""
    table = Table("this suite, lossless")
    for heading in ("accepted\nof tested", "of\ndrafted", "a round", "loop's\nown time", "text of\ngenerate"):
        table.add_column(heading, justify="right")
    for mine, told in outputs.items():
        if any(output.counters.drafted for output in told):
            same = sum(a.tokens == b.tokens for a, b in zip(runs["generate"], runs[mine], strict=True))
            table.add_row(mine, *facts(told), f"{same} of {len(told)}")
    return table


def facts(outputs: Sequence[Output]) -> tuple[str, str, str, str]:
    """Accepted of the tokens tested, of those drafted, and a round; the loop's own time against the models'."""
    total, models = sum(o.times_s[-1] for o in outputs), sum(o.edge_s + o.cloud_s for o in outputs)
    accepted, tested = (sum(getattr(o.counters, name) for o in outputs) for name in ("accepted", "tested"))
    drafted, rounds = (sum(getattr(o.counters, name) for o in outputs) for name in ("drafted", "rounds"))
    shares = f"{accepted / tested:.3f}", f"{accepted / drafted:.3f}", f"{accepted / rounds:.2f}"
    return *shares, f"{100 * (total - models) / models:.1f} %"


if __name__ == "__main__":
    main()
