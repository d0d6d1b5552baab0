"""What a user can set for `task=specdec`, and what is legal. No torch here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from edgecloud.instructions import CAPTION_TYPES, LANGUAGES, PROMPT_TYPES
from edgecloud.manifest import file_sha256, read_manifest
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
STOPS = ("none", "entropy", "confidence", "adaedl", "uhlm")
DRAFTERS = ("edge", "lookup", "none")
SCHEDULES = ("fixed", "heuristic")
VERIFICATIONS = ("lossless", "rank", "bild", "ensemble")
ENGINES = ("lean", "transformers")
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class SpecDecConfig:
    """`task=specdec`: who drafts, what goes to the cloud, and when a drafted token stands."""

    name: str = "specdec"
    method: str = "specdec"
    """`edge` alone, `cloud` alone, `specdec` (edge drafts, cloud verifies), `colocated` (both on the cloud)."""
    drafter: str = "edge"
    """Who drafts: the `edge` model; `lookup`, the text's own n-grams; `none`, so that each token is a cloud call."""
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
    """`lean`: our forward pass where it knows the architecture (the record says); `transformers`: always its own."""
    warmup: int = 1
    """Samples decoded and thrown away before timing starts."""
    cloud_hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """Where the cloud model runs; `hardware` is where the edge runs."""

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
        if "" in self.stop:
            raise ConfigError("task.stop holds an empty text, which would end every output at once; remove it.")
        if self.drafter != "edge":
            for name, legal in (("gate", "always"), ("draft_stop", "none")):
                if getattr(self, name) != legal:
                    raise ConfigError(
                        f"task.{name}={getattr(self, name)} asks how sure the edge model is, and task.drafter="
                        f"{self.drafter} has none; set task.{name}={legal}."
                    )
            if self.verification == "ensemble":
                raise ConfigError("task.verification=ensemble mixes two models; set task.drafter=edge.")

    def decoders(self) -> tuple[str, ...]:
        """Names in the `models` group of the models that decode."""
        if self.method in ("edge", "cloud"):
            return (self.method,)
        return ("edge", "cloud") if self.drafter == "edge" else ("cloud",)

    def threshold(self, rule: str) -> float:
        """The threshold of a gate."""
        name = GATES[rule]
        return 0.0 if name is None else float(getattr(self, name))

    def models_used(self) -> tuple[str, ...]:
        """Names of all models that can move a number; `scorer`, for BERTScore, may be missing."""
        return (*self.decoders(), "scorer")


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
    store(PromptsConfig, name="prompts_schema")
    store(VoicesConfig, name="voices_schema")
