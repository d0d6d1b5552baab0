"""What a user can set for `task=specdec`, and what is legal. No torch here."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecloud.instructions import CAPTION_TYPES, LANGUAGES, PROMPT_TYPES
from edgecloud.manifest import file_sha256, read_manifest
from edgecloud.network import NetworkConfig
from suite.config import store
from suite.errors import ConfigError, UserError, check_choice, check_range
from suite.hardware.profile import HardwareConfig

METHODS = ("edge", "cloud", "specdec", "colocated")
# gate -> the option that holds its threshold
GATES = {
    "always": None,
    "entropy": "entropy_threshold",
    "confidence": "confidence_threshold",
    "adaedl": "adaedl_threshold",
    "uhlm": "uhlm_threshold",
    "random": "random_rate",
    "oracle": "oracle_threshold",
}
# gate -> the threshold at which it sends everything, and decoding is as with `always`
SENDS_ALL = {"entropy": 0.0, "confidence": 1.0, "adaedl": 1.0, "uhlm": 0.0, "random": 1.0, "oracle": 0.0}
STOPS = ("none", "entropy", "confidence", "adaedl", "uhlm")
DRAFTERS = ("edge", "lookup", "mixed", "none")
SCHEDULES = ("fixed", "heuristic")
VERIFICATIONS = ("lossless", "rank", "bild", "ensemble")
TRANSPORTS = ("inproc", "grpc")
ON_CLOUD_LOSS = ("fallback", "fail")
ENGINES = ("lean", "transformers", "llama_cpp")
CODECS = ("ids", "topk", "full", "residual")
AUDIO_CODECS = ("pcm16", "log_mel")
CLOCKS = ("measured", "modelled")
SWEEPS = ("live", "replay")
ON_TRACE_END = ("live", "refuse")
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class SpecDecConfig:
    """`task=specdec`: who drafts, what goes to the cloud, and when a drafted token stands."""

    name: str = "specdec"
    method: str = "specdec"
    """`edge` alone, `cloud` alone, `specdec` (edge drafts, cloud verifies), `colocated` (both on the cloud)."""
    drafter: str = "edge"
    """Who drafts: the `edge` model; `lookup`, the text's own n-grams; `mixed`, these where two tokens recur and else
    the edge; `none`, so that each token is a cloud call."""
    k: int = 3
    """Draft length: tokens drafted before the cloud is asked."""
    draft_schedule: str = "fixed"
    """`fixed`: always k; `heuristic`: from k on, 2 more after a round that stood whole, 1 less after a refusal."""
    draft_stop: str = "none"
    """End a draft early at a token the edge is unsure of, by this gate's rule and threshold; all of it is sent."""
    gate: str = "entropy"
    """What goes to the cloud: `always` everything, else the tokens that the rule finds unsure (gates.py)."""
    entropy_threshold: float = 1.5
    """Gate `entropy`: above, in nats; higher means fewer cloud calls. 0 sends everything, inf nothing."""
    confidence_threshold: float = 0.6
    """Gate `confidence`: below this largest probability."""
    adaedl_threshold: float = 0.6
    """Gate `adaedl`: below this bound on the acceptance rate."""
    uhlm_threshold: float = 0.3
    """Gate `uhlm`: above this chance of another token at another temperature."""
    random_rate: float = 0.1
    """Gate `random`: this share of the tokens, by lot; the lower bound for any gate."""
    oracle_threshold: float = 1.0
    """Gate `oracle`: above this many nats of the cloud's own surprise; the upper bound for any gate."""
    verification: str = "rank"
    """When a drafted token stands: `lossless` (the cloud's own distribution), `rank` (among the cloud's top tokens),
    `bild` (not too surprising to the cloud), `ensemble` (lossless towards a mixture of both models)."""
    rank_threshold: int = 3
    """`rank`: accept a drafted token among the cloud's top r. 1 is greedy lossless."""
    bild_threshold: float = 5.0
    """`bild`: refuse a token that surprises the cloud by more than this, in nats."""
    cloud_weight: float = 0.5
    """`ensemble`: the cloud's share of the mixture; 1 is lossless."""
    temperature: float = 0.0
    """0 is greedy; otherwise both models sample at this temperature."""
    top_p: float = 1.0
    """Nucleus of both models when sampling."""
    max_new_tokens: int = 64
    """Tokens emitted per sample at most."""
    stop: list[str] = field(default_factory=list)
    """Texts that end the output; the text is cut before them."""
    engine: str = "lean"
    """`lean`: our forward pass where it knows the architecture (the record says); `transformers`: always its own;
    `llama_cpp`: llama.cpp on GGUF files (text only; an extra), made 8-bit from a checkpoint that has none."""
    batch_size: int = 1
    """Samples decoded side by side on the same weights (batch.py): more tokens a second in all, each sample slower."""
    sweep: str = "live"
    """`live`: the models decode; `replay`: a recorded trace does, in a hundredth of the time (docs/replay.md)."""
    trace: str | None = None
    """`replay`: the trace file; None: one under outputs/.traces, by what it is made of."""
    on_trace_end: str = "live"
    """`replay`, where the trace ends: ask the models and add what they say (`live`), or fail the sample (`refuse`)."""
    warmup: int = 1
    """Samples decoded and thrown away before timing starts."""
    cloud_hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """Where the cloud model runs; `hardware` is where the edge runs."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """What lies between, on a virtual clock (docs/network.md); type `network=4g`."""
    codec: str = "ids"
    """What is sent of a draft: `ids`; `topk` or `full` probabilities too; `residual` (codecs.py)."""
    codec_top: int = 16
    """`topk`: probabilities of each token."""
    audio_codec: str = "pcm16"
    """How a clip goes to the cloud: `pcm16` samples, or `log_mel` features in 16 bit."""
    overlap: bool = False
    """The edge drafts on while the cloud judges, and keeps the draft where it had guessed the bonus token."""
    clock: str = "measured"
    """Compute time of the end-to-end figures: `measured` here, or `modelled` from both hardware profiles' sheets."""
    transport: str = "inproc"
    """Where the cloud is: `inproc` in this process; `grpc` another one (edgecloud/cloud.py), perhaps elsewhere."""
    cloud_address: str = "127.0.0.1:50051"
    """`grpc`: host:port of the cloud."""
    cloud_token_env: str = "EDGECLOUD_TOKEN"
    """`grpc`: environment variable with the secret the cloud asks for; only its name is recorded."""
    cloud_timeout_s: float = 30.0
    """`grpc`: a cloud that has not answered for so long is lost."""
    on_cloud_loss: str = "fallback"
    """`grpc`: a cloud lost after the start costs a sample its verification (`fallback`: the edge ends it alone) or the
    sample itself (`fail`); the next one tries to connect again."""

    def __post_init__(self) -> None:
        check_choice("task.method", self.method, METHODS)
        check_choice("task.drafter", self.drafter, DRAFTERS)
        check_choice("task.draft_schedule", self.draft_schedule, SCHEDULES)
        check_choice("task.draft_stop", self.draft_stop, STOPS)
        check_choice("task.gate", self.gate, tuple(GATES))
        check_choice("task.verification", self.verification, VERIFICATIONS)
        check_choice("task.engine", self.engine, ENGINES)
        check_range("task.k", self.k, 1, 64)
        check_range("task.entropy_threshold", self.entropy_threshold, 0.0)
        for name in ("confidence_threshold", "uhlm_threshold", "random_rate", "cloud_weight"):
            check_range(f"task.{name}", getattr(self, name), 0.0, 1.0)
        check_range("task.adaedl_threshold", self.adaedl_threshold, -1000.0, 1.0)
        check_range("task.oracle_threshold", self.oracle_threshold, 0.0)
        check_range("task.rank_threshold", self.rank_threshold, 1)
        check_range("task.bild_threshold", self.bild_threshold, 0.0)
        check_range("task.temperature", self.temperature, 0.0, 10.0)
        check_range("task.top_p", self.top_p, 1e-6, 1.0)
        check_range("task.max_new_tokens", self.max_new_tokens, 1, 32768)
        check_range("task.warmup", self.warmup, 0, 100)
        check_range("task.batch_size", self.batch_size, 1, 1024)
        for name, legal in (("engine", "lean"), ("transport", "inproc")):
            if self.batch_size > 1 and getattr(self, name) != legal:
                raise ConfigError(
                    f"task.batch_size={self.batch_size} decodes in this process with engine lean; set task.{name}="
                    f"{legal}, or task.batch_size=1."
                )
        check_choice("task.codec", self.codec, CODECS)
        check_choice("task.audio_codec", self.audio_codec, AUDIO_CODECS)
        check_choice("task.clock", self.clock, CLOCKS)
        check_range("task.codec_top", self.codec_top, 1)
        if self.clock == "modelled" and self.transport != "inproc":
            raise ConfigError(
                "task.clock=modelled needs the shapes of both models, and task.transport=grpc brings only the edge's; "
                "set task.transport=inproc."
            )
        if "" in self.stop:
            raise ConfigError("task.stop holds an empty text, which would end every output at once; remove it.")
        check_choice("task.transport", self.transport, TRANSPORTS)
        check_choice("task.on_cloud_loss", self.on_cloud_loss, ON_CLOUD_LOSS)
        check_range("task.cloud_timeout_s", self.cloud_timeout_s, 0.001, 86400.0)
        if self.transport == "grpc":
            if not re.fullmatch(r".+:\d{1,5}", self.cloud_address):
                raise ConfigError(f"task.cloud_address={self.cloud_address} must be host:port.")
            for name, legal in (("method", "specdec"), ("drafter", "edge")):
                if getattr(self, name) != legal:
                    raise ConfigError(
                        f"task.{name}={getattr(self, name)} does not split decoding over two processes; with "
                        f"task.transport=grpc set task.{name}={legal}."
                    )
        check_choice("task.sweep", self.sweep, SWEEPS)
        check_choice("task.on_trace_end", self.on_trace_end, ON_TRACE_END)
        if self.sweep == "replay":
            self._check_replays()
        if self.drafter != "edge":
            for name, legal in (("gate", "always"), ("draft_stop", "none")):
                if getattr(self, name) != legal:
                    raise ConfigError(
                        f"task.{name}={getattr(self, name)} asks how sure the edge model is of every token, and "
                        f"task.drafter={self.drafter} drafts without it; set task.{name}={legal}."
                    )
            if self.verification == "ensemble":
                raise ConfigError("task.verification=ensemble mixes two models; set task.drafter=edge.")

    def _check_replays(self) -> None:
        """A trace holds what two greedy models in one process say of each other's tokens."""
        played = {"method": "specdec", "drafter": "edge", "temperature": 0, "batch_size": 1, "transport": "inproc"}
        for name, legal in played.items():
            if getattr(self, name) != legal:
                raise ConfigError(
                    f"task.{name}={getattr(self, name)} cannot be replayed from a trace; set task.{name}={legal}, or "
                    "task.sweep=live."
                )
        if self.verification == "ensemble":
            raise ConfigError(
                "task.verification=ensemble needs whole distributions, which a trace does not hold; set "
                "task.sweep=live."
            )

    def decoders(self) -> tuple[str, ...]:
        """Names in the `models` group of the models that decode."""
        if self.method in ("edge", "cloud"):
            return (self.method,)
        return ("edge", "cloud") if self.drafter in ("edge", "mixed") else ("cloud",)

    @property
    def priced(self) -> bool:
        """Whether a virtual clock prices the messages; else it would tell nothing that the measured times do not."""
        return self.network.name != "none" or self.network.rtt_ms > 0 or self.clock == "modelled"

    def threshold(self, rule: str) -> float:
        """The threshold of a gate."""
        name = GATES[rule]
        return 0.0 if name is None else float(getattr(self, name))

    def models_used(self) -> tuple[str, ...]:
        """Names of all models that can move a number; `scorer`, for BERTScore, may be missing."""
        return (*self.decoders(), "scorer")

    def copied_models(self) -> tuple[str, ...]:
        """Models that every process of gpu_mode=data_parallel holds a copy of; none where one process does it all."""
        return self.decoders() if self.sweep == "live" and self.transport == "inproc" else ()


