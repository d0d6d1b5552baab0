"""`task=specdec`: decode every sample with one method, and say what it cost and how good it was.

Read next: decode.py, the loop.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from edgecloud.audio import read_clip
from edgecloud.data import Sample, encode, read_data
from edgecloud.schema import SENDS_ALL, SpecDecConfig, VoicesConfig
from suite.config import RunConfig
from suite.context import ok
from suite.errors import UserError
from suite.result import Result

if TYPE_CHECKING:
    from edgecloud.decode import Output
    from edgecloud.draft import Drafter
    from edgecloud.lm import Prompt
    from edgecloud.pair import Pair
    from edgecloud.replayed import Replay
    from edgecloud.sampling import Sampling
    from edgecloud.verify import Cloud
    from suite.context import RunContext

log = logging.getLogger(__name__)


def run(cfg: RunConfig, ctx: RunContext) -> Result:
    """Decode what is not decoded yet, then aggregate over all samples."""
    # torch comes with these; a job that is finished already never gets here
    from edgecloud import page
    from edgecloud.batch import in_lanes
    from edgecloud.clock import calibration, clock_of
    from edgecloud.live import Live
    from edgecloud.metrics import aggregate, greedy_references, names_emotion, per_sample, renamed, scorer_folder
    from edgecloud.pair import load_pair, text_of
    from suite.quality import caption_scorer

    task: SpecDecConfig = cfg.task
    data = read_data(cfg.dataset)
    if data.corpus:
        scorer_folder(cfg)  # if it cannot be had, say so now and not after the decoding
    replay = open_replay(cfg, ctx) if task.sweep == "replay" else None
    pair = load_pair(ctx, task) if replay is None else replay.pair
    if isinstance(cfg.dataset, VoicesConfig):
        check_hears(pair)
    references = greedy_references(cfg)
    scores = caption_scorer(cfg.dataset.language, data.corpus)
    clock = clock_of(cfg, pair)
    decode = decoder(task, pair, cfg.seed) if replay is None else replay.decode
    if pair.batcher is not None:
        others = [decoder(task, pair.beside(), cfg.seed) for _ in range(task.batch_size - 1)]
        decode = in_lanes([decode, *others], pair.batcher)
    for sample in [sample for sample in data.samples if not sample.problem][: 0 if replay else task.warmup]:
        with suppress(UserError):  # it is told when the sample's turn comes
            decode(sample, ask(sample, pair)[0])

    def work(sample: Sample) -> dict[str, Any]:
        prompt, features_ms = ask(sample, pair) if replay is None else replay.ask(sample)
        live = Live(pair.tokenizer) if isinstance(cfg.dataset, VoicesConfig) and cfg.dataset.audio else None
        if live:
            live.begin(sample.id, sources(task))
        with nullcontext() if replay else ctx.meter.window(sample.id) as window:
            began_s = time.time()
            output = decode(sample, prompt, live.token if live else None)
        text = text_of(output.tokens, pair.tokenizer, task.stop)
        metrics = per_sample(
            output,
            None if window is None else window.reading,
            features_ms=features_ms,
            greedy=references.get(sample.id),
            named=names_emotion(text, data.emotions.get(sample.category, ())),
            began_s=None if replay else began_s,
            **({} if pair.line is None else pair.line.costs()),
        )
        metrics |= renamed(scores(text, sample.references))
        if replay is not None:
            metrics |= replay.counts()
        if clock is not None:
            metrics |= clock.per_sample(output, prompt, sample.id)
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
            **({} if pair.line is None else {"cloud_loss": pair.line.loss and asdict(pair.line.loss)}),
            **({} if clock is None else {"compute_s": clock.compared(output, prompt)}),
            "metrics": metrics,
        }

    try:
        workers, stop = (task.batch_size, pair.batcher.stop) if pair.batcher else (1, lambda: None)
        ctx.each(data.samples, work, label=task.method, workers=workers, stop=stop)
    finally:
        if pair.line is not None:
            pair.line.close()
    page.write(ctx.folder / "samples.html", ok(ctx.samples), pair.tokenizer)
    facts: dict[str, Any] = {"mode": mode(task), "models": pair.facts, **(replay.facts if replay else {})}
    if clock is not None:
        compared = calibration([row["compute_s"] for row in ok(ctx.samples)])
        facts |= {"clock": clock.note, "codec_lossless": clock.lossless, "here_over_modelled": compared}
    return aggregate(cfg, ctx, data, facts)


def open_replay(cfg: RunConfig, ctx: RunContext) -> Replay:
    """The trace of the job, ready to play."""
    from edgecloud.replayed import Replay

    return Replay(cfg, ctx)


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
    gated = task.gate != "always" and task.threshold(task.gate) != SENDS_ALL[task.gate]
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
        overlap=task.overlap,
    )
    if task.method in ("edge", "cloud"):
        model = getattr(pair, task.method)

        def alone(sample: Sample, prompt: Prompt, on_token: OnToken | None = None) -> Output:
            return generate(model, prompt, ending, sampling(task), Luck(seed, sample.id), task.method, on_token)

        return alone
    drafter, cloud = parts(task, pair)
    if pair.line is not None:
        rules = replace(rules, gate=pair.line.gate(rules.gate))

    clock = time.perf_counter if pair.tape is None else pair.tape.clock

    def both(sample: Sample, prompt: Prompt, on_token: OnToken | None = None) -> Output:
        return speculate(drafter, cloud, prompt, rules, ending, Luck(seed, sample.id), on_token, clock)

    return both


def sampling(task: SpecDecConfig) -> Sampling:
    """Temperature and nucleus of both models."""
    from edgecloud.sampling import Sampling

    return Sampling(temperature=task.temperature, top_p=task.top_p)


def parts(task: SpecDecConfig, pair: Pair) -> tuple[Drafter, Cloud]:
    """Who drafts and who judges."""
    from edgecloud.clock import codec_of
    from edgecloud.draft import Drafted, EdgeDrafter, LookupDrafter, MixedDrafter, NoDrafter
    from edgecloud.gates import GATES
    from edgecloud.verify import VERIFIERS, LocalCloud, Verification, ensemble, in_process

    verifier = VERIFIERS[task.verification]
    how = Verification(
        sampling=sampling(task),
        rank_threshold=task.rank_threshold,
        surprise_threshold_nats=task.bild_threshold,
        cloud_weight=task.cloud_weight,
    )
    if pair.edge is None and pair.cloud is not None:
        other = LookupDrafter(how.sampling, pair.cloud.vocab) if task.drafter == "lookup" else NoDrafter()
        return other, LocalCloud(pair.cloud, verifier, how)
    unsure, threshold = (
        (None, 0.0) if task.draft_stop == "none" else (GATES[task.draft_stop], task.threshold(task.draft_stop))
    )

    def stop(drafted: Drafted) -> bool:
        return unsure is not None and unsure(drafted, threshold)

    if pair.tape is not None:
        from edgecloud.replay import RecordedCloud, RecordedDrafter

        recorded = RecordedCloud(pair.tape, verifier, how, pair.eos)
        return RecordedDrafter(pair.tape, stop, lots=task.gate == "random"), recorded
    assert pair.edge is not None
    # the only verifier whose law depends on the q it is told
    sent = task.method == "specdec" and task.verification == "lossless" and task.priced
    codec = codec_of(task, pair.vocab) if sent else None
    if pair.line is not None:
        from edgecloud.remote import RemoteCloud

        drafter = EdgeDrafter(pair.edge, how.sampling, stop, keep_q=verifier is ensemble, codec=codec)
        return drafter, RemoteCloud(pair.line, task.verification, how, fall_back=task.on_cloud_loss == "fallback")
    assert pair.cloud is not None
    edge, cloud = in_process(pair.edge, pair.cloud, verifier, how, stop, codec)
    return MixedDrafter(edge) if task.drafter == "mixed" else edge, cloud
