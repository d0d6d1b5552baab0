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
GATES = ("always", "entropy")
VERIFICATIONS = ("lossless", "rank")
ENGINES = ("lean", "transformers")
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class SpecDecConfig:
    """`task=specdec`: who drafts, what goes to the cloud, and when a drafted token stands."""

    name: str = "specdec"
    method: str = "specdec"
    """`edge` alone, `cloud` alone, `specdec` (edge drafts, cloud verifies), `colocated` (both on the cloud)."""
    k: int = 3
    """Draft length: tokens drafted before the cloud is asked."""
    gate: str = "entropy"
    """What goes to the cloud: `always` everything, `entropy` tokens whose edge entropy exceeds the threshold."""
    entropy_threshold: float = 1.5
    """Gate threshold in nats; higher means fewer cloud calls. 0 sends everything, inf nothing."""
    verification: str = "rank"
    """When a drafted token stands: `lossless` (the cloud's own distribution), `rank` (among the cloud's top tokens)."""
    rank_threshold: int = 3
    """`rank`: accept a drafted token among the cloud's top r. 1 is greedy lossless."""
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
        check_choice("task.gate", self.gate, GATES)
        check_choice("task.verification", self.verification, VERIFICATIONS)
        check_choice("task.engine", self.engine, ENGINES)
        check_range("task.k", self.k, 1, 64)
        check_range("task.entropy_threshold", self.entropy_threshold, 0.0)
        check_range("task.rank_threshold", self.rank_threshold, 1)
        check_range("task.temperature", self.temperature, 0.0, 10.0)
        check_range("task.top_p", self.top_p, 1e-6, 1.0)
        check_range("task.max_new_tokens", self.max_new_tokens, 1, 32768)
        check_range("task.warmup", self.warmup, 0, 100)
        if "" in self.stop:
            raise ConfigError("task.stop holds an empty text, which would end every output at once; remove it.")

    def decoders(self) -> tuple[str, ...]:
        """Names in the `models` group of the models that decode."""
        return (self.method,) if self.method in ("edge", "cloud") else ("edge", "cloud")

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
