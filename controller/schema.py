"""What a user can set for `task=controller`, and what is legal. No torch here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from suite.config import store
from suite.errors import ConfigError, check_choice, check_range
from suite.paths import zoo_dir

STEPS = {
    "importance": "C6",
    "profile": "C7",
    "latency": "C1",
    "supervised": "C2",
    "stage1": "C3",
    "stage2": "C4",
    "grpo": "C5",
    "adaptive": "C8",
    "all": "C6, C7, C1, C2, C3, C4, C5, C8",
}
"""Steps of the study and the rows of the reference study that they are."""
MODES = ("small", "full")
TOP_K_MODES = ("native", "renorm", "mass")
VQA = ("official", "lmms", "simple")
REWARDS = ("reference", "masked")
SCALES = ("group", "batch", "none")
DATASETS: dict[str, dict[str, str]] = {
    "vqa_mini": {},
    "textvqa": {"path": "FILE.json", "images": "FOLDER_OR_ZIP"},
    "vqav2": {"path": "QUESTIONS.json", "annotations": "FILE.json", "images": "FOLDER_OR_ZIP"},
    "okvqa": {"path": "QUESTIONS.json", "annotations": "FILE.json", "images": "FOLDER_OR_ZIP"},
    "scienceqa": {"path": "FOLDER"},
    "easy_vqa": {"path": "FOLDER"},
}
"""Data sets and the options that name their files."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How one network is trained."""

    lr: float = 1e-4
    epochs: int = 50
    batch_size: int = 64
    width: int = 128
    """Units of a hidden layer."""

    def __post_init__(self) -> None:
        check_range("lr", self.lr, 1e-9, 10.0)
        check_range("epochs", self.epochs, 1, 100_000)
        check_range("batch_size", self.batch_size, 1, 1_000_000)
        check_range("width", self.width, 1, 65_536)


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(TrainConfig):
    """Group relative policy optimisation of a one-step bandit (grpo.py)."""

    batch_size: int = 32
    epochs: int = 100
    group_size: int = 5
    """Configurations drawn for the same (sample, budget)."""
    alpha: float = 1.0
    """Weight of accuracy in the reward."""
    beta: float = 0.5
    """Weight of the overrun, max(0, latency - budget) / budget."""
    clip: float = 0.2
    """Ratio-clipping epsilon."""
    kl: float = 0.0
    """Weight of the k3 estimate of the divergence from the starting policy."""
    updates: int = 1
    """Optimiser steps on one batch of drawn groups."""
    scale_rewards: str = "none"
    """Divide advantages by the standard deviation of the `group`, of the `batch`, or by `none`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("group_size", self.group_size, 2, 10_000)
        check_range("alpha", self.alpha, 0.0)
        check_range("beta", self.beta, 0.0)
        check_range("clip", self.clip, 1e-6, 1e6)
        check_range("kl", self.kl, 0.0)
        check_range("updates", self.updates, 1, 1000)
        check_choice("scale_rewards", self.scale_rewards, SCALES)


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """`task=controller`: one step of the study; what it needs of earlier steps is found, or made first."""

    name: str = "controller"
    step: str = "adaptive"
    """`importance` (C6), `profile` (C7), `latency` (C1), `supervised` (C2), `stage1` (C3), `stage2` (C4), `grpo` (C5),
    `adaptive` (C8), or `all` of them in this order. Type it as `step=NAME`."""
    mode: str = "full"
    """`full`, or `small`: the same steps in miniature."""
    latency_budget_ms: float | None = None
    """Budget of a sample in `step=adaptive`; None: ten from the cheapest configuration's mean latency to the dearest's.
    """
    reward: str = "masked"
    """The policies of `step=adaptive`: `reference`, trained on the reward as it is, which can pay for an overrun; or
    `masked`, the same with configurations whose p95 latency is over the budget out of reach."""
    tiers: list[str] = field(default_factory=lambda: ["low", "medium", "high"])
    """Settings of knob 1, cheap to dear."""
    top_ks: list[int] = field(default_factory=lambda: [4, 6, 8, 10, 12])
    """Settings of knob 2, experts a token; a model without experts ignores them."""
    blocks: list[int] = field(default_factory=lambda: [8, 10, 12, 14, 16])
    """Settings of knob 3, decoder blocks kept by importance."""
    top_k_mode: str = "native"
    """Weights of the experts that were chosen: `native` (as the model was made), `renorm` (they sum to 1), or `mass`
    (they sum to what the model's own top-k sums to)."""
    max_new_tokens: int = 16
    """Tokens of an answer at most."""
    vqa: str = "official"
    """VQA accuracy: `official` (leave one annotator out), `lmms`, or `simple` (min(matches / 3, 1))."""
    profile_samples: int | None = None
    """Samples of each data set and split that are profiled; None: by `mode`."""
    timed_samples: int | None = None
    """Of them those that are timed in every configuration; None: by `mode`."""
    rounds: int | None = None
    """Runs of each of these in each configuration, minutes apart, whose median C1 learns; None: by `mode`."""
    estimator: str | None = None
    """Folder of a latency estimator from another machine, to be recalibrated here; None: fit one here."""
    recalibrate: int = 25
    """Timed runs that recalibrate `estimator`."""
    latency: TrainConfig = field(default_factory=lambda: TrainConfig(lr=1e-3))
    supervised: TrainConfig = field(default_factory=TrainConfig)
    stage1: TrainConfig = field(default_factory=TrainConfig)
    stage2: GrpoConfig = field(default_factory=GrpoConfig)
    grpo: GrpoConfig = field(default_factory=lambda: GrpoConfig(batch_size=64))

    @property
    def method(self) -> str:
        """What names the result file."""
        return f"controller_{self.step}"

    def __post_init__(self) -> None:
        check_choice("step", self.step, STEPS)
        check_choice("task.mode", self.mode, MODES)
        check_choice("task.reward", self.reward, REWARDS)
        check_choice("task.top_k_mode", self.top_k_mode, TOP_K_MODES)
        check_choice("task.vqa", self.vqa, VQA)
        check_range("task.max_new_tokens", self.max_new_tokens, 1, 4096)
        for option in ("profile_samples", "timed_samples", "rounds"):
            if (value := getattr(self, option)) is not None:
                check_range(f"task.{option}", value, 1)
        check_range("task.recalibrate", self.recalibrate, 5, 1_000_000)
        if self.estimator is not None and not Path(self.estimator).expanduser().is_dir():
            raise ConfigError(f"task.estimator={self.estimator} is not a folder; give that of a `latency` step.")
        if self.latency_budget_ms is not None:
            check_range("task.latency_budget_ms", self.latency_budget_ms, 1e-6, 1e9)
        for option in ("top_ks", "blocks"):
            values = getattr(self, option)
            if not values or values != sorted(set(values)) or values[0] < 1:
                raise ConfigError(f"task.{option}={values} must be positive numbers in rising order, at least one.")
        if not self.tiers or len(set(self.tiers)) < len(self.tiers):
            raise ConfigError(f"task.tiers={self.tiers} must name different tiers, at least one.")

    def models_used(self) -> tuple[str, ...]:
        """Names in the `models` group of the models that can move a number."""
        return ("vlm",)

    def copied_models(self) -> tuple[str, ...]:
        """Models that every process of gpu_mode=data_parallel holds a copy of: to answer samples, not to train."""
        return ("vlm",) if self.step == "adaptive" else ()


@dataclass(frozen=True, kw_only=True)
class VqaConfig:
    """Questions about images (data.py, formats.py)."""

    name: str = "vqa_mini"
    """`vqa_mini`: four sets that come with the suite; `textvqa`, `vqav2`, `okvqa`, `scienceqa`, `easy_vqa`: files of
    your own in the official format."""
    path: str | None = None
    """File of questions (`scienceqa`: the folder with problems.json and images/; `easy_vqa`: with train/ and test/)."""
    annotations: str | None = None
    """`vqav2` and `okvqa`: the file of answers."""
    images: str | None = None
    """`textvqa`, `vqav2` and `okvqa`: the folder of images, or a zip that holds them."""
    max_samples: int | None = None
    """Take the first so many of every set and split; None: all."""

    def __post_init__(self) -> None:
        check_choice("dataset.name", self.name, DATASETS)
        if self.max_samples is not None:
            check_range("dataset.max_samples", self.max_samples, 1)
        needed = DATASETS[self.name]
        for option in ("path", "annotations", "images"):
            value = getattr(self, option)
            if value is None and option in needed:
                raise ConfigError(f"dataset={self.name} needs dataset.{option}={needed[option]}.")
            if value is not None and option not in needed:
                raise ConfigError(f"dataset={self.name} takes no dataset.{option}; drop it or choose another dataset.")
            if value is not None and not Path(value).expanduser().exists():
                raise ConfigError(f"dataset.{option}={value} does not exist; give {needed[option]}.")

    def files(self) -> list[Path]:
        """Every file that holds questions or answers, in a fixed order; of `vqa_mini` those of images too."""
        if self.name == "vqa_mini":
            folder = zoo_dir() / "molmoe_tiny" / "held_out"
            return [folder / f"{split}.{kind}" for split in ("tune", "test") for kind in ("jsonl", "zip")]
        given = [Path(value).expanduser() for value in (self.path, self.annotations) if value is not None]
        inside = {"scienceqa": ["problems.json"], "easy_vqa": ["train/questions.json", "test/questions.json"]}
        found = [given[0] / name for name in inside[self.name]] if self.name in inside else given
        return [path for path in found if path.is_file()]

    def digest(self) -> str:
        """SHA-256 (hex) of the questions and answers, byte for byte, and of the names and sizes of the images.

        Looked at once a process, or again when a file or the images' own folder has changed.
        """
        whole = hashlib.sha256()
        for path in self.files():
            whole.update(_content(path, path.stat().st_mtime_ns))
        home = self.images or self.path
        if home is not None:
            images = Path(home).expanduser()
            whole.update(_sizes(images, images.stat().st_mtime_ns))
        return whole.hexdigest()


@lru_cache(maxsize=16)
def _content(path: Path, _changed: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@lru_cache(maxsize=16)
def _sizes(home: Path, _changed: int) -> bytes:
    """Names and sizes of all files below a folder; of a zip its size."""
    whole = hashlib.sha256()
    for path in sorted(home.rglob("*")) if home.is_dir() else [home]:
        if path.is_file():
            whole.update(f"{path.relative_to(home).as_posix()} {path.stat().st_size}\n".encode())
    return whole.digest()


def register() -> None:
    """Make the schemas known to Hydra."""
    store(ControllerConfig, name="controller_schema")
    store(VqaConfig, name="vqa_schema")
