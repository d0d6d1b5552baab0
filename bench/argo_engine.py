"""Throughput of the engine in this process on the embedded model: the calls of ARGO one, eight and 32 at a time.

    python -m bench.argo_engine             about 3 minutes on 2 idle cores

The calls are those of the study: sub-queries, answers from three passages, options scored after six passages. Alone or
together, it is the same engine, which keeps what prompts have in common. The arms take turns, a few calls at a time; a
ratio is (seconds of a call alone) / (mean seconds of a call's share of a batch), the median and the extremes of single
calls. `generate` is transformers' own loop on 32 of the same prompts. On other work's time the figures mean little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from argo import prompts
from argo.calls import Call, Failure, Reply
from argo.prompts import Note
from argo.questions import read_questions
from argo.schema import QuestionsConfig
from argo.transformers_engine import TransformersEngine
from bench import here
from suite.config import CONF
from suite.hardware.profile import HardwareConfig
from suite.models.loading import load
from suite.models.plan import Placement
from suite.models.quiet import quiet
from suite.models.spec import ModelConfig

SIZES = {8: 16, 32: 128}
"""Calls at a time, and how many of them are handed over."""
MOST = max(SIZES.values())
QUESTION = {"decompose": 4, "answer": 5, "score": 1}
"""Calls of a typical question."""


def calls_of_a_study() -> dict[str, list[Call]]:
    """`MOST` calls of each kind, with the questions and passages of oran_mini."""
    data = read_questions(QuestionsConfig(difficulty="mixed"), MOST)
    passages = {passage.id: passage for passage in data.passages}
    others = list(passages.values())
    found: dict[str, list[Call]] = {"decompose": [], "answer": [], "score": []}
    for i in range(MOST):
        question = data.questions[i % len(data.questions)]
        shown = [passages[name] for name in question.supporting] + others[2 * i : 2 * i + 6]
        told = [(passage.title, passage.text.split(". ")[0]) for passage in shown[: i % 3]]
        notes = [Note(query=query, answer=answer, read=False) for query, answer in told]
        found["decompose"].append(prompts.decompose(question, notes, 50, raw=True))
        found["answer"].append(prompts.reason(question.question, shown[:3], 50))
        found["score"].append(prompts.synthesize(question, notes, shown[:6], likelihood=True, max_new_tokens=50))
    return found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `work` takes, and what it returns."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def generate(engine: TransformersEngine, calls: Sequence[Call]) -> None:
    """The loop of transformers over one left-padded batch."""
    words: Any = engine.wording.tokenizer
    words.padding_side, words.pad_token = "left", words.pad_token or words.eos_token
    with quiet(), torch.inference_mode():
        texts = [engine.wording.rendered(call)[0] for call in calls]
        inputs = words(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        engine.model.generate(
            **inputs, do_sample=False, max_new_tokens=50, stop_strings=list(calls[0].stop), tokenizer=words
        )


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", type=int, default=9, help="calls of each kind that are asked alone (default 9)")
    parser.add_argument("--dtype", default="auto", help="precision of the model (default: bfloat16 where native)")
    args = parser.parse_args()

    spec = OmegaConf.to_container(OmegaConf.load(CONF / "models" / "smollm2_rag.yaml"))
    assert isinstance(spec, dict)
    loaded = load(ModelConfig(**spec["llm"]), placement=Placement(), hardware=HardwareConfig(dtype=args.dtype))
    engine = TransformersEngine(loaded, prompt_format="mixed", rows=1)
    print(f"{here()}, {loaded.dtype}")
    whole: dict[int, float] = {}
    for kind, calls in calls_of_a_study().items():

        def asked(rows: int, some: Sequence[Call]) -> tuple[float, list[Reply | Failure]]:
            engine.rows = rows
            return timed(lambda: engine.answer(some))

        asked(8, calls[:4])  # warm
        picked = iter(np.linspace(0, MOST - 1, args.alone).round().astype(int).tolist())
        seconds: dict[int, list[float]] = {size: [] for size in (1, *SIZES)}
        for size, n in SIZES.items():
            seconds[1] += [asked(1, [calls[i]])[0] for i in islice(picked, args.alone // 3)]
            took, replies = asked(size, calls[:: MOST // n])
            seconds[size].append(took / n)
        seconds[1] += [asked(1, [calls[i]])[0] for i in picked]
        done = [reply for reply in replies if isinstance(reply, Reply)]
        read = statistics.mean(reply.prompt_tokens for reply in done)
        said = statistics.mean(reply.completion_tokens for reply in done)
        print(f"{kind}: {read:.0f} tokens read, {said:.0f} written a call")
        for size, found in seconds.items():
            each = statistics.mean(found)
            whole[size] = whole.get(size, 0.0) + QUESTION[kind] * each
            line = f"  {size:2} at a time {1 / each:7.2f} calls/s {(read + said) / each:7.0f} tokens/s"
            if size > 1:
                ratios = [alone / each for alone in seconds[1]]
                line += f" {statistics.median(ratios):6.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"
            print(line, flush=True)
        if not calls[0].options:
            some = calls[:: MOST // 32]
            print(f"  generate, 32  {len(some) / timed(partial(generate, engine, some))[0]:7.2f} calls/s", flush=True)
    told = ", ".join(f"{n} {kind}" for kind, n in QUESTION.items())
    for size in SIZES:
        print(f"a question ({told}), {size} at a time: {whole[1] / whole[size]:.1f}x")


if __name__ == "__main__":
    main()
