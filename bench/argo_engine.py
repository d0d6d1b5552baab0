"""Throughput of the engine in this process on the embedded model: the calls of ARGO one, eight and 32 at a time.

    python -m bench.argo_engine             about 3 minutes on 2 idle cores

The calls are those of the study: sub-queries, answers from three passages, options scored after six passages. All arms
take turns, a few calls at a time, and all keep the shared beginnings of prompts. A ratio is (seconds of a call alone) /
(seconds of the same call's share of a batch). `generate` is transformers' own loop on the same batch of 32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from argo import prompts
from argo.calls import Call, Reply
from argo.prompts import Note
from argo.questions import read_questions
from argo.schema import QuestionsConfig
from argo.transformers_engine import TransformersEngine
from suite.config import CONF
from suite.hardware.machine import cpu_model
from suite.hardware.profile import HardwareConfig
from suite.models.loading import load
from suite.models.plan import Placement
from suite.models.quiet import quiet
from suite.models.spec import ModelConfig
from suite.records.provenance import packages

CALLS = 32
SIZES = (8, 32)


def calls_of_a_study() -> dict[str, list[Call]]:
    """`CALLS` calls of each kind, with the questions and passages of oran_mini."""
    data = read_questions(QuestionsConfig(difficulty="mixed"), CALLS)
    passages = {passage.id: passage for passage in data.passages}
    everything = list(passages.values())
    found: dict[str, list[Call]] = {"decompose": [], "answer": [], "score": []}
    for i in range(CALLS):
        question = data.questions[i % len(data.questions)]
        shown = [passages[name] for name in question.supporting] + everything[7 * i : 7 * i + 6]
        notes = [Note(query=passage.title, answer=passage.text.split(". ")[0]) for passage in shown[: i % 3]]
        found["decompose"].append(prompts.decompose(question, notes, 50))
        found["answer"].append(prompts.reason(question.question, shown[:3], 50))
        found["score"].append(prompts.synthesize(question, shown[:6], notes, likelihood=True, max_new_tokens=50))
    return found


def generate(engine: TransformersEngine, calls: Sequence[Call]) -> float:
    """Seconds a call of `model.generate` on one left-padded batch."""
    words: Any = engine.tokenizer
    words.padding_side = "left"
    words.pad_token = words.pad_token or words.eos_token
    start = time.perf_counter()
    with quiet(), torch.inference_mode():
        inputs = words([call.prompt for call in calls], return_tensors="pt", padding=True)
        engine.model.generate(
            **inputs, do_sample=False, max_new_tokens=50, stop_strings=list(calls[0].stop), tokenizer=words
        )
    return (time.perf_counter() - start) / len(calls)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", type=int, default=9, help="calls of each kind that are also asked alone (default 9)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that the arms take (default 3)")
    parser.add_argument("--dtype", default="auto", help="precision of the model (default: bfloat16 where native)")
    args = parser.parse_args()

    spec = OmegaConf.to_container(OmegaConf.load(CONF / "models" / "smollm2_rag.yaml"))
    assert isinstance(spec, dict)
    loaded = load(ModelConfig(**spec["llm"]), placement=Placement(), hardware=HardwareConfig(dtype=args.dtype))
    engines = {size: TransformersEngine(loaded, prompt_format="plain", batch=size) for size in (1, *SIZES)}
    told = ", ".join(f"{name} {version}" for name, version in packages().items() if name in ("torch", "transformers"))
    print(f"{cpu_model()}, {torch.get_num_threads()} threads, {loaded.dtype}, {told}")
    all_ratios: dict[int, list[float]] = {size: [] for size in SIZES}
    for kind, calls in calls_of_a_study().items():
        engines[32].answer(calls[:2])  # warm
        alone = np.linspace(0, CALLS - 1, args.alone).round().astype(int).tolist()
        seconds: dict[int, dict[int, list[float]]] = {size: {i: [] for i in range(CALLS)} for size in engines}
        peer: list[float] = []
        size_of: list[Reply] = []
        for turn in range(args.rounds):
            mine = alone[turn :: args.rounds]
            for size, engine in engines.items():
                chosen = mine if size == 1 else list(range(CALLS))
                for i, reply in zip(chosen, engine.answer([calls[i] for i in chosen]), strict=True):
                    assert isinstance(reply, Reply) and reply.latency_ms is not None
                    seconds[size][i].append(reply.latency_ms / 1e3)
                    size_of += [reply] if size == 32 else []
            if not calls[0].options and turn == 0:
                peer.append(generate(engines[32], calls))
        read = statistics.mean(reply.prompt_tokens for reply in size_of)
        said = statistics.mean(reply.completion_tokens for reply in size_of)
        print(f"{kind}: {read:.0f} tokens read, {said:.0f} written a call")
        for size in engines:
            each = statistics.median(s for found in seconds[size].values() for s in found)
            line = f"  {size:2} at a time {1 / each:7.2f} calls/s {(read + said) / each:7.0f} tokens/s"
            if size > 1:
                ratios = [seconds[1][i][0] / statistics.median(seconds[size][i]) for i in alone]
                all_ratios[size] += ratios
                low, high = np.quantile(ratios, [0.1, 0.9])
                line += f" {statistics.median(ratios):6.1f}x (8 in 10 calls {low:.1f} to {high:.1f})"
            print(line, flush=True)
        for each in peer:
            print(f"  generate, 32  {1 / each:7.2f} calls/s")
    for size, ratios in all_ratios.items():
        print(f"all kinds, {size} at a time: {statistics.median(ratios):.1f}x (median of {len(ratios)} calls)")


if __name__ == "__main__":
    main()
