"""Speculative decoding on two models of this process, said in one line by a test."""

from __future__ import annotations

from dataclasses import dataclass

from edgecloud import gates, verify
from edgecloud.codecs import Codec
from edgecloud.decode import Ending, OnToken, Output, Rules, generate, speculate
from edgecloud.draft import Drafted, Drafter, LookupDrafter, MixedDrafter, NoDrafter
from edgecloud.gates import Gate
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling
from edgecloud.verify import Cloud, LocalCloud, Verification, Verifier, in_process


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How to decode: everything but the models, the text, its end and the luck. Lossless and greedy unless told."""

    k: int = 4
    heuristic: bool = False
    gate: Gate = gates.always
    threshold: float = 0.0
    drafter: str = "edge"
    draft_stop: Gate | None = None
    draft_stop_threshold: float = 0.0
    verifier: Verifier = verify.lossless
    rank_threshold: int = 1
    surprise_threshold_nats: float = 5.0
    cloud_weight: float = 0.5
    overlap: bool = False
    sampling: Sampling = Sampling()
    codec: Codec | None = None

    @property
    def rules(self) -> Rules:
        return Rules(k=self.k, gate=self.gate, threshold=self.threshold, heuristic=self.heuristic, overlap=self.overlap)

    @property
    def how(self) -> Verification:
        return Verification(
            sampling=self.sampling,
            rank_threshold=self.rank_threshold,
            surprise_threshold_nats=self.surprise_threshold_nats,
            cloud_weight=self.cloud_weight,
        )

    def parts(self, edge: CachedLM, cloud: CachedLM) -> tuple[Drafter, Cloud]:
        if self.drafter == "lookup":
            return LookupDrafter(self.sampling, cloud.vocab), LocalCloud(cloud, self.verifier, self.how)
        if self.drafter == "none":
            return NoDrafter(), LocalCloud(cloud, self.verifier, self.how)
        stop = self.stops if self.draft_stop else None
        drafter, judge = in_process(edge, cloud, self.verifier, self.how, stop, self.codec)
        return MixedDrafter(drafter) if self.drafter == "mixed" else drafter, judge

    def stops(self, drafted: Drafted) -> bool:
        assert self.draft_stop is not None
        return self.draft_stop(drafted, self.draft_stop_threshold)


def together(
    edge: CachedLM,
    cloud: CachedLM,
    prompt: Prompt,
    way: Way,
    ending: Ending,
    luck: Luck,
    on_token: OnToken | None = None,
) -> Output:
    """The two models, speculating."""
    return speculate(*way.parts(edge, cloud), prompt, way.rules, ending, luck, on_token)


def alone(model: CachedLM, prompt: Prompt, way: Way, ending: Ending, luck: Luck, source: str = "cloud") -> Output:
    """One of them alone, sampling the same way."""
    return generate(model, prompt, ending, way.sampling, luck, source)