@dataclass(frozen=True, kw_only=True)
class WhatIfConfig(SpecDecConfig):
    """`task=specdec_what_if`: the rounds of a small pair that is decoded here, in the times of another that is not."""

    name: str = "specdec_what_if"
    k: int = 4
    gate: str = "always"
    verification: str = "lossless"
    shapes: dict[str, Any] = field(default_factory=dict)
    """`edge` and `cloud`: fields of the config.json of the models asked about; type `shapes=NAME`."""
    edge_weight_bits: float = 4.5
    """Of one stored weight on the edge, its share of scales included; 4.5 is GGUF's Q4_0, which a phone can hold."""
    cloud_weight_bits: float = 16.0
    """Of one stored weight in the cloud."""
    rtts_ms: list[float] = field(default_factory=lambda: [0, 5, 10, 20, 30, 40, 55, 75, 100, 150, 200, 300, 500])
    """Round trips of the plot."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, legal in (("method", "specdec"), ("drafter", "edge"), ("sweep", "live"), ("transport", "inproc")):
            if getattr(self, name) != legal:
                raise ConfigError(f"task=specdec_what_if compares all methods itself; leave task.{name}={legal}.")
        for name in ("edge_weight_bits", "cloud_weight_bits"):
            check_range(f"task.{name}", getattr(self, name), 1.0, 32.0)
        for rtt_ms in self.rtts_ms:
            check_range("task.rtts_ms", rtt_ms, 0.0, 1e6)
        if missing := {"edge", "cloud"} - self.shapes.keys():
            raise ConfigError(f"task.shapes has no {' and no '.join(sorted(missing))}; type shapes=NAME.")


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """`dataset=prompts`: a JSON Lines file of text prompts with references."""

    name: str = "prompts"
    path: str | None = None
    """Your own file; None: the 72 prompts that come with the suite. Format: zoo/prompts/CARD.md."""
    max_samples: int | None = None
    """Take the first so many; None: all."""
    language: str = "english"
    """Tokenisation of the scores: `english` or `chinese`."""

    def __post_init__(self) -> None:
        check_choice("dataset.language", self.language, LANGUAGES)
        if self.max_samples is not None:
            check_range("dataset.max_samples", self.max_samples, 1)
        if not self.file().is_file():
            raise ConfigError(f"dataset.path={self.file()} does not exist; give a JSON Lines file of prompts.")

    def file(self) -> Path:
        """The file to read."""
        return Path(self.path).expanduser() if self.path else ROOT / "zoo" / "prompts" / "prompts.jsonl"

    def digest(self) -> str:
        """SHA-256 (hex) of the data."""
        return hashlib.sha256(self.file().read_bytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class VoicesConfig:
    """`dataset=voices`: speech clips whose emotion is to be captioned."""

    name: str = "voices"
    path: str | None = None
    """Your own manifest, or its folder; None: the clips that come with the suite. Format: edgecloud/manifest.py."""
    audio: str | None = None
    """One clip of your own, shown as it is captioned; `path` and `max_samples` then mean nothing."""
    max_samples: int | None = None
    """Take the first so many; None: all."""
    caption_type: str = "original"
    """`original`: captions of the voice and of what it says; `audio_only`: of the voice alone."""
    language: str = "chinese"
    """Language of the instruction, of the captions, and so of the scores: `chinese` or `english`."""
    prompt_type: str = "default"
    """How much is asked for: `default` (one sentence), `detailed`, `concise`."""

    def __post_init__(self) -> None:
        check_choice("dataset.caption_type", self.caption_type, CAPTION_TYPES)
        check_choice("dataset.language", self.language, LANGUAGES)
        check_choice("dataset.prompt_type", self.prompt_type, PROMPT_TYPES)
        if self.max_samples is not None:
            check_range("dataset.max_samples", self.max_samples, 1)
        if self.audio is not None:
            if not Path(self.audio).expanduser().is_file():
                raise ConfigError(f"dataset.audio={self.audio} does not exist; give an audio file.")
        elif not self.file().is_file():
            raise ConfigError(
                f"dataset.path={self.file()} does not exist; give a manifest or the folder that holds one."
            )

    def file(self) -> Path:
        """The manifest to read."""
        path = Path(self.path).expanduser() if self.path else ROOT / "zoo" / "omni_tiny" / "clips"
        return path / "manifest.json" if path.is_dir() or self.path is None else path

    def digest(self) -> str:
        """SHA-256 (hex) of the manifest and of the clips taken, byte for byte.

        Reads all of them once a process (2 GB in 1.5 s); later jobs of a sweep only look at sizes and times.

        Raises:
            UserError: the file is no manifest.
        """
        if self.audio is not None:
            return file_sha256(Path(self.audio).expanduser())
        total, manifest = hashlib.sha256(self.file().read_bytes()), read_manifest(self.file())
        for item in manifest.items[: self.max_samples]:
            try:
                total.update(file_sha256(manifest.clip(item)).encode())
            except UserError:  # that sample will fail, and say so
                total.update(b"none")
        return total.hexdigest()


def register() -> None:
    """Make the schemas known to Hydra."""
    store(SpecDecConfig, name="specdec_schema")
    store(WhatIfConfig, name="specdec_what_if_schema")
    store(NetworkConfig, name="network_schema")
    store(PromptsConfig, name="prompts_schema")
    store(VoicesConfig, name="voices_schema")
