"""What all configurations of the controller's model answer: shared evaluation against running each by itself.

    python -m bench.controller_profile              about 4 minutes on 2 idle cores
    python -m bench.controller_profile --quick      a first impression: 1 round of 16 questions

Three ways to the same 75 answers a question, on the embedded model: shared (controller/shared.py); each configuration
by itself, in batches; each configuration and question by itself, on the first few questions of a round, scaled to all.
Images are opened before, everything else is in the times: crops, vision, tokenising. What is shared depends on the
blocks that are dropped first, so each round draws an order anew. Seconds of the processor on one thread, which other
work does not stretch. Bar: 3 times as fast as each alone. Where there are no weights, random ones stand in; they
never end an answer, so three tokens of it are made, about as many as the trained model makes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bench import here
from controller.adapter import Adapter, open_adapter
from controller.schema import ControllerConfig
from controller.shared import Answer, Chunk, answers
from controller.space import Knobs, kept_blocks
from suite.models.loading import Loaded
from suite.models.spec import ModelConfig
from suite.rng import generator
from zoo.molmoe_tiny import corpus, model

BAR, SEED = 3.0, 42
ZOO = Path(model.__file__).parent
Tokens = dict[tuple[Knobs, int], tuple[int, ...]]
"""(configuration, number of the question) -> the answer's tokens."""


class Arms:
    """The ways to answer, on one adapter, the same questions and the same blocks kept."""

    def __init__(
        self, adapter: Adapter, questions: Sequence[tuple[Image.Image, str]], importance: list[float], most: int
    ) -> None:
        self.adapter, self.questions, self.most = adapter, questions, most
        self.kept = {depth: kept_blocks(importance, depth) for depth in adapter.space.depths}

    def shared(self) -> Tokens:
        """All configurations of a tier and a top-k at once."""
        space, chunk, found = self.adapter.space, self.chunk(), Tokens()
        for tier, top_k in itertools.product(space.tiers, space.top_ks):
            said = answers(chunk, tier=tier, top_k=top_k, kept=[*self.kept.values()], max_new_tokens=self.most)
            for depth, kept in self.kept.items():
                found |= numbered(Knobs(tier=tier, top_k=top_k, blocks=depth), said[kept])
        return found

    def batched(self) -> Tokens:
        """One configuration after the other, nothing kept between them."""
        found = Tokens()
        for knobs in self.adapter.space.configurations:
            kept = self.kept[knobs.blocks]
            said = answers(
                self.chunk(), tier=knobs.tier, top_k=knobs.top_k, kept=[kept], max_new_tokens=self.most
            )  # fmt: skip
            found |= numbered(knobs, said[kept])
        return found

    def alone(self, count: int) -> Tokens:
        """One configuration and one question after the other, of the first `count` questions."""
        found = Tokens()
        for number, (image, question) in enumerate(self.questions[:count]):
            for knobs in self.adapter.space.configurations:
                run = self.adapter.run(
                    image, question, tier=knobs.tier, top_k=knobs.top_k, kept=self.kept[knobs.blocks],
                    max_new_tokens=self.most,
                )  # fmt: skip
                found[knobs, number] = run.token_ids
        return found

    def chunk(self) -> Chunk:
        """The questions, with nothing computed yet."""
        images, words = zip(*self.questions, strict=True)
        return Chunk(self.adapter, images, words)


def numbered(knobs: Knobs, said: Sequence[Answer]) -> Tokens:
    """Answers of one configuration by question."""
    return {(knobs, number): answer.token_ids for number, answer in enumerate(said)}


def clocked(arm: Callable[..., Tokens], *args: Any) -> tuple[float, Tokens]:
    """Seconds of the processor and what was answered."""
    start = time.process_time()
    found = arm(*args)
    return time.process_time() - start, found


def opened() -> tuple[Adapter, bool]:
    """The embedded model, and whether it is trained."""
    trained = (ZOO / "model.safetensors").exists()
    if trained:
        made, tok = model.load(ZOO)
    else:
        torch.manual_seed(SEED)
        tok = model.tokenizer()
        made = model.new(tok).eval().requires_grad_(False)
    loaded = Loaded(
        model=made, tokenizer=tok, spec=ModelConfig(source="zoo", id="molmoe_tiny"), revision="", dtype="float32",
        folder=ZOO, device="cpu", load_s=0.0, parameters=made.num_parameters(),
    )  # fmt: skip
    return open_adapter(loaded, ControllerConfig()), trained


def asked(count: int) -> list[tuple[Image.Image, str]]:
    """As many held-out questions of each data set, in a random order."""
    lines, images = corpus.read(ZOO / "held_out", "tune")
    order = generator(SEED, "order").permutation(range(0, len(lines), len(lines) // count))[:count]
    return [(Image.fromarray(images[i]), lines[i]["question"]) for i in order]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 round of 16 questions, 1 of them alone")
    args = parser.parse_args()
    count, few, rounds = (16, 1, 1) if args.quick else (96, 4, 3)

    torch.set_num_threads(1)
    adapter, trained = opened()
    most = ControllerConfig().max_new_tokens if trained else 3
    print(f"{here()}, float32; molmoe_tiny, {'trained' if trained else 'random weights'}")
    print(f"{count} questions x {len(adapter.space)} configurations, {rounds} rounds", flush=True)
    ratios: dict[str, list[float]] = {"each in batches": [], "each alone": []}
    for turn in range(rounds):
        importance = generator(SEED, "importance", turn).random(adapter.depth).tolist()
        arms = Arms(adapter, asked(count), importance, most)
        alone_s, alone = clocked(arms.alone, few)
        shared_s, shared = clocked(arms.shared)
        batched_s, batched = clocked(arms.batched)
        for name, seconds, found in (
            ("each in batches", batched_s, batched),
            ("each alone", alone_s * count / few, alone),
        ):
            ratios[name].append(seconds / shared_s)
            differ = sum(shared[key] != tokens for key, tokens in found.items())
            print(f"  {name}: {seconds:.1f} s, shared {shared_s:.1f} s; {differ} of {len(found)} answers differ")
        kept = arms.kept.values()
        nodes = len({path[: i + 1] for path in kept for i in range(len(path))})
        tokens = statistics.mean(map(len, shared.values()))
        print(f"  {sum(map(len, kept))} blocks became {nodes}; {tokens:.1f} tokens an answer", flush=True)
    for name, found_ratios in ratios.items():
        low, high = min(found_ratios), max(found_ratios)
        print(f"shared is {statistics.median(found_ratios):.1f}x as fast as {name} ({low:.1f} to {high:.1f})")
    print(f"bar, against each alone: {BAR:g}x")


if __name__ == "__main__":
    main()
