"""`task=specdec`: decode every sample with one method, and say what it cost and how good it was.

Read next: decode.py, the loop.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgecloud.data import Sample, encode, read_prompts
from edgecloud.schema import PromptsConfig, SpecDecConfig
from suite.config import RunConfig
from suite.errors import UserError
from suite.result import Result

if TYPE_CHECKING:
    from edgecloud.decode import Output
    from suite.context import RunContext

log = logging.getLogger(__name__)


def run(cfg: RunConfig, ctx: RunContext) -> Result:
    """Decode what is not decoded yet, then aggregate over all samples."""
    # torch comes with these; a job that is finished already never gets here
    from edgecloud.metrics import aggregate, greedy_references, per_sample
    from edgecloud.pair import load_pair, text_of

    task: SpecDecConfig = cfg.task
    dataset: PromptsConfig = cfg.dataset
    samples = read_prompts(dataset.file(), dataset.max_samples)
    pair = load_pair(ctx, task)
    references = greedy_references(cfg)
    decode = decoder(task, pair, cfg.seed)
    for sample in [sample for sample in samples if not sample.problem][: task.warmup]:
        with suppress(UserError):  # it is told when the sample's turn comes
            decode(sample, encode(sample, pair.tokenizer))

    def work(sample: Sample) -> dict[str, Any]:
        prompt = encode(sample, pair.tokenizer)
        with ctx.meter.window(sample.id) as window:
            output = decode(sample, prompt)
        text = text_of(output.tokens, pair.tokenizer, task.stop)
        if cfg.verbose:
            log.info("%s: %s", sample.id, text)
        return {
            "category": sample.category,
            "text": text,
            "references": list(sample.references),
            "prompt_tokens": len(prompt),
            "tokens": output.tokens,
            "sources": output.sources,
            "counters": asdict(output.counters),
            "metrics": per_sample(output, window.reading, references.get(sample.id)),
        }

    ctx.each(samples, work, label=task.method)
    return aggregate(cfg, ctx, samples, {"mode": mode(task), "models": pair.facts})


def mode(task: SpecDecConfig) -> str:
    """`lossless` (the cloud's own distribution), `gated` (some tokens unverified), `relaxed` (rank), or one model."""
    if task.method in ("edge", "cloud"):
        return f"{task.method} alone"
    relaxed = task.verification == "rank" and (task.rank_threshold > 1 or task.temperature > 0)
    gated = task.gate == "entropy" and task.entropy_threshold > 0
    return " + ".join([name for name, is_so in (("gated", gated), ("relaxed", relaxed)) if is_so]) or "lossless"


def decoder(task: SpecDecConfig, pair: Any, seed: int) -> Any:
    """`decode(sample, prompt) -> Output` for the method."""
    from edgecloud.decode import Ending, Rules, generate, speculate
    from edgecloud.gates import GATES
    from edgecloud.pair import stopper
    from edgecloud.sampling import Luck, Sampling
    from edgecloud.verify import VERIFIERS

    ending = Ending(max_new_tokens=task.max_new_tokens, eos=pair.eos, stop=stopper(task.stop, pair.tokenizer))
    sampling = Sampling(temperature=task.temperature, top_p=task.top_p)
    rules = Rules(
        k=task.k,
        gate=GATES[task.gate],
        threshold=task.entropy_threshold,
        verifier=VERIFIERS[task.verification],
        rank_threshold=task.rank_threshold,
    )

    def decode(sample: Sample, prompt: list[int]) -> Output:
        luck = Luck(seed, sample.id)
        if task.method in ("edge", "cloud"):
            return generate(getattr(pair, task.method), prompt, ending, sampling, luck, task.method)
        return speculate(pair.edge, pair.cloud, prompt, rules, ending, sampling, luck)

    return decode
