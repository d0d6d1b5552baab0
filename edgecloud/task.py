"""`task=specdec`: decode every sample with one method, and say what it cost and how good it was.

Read next: decode.py, the loop.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgecloud.audio import read_clip
from edgecloud.data import Sample, encode, read_data
from edgecloud.schema import SpecDecConfig, VoicesConfig
from suite.config import RunConfig
from suite.errors import UserError
from suite.result import Result

if TYPE_CHECKING:
    from edgecloud.decode import Output
    from edgecloud.draft import Drafter
    from edgecloud.lm import Prompt
    from edgecloud.pair import Pair
    from edgecloud.sampling import Sampling
    from edgecloud.verify import Cloud
    from suite.context import RunContext

log = logging.getLogger(__name__)


def run(cfg: RunConfig, ctx: RunContext) -> Result:
    """Decode what is not decoded yet, then aggregate over all samples."""
    # torch comes with these; a job that is finished already never gets here
    from edgecloud.live import Live
    from edgecloud.metrics import aggregate, greedy_references, names_emotion, per_sample, scorer_folder
    from edgecloud.pair import load_pair, text_of

    task: SpecDecConfig = cfg.task
    data = read_data(cfg.dataset)
    if data.corpus:
        scorer_folder(cfg)  # if it cannot be had, say so now and not after the decoding
    pair = load_pair(ctx, task)
    if isinstance(cfg.dataset, VoicesConfig):
        check_hears(pair)
    references = greedy_references(cfg)
    decode = decoder(task, pair, cfg.seed)
    for sample in [sample for sample in data.samples if not sample.problem][: task.warmup]:
        with suppress(UserError):  # it is told when the sample's turn comes
            decode(sample, ask(sample, pair)[0])

    def work(sample: Sample) -> dict[str, Any]:
        prompt, features_ms = ask(sample, pair)
        live = Live(pair.tokenizer) if isinstance(cfg.dataset, VoicesConfig) and cfg.dataset.audio else None
        if live:
            live.begin(sample.id, sources(task))
        with ctx.meter.window(sample.id) as window:
            output = decode(sample, prompt, live.token if live else None)
        text = text_of(output.tokens, pair.tokenizer, task.stop)
        metrics = per_sample(
            output,
            window.reading,
            features_ms=features_ms,
            greedy=references.get(sample.id),
            named=names_emotion(text, data.emotions.get(sample.category, ())),
        )
        if live:
            live.end(metrics)
        elif cfg.verbose:
            log.info("%s: %s", sample.id, text)
        return {
            "category": sample.category,
            "text": text,
            **({"pieces": live.pieces} if live else {}),
            "references": list(sample.references),
            "prompt_tokens": len(prompt.tokens),
            "tokens": output.tokens,
            "sources": output.sources,
            "counters": asdict(output.counters),
            "metrics": metrics,
        }

    ctx.each(data.samples, work, label=task.method)
    return aggregate(cfg, ctx, data, {"mode": mode(task), "models": pair.facts})


def ask(sample: Sample, pair: Pair) -> tuple[Prompt, float | None]:
    """The prompt of a sample, and how long its clip took from the file to log-mel features, in ms (None for text).

    Raises:
        UserError: the sample is broken, its clip cannot be read, or the tokenizer knows none of its words.
    """
    from edgecloud.lm import Prompt
    from edgecloud.omni import audio_prompt

    if sample.clip is None:
        return Prompt(tokens=encode(sample, pair.tokenizer)), None
    start = time.perf_counter()
    prompt = audio_prompt(pair.processor, read_clip(sample.clip), sample.prompt)
    return prompt, 1e3 * (time.perf_counter() - start)


def check_hears(pair: Pair) -> None:
    """Refuse clips for a model of text alone, before anything is decoded.

    Raises:
        UserError: naming the model.
    """
    for name, model in (("edge", pair.edge), ("cloud", pair.cloud)):
        if model is not None and model.ears is None:
            raise UserError(
                f"models.{name} ({pair.facts[name]['id']}) hears no audio, and dataset=voices holds clips; choose "
                "models=omni_tiny or another Qwen2.5-Omni, or dataset=prompts."
            )


def sources(task: SpecDecConfig) -> tuple[str, ...]:
    """Who can decide a token (`counters.SOURCES`)."""
    return (task.method,) if task.method in ("edge", "cloud") else ("edge", "accepted", "corrected", "bonus")


def mode(task: SpecDecConfig) -> str:
    """`lossless` (the cloud's own distribution), `gated` (some tokens unverified), `relaxed`, or one model."""
    if task.method in ("edge", "cloud"):
        return f"{task.method} alone"
    relaxed = {
        "lossless": False,
        "rank": task.rank_threshold > 1 or task.temperature > 0,
        "bild": True,
        "ensemble": task.cloud_weight < 1,
    }[task.verification]
    gated = task.gate != "always" and not (task.gate == "entropy" and task.entropy_threshold == 0)
    return " + ".join([name for name, is_so in (("gated", gated), ("relaxed", relaxed)) if is_so]) or "lossless"


def decoder(task: SpecDecConfig, pair: Pair, seed: int) -> Any:
    """`decode(sample, prompt, on_token=None) -> Output` for the method."""
    from edgecloud.decode import Ending, OnToken, Rules, generate, speculate
    from edgecloud.gates import GATES
    from edgecloud.pair import stopper
    from edgecloud.sampling import Luck

    ending = Ending(max_new_tokens=task.max_new_tokens, eos=pair.eos, stop=stopper(task.stop, pair.tokenizer))
    rules = Rules(
        k=task.k,
        gate=GATES[task.gate],
        threshold=task.threshold(task.gate),
        heuristic=task.draft_schedule == "heuristic",
    )
    if task.method in ("edge", "cloud"):
        model = getattr(pair, task.method)

        def alone(sample: Sample, prompt: Prompt, on_token: OnToken | None = None) -> Output:
            return generate(model, prompt, ending, sampling(task), Luck(seed, sample.id), task.method, on_token)

        return alone
    drafter, cloud = parts(task, pair)

    def both(sample: Sample, prompt: Prompt, on_token: OnToken | None = None) -> Output:
        return speculate(drafter, cloud, prompt, rules, ending, Luck(seed, sample.id), on_token)

    return both


def sampling(task: SpecDecConfig) -> Sampling:
    """Temperature and nucleus of both models."""
    from edgecloud.sampling import Sampling

    return Sampling(temperature=task.temperature, top_p=task.top_p)


def parts(task: SpecDecConfig, pair: Pair) -> tuple[Drafter, Cloud]:
    """Who drafts and who judges."""
    from edgecloud.draft import Drafted, LookupDrafter, NoDrafter
    from edgecloud.gates import GATES
    from edgecloud.verify import VERIFIERS, LocalCloud, Verification, in_process

    verifier = VERIFIERS[task.verification]
    how = Verification(
        sampling=sampling(task),
        rank_threshold=task.rank_threshold,
        surprise_threshold_nats=task.bild_threshold,
        cloud_weight=task.cloud_weight,
    )
    assert pair.cloud is not None
    if pair.edge is None:
        other = LookupDrafter(how.sampling, pair.cloud.vocab) if task.drafter == "lookup" else NoDrafter()
        return other, LocalCloud(pair.cloud, verifier, how)
    unsure, threshold = (
        (None, 0.0) if task.draft_stop == "none" else (GATES[task.draft_stop], task.threshold(task.draft_stop))
    )

    def stop(drafted: Drafted) -> bool:
        return unsure is not None and unsure(drafted, threshold)

    return in_process(pair.edge, pair.cloud, verifier, how, stop)
