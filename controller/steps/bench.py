"""Run a step of the study and, before it, the steps that it needs; what was done before is not done again.

Every step leaves a folder of files, named after all that can move its numbers: its settings, those of the steps before
it, the model's weights, the data, the seed, the machine. So a sweep over budgets trains nothing twice, a killed run
goes on where it was, and two launches at once wait for each other.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from controller.schema import ControllerConfig
from controller.space import kept_blocks
from suite.config import RunConfig
from suite.errors import UserError
from suite.hardware.machine import cpu_model
from suite.records.store import write_atomic
from suite.result import Metric, Result
from suite.strict_json import parse

if TYPE_CHECKING:
    from controller.adapter import Adapter
    from controller.data import Sample, VqaData
    from suite.context import RunContext

log = logging.getLogger(__name__)
FOLDER = Path("outputs") / ".steps"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: which earlier ones it reads, and which of the task's settings move its numbers."""

    needs: tuple[str, ...]
    settings: tuple[str, ...]

    def run(self, name: str, bench: Bench, folder: Path) -> Result:
        """Do the work; what later steps read goes into `folder`."""
        result = import_module(f"controller.steps.{name}").run(bench, folder)
        assert isinstance(result, Result)
        return result


MODEL = ("mode", "tiers", "top_ks", "blocks", "top_k_mode", "max_new_tokens", "vqa", "profile_samples")
STEPS = {
    "importance": Step(needs=(), settings=MODEL),
    "profile": Step(needs=("importance",), settings=("timed_samples", "rounds")),
    "latency": Step(needs=("profile",), settings=("latency", "estimator", "recalibrate")),
    "supervised": Step(needs=("profile", "latency"), settings=("supervised",)),
    "stage1": Step(needs=("profile", "latency"), settings=("stage1",)),
    "stage2": Step(needs=("profile", "latency", "stage1"), settings=("stage2",)),
    "grpo": Step(needs=("profile", "latency", "stage2"), settings=("grpo",)),
}
"""In the order of the study. The last one, `adaptive`, has a row a sample and is a job's own work (adaptive.py)."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of the data each step takes, of every data set."""

    importance: int
    tune: int
    test: int
    timed: dict[str, int]
    """Samples of `tune` and `test` that are timed, and of `test` that `adaptive` runs; all data sets together."""
    rounds: int
    """Runs of each timed sample in each configuration."""


SIZES = {
    "full": Sizes(importance=200, tune=150, test=250, timed={"tune": 20, "test": 15, "adaptive": 125}, rounds=5),
    "small": Sizes(importance=5, tune=7, test=5, timed={"tune": 5, "test": 2, "adaptive": 5}, rounds=2),
}


@dataclass
class Bench:
    """What all steps share: the configuration, the model behind its adapter, the data, and each other's results."""

    cfg: RunConfig
    ctx: RunContext
    done: dict[str, Result] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Samples that cannot be used, and why."""

    @property
    def task(self) -> ControllerConfig:
        """The task's settings."""
        task: ControllerConfig = self.cfg.task
        return task

    @cached_property
    def sizes(self) -> Sizes:
        """Sizes of the mode, with what the user set in their place."""
        sizes = SIZES[self.task.mode]
        if self.task.profile_samples is not None:
            most = self.task.profile_samples
            sizes = replace(sizes, importance=most, tune=most, test=most)
        if self.task.timed_samples is not None:
            sizes = replace(sizes, timed=dict.fromkeys(sizes.timed, self.task.timed_samples))
        return sizes if self.task.rounds is None else replace(sizes, rounds=self.task.rounds)

    @cached_property
    def adapter(self) -> Adapter:
        """The model, loaded when the first step asks for it."""
        from controller.adapter import open_adapter

        return open_adapter(self.ctx.model("vlm", self.cfg.hardware), self.task)

    @cached_property
    def kept(self) -> dict[int, tuple[int, ...]]:
        """Blocks that run at each depth, by C6."""
        from controller.steps.importance import scores

        ranked = scores(self.folder("importance"))
        return {depth: kept_blocks(ranked, depth) for depth in self.adapter.space.depths}

    @cached_property
    def data(self) -> VqaData:
        """Both splits of the data."""
        from controller.data import read_samples

        return read_samples(self.cfg.dataset)

    def samples(self, split: str, of_each: int) -> list[Sample]:
        """The first usable samples of every data set in a split, data sets taking turns; the others are told once.

        Raises:
            UserError: there is none, or with `strict` one is not usable.
        """
        by_set: dict[str, list[Sample]] = {}
        for sample in self.data.samples:
            found = by_set.setdefault(sample.dataset, [])
            if sample.split == split and len(found) < of_each and self._usable(sample):
                found.append(sample)
        longest = max(map(len, by_set.values()))
        if not longest:
            raise UserError(
                f"dataset={self.cfg.dataset.name} has no usable sample in its split `{split}`; the first that was "
                f"skipped: {next(iter(self.skipped.values()))}"
            )
        return [found[i] for i in range(longest) for found in by_set.values() if i < len(found)]

    def _usable(self, sample: Sample) -> bool:
        """Whether its row is whole, its image opens and its question fits; else it is skipped, or if `strict` the end.

        Raises:
            UserError: it is not usable, and the run is strict.
        """
        try:
            if sample.problem:
                raise UserError(sample.problem)
            sample.open()
            self.adapter.text(sample.question)
        except UserError as error:
            if self.cfg.strict:
                raise
            if sample.id not in self.skipped:
                log.warning("skipped: %s", error)
                self.skipped[sample.id] = str(error)
            return False
        return True

    def folder(self, name: str) -> Path:
        """Where a step that has been run left its files."""
        return FOLDER / f"{name}-{self.key(name)[:16]}"

    def key(self, name: str) -> str:
        """SHA-256 (hex) of all that can move a step's numbers."""
        step = STEPS[name]
        content = {
            "step": name,
            "settings": {option: _plain(getattr(self.task, option)) for option in step.settings},
            "needs": [self.key(other) for other in step.needs],
            "seed": self.cfg.seed,
            "model": self.revision,
            "data": self.data_digest,
            "machine": [self.machine, _plain(self.cfg.hardware)],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def machine(self) -> str:
        """What the model runs on: the GPU, or the processor."""
        import torch

        on_gpu = self.cfg.hardware.device != "cpu" and torch.cuda.is_available()
        return torch.cuda.get_device_name() if on_gpu else cpu_model()

    @cached_property
    def revision(self) -> str:
        """Identity of the model's weights."""
        from suite.models.revision import revision

        return revision(self.cfg.models["vlm"])

    @cached_property
    def data_digest(self) -> str:
        """Identity of the data and of how much of it is read."""
        return f"{self.cfg.dataset.digest()} {self.cfg.dataset.max_samples}"

    def result(self, name: str) -> Result:
        """What a step found, now or before.

        Raises:
            UserError: bad input, or a training that came to nothing.
        """
        if name not in self.done:
            for other in STEPS[name].needs:
                self.result(other)
            folder = self.folder(name)
            folder.mkdir(parents=True, exist_ok=True)
            with _turn(folder):
                self.done[name] = self._found(folder) or self._made(name, folder)
        return self.done[name]

    def _found(self, folder: Path) -> Result | None:
        path = folder / "step.json"
        try:
            metrics, facts = parse(path.read_bytes())
            found = {key: Metric(**{**row, "ci95": row["ci95"] and tuple(row["ci95"])}) for key, row in metrics.items()}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it, and the step is done again.") from error
        log.info("%s: found, nothing is computed again", folder.name)
        return Result(metrics=found, facts=facts)

    def _made(self, name: str, folder: Path) -> Result:
        log.info("step %s", name)
        result = STEPS[name].run(name, self, folder)
        stored = [{key: metric.to_json() for key, metric in result.metrics.items()}, result.facts]
        write_atomic(folder / "step.json", json.dumps(stored, ensure_ascii=False, allow_nan=False))
        return result


def _turn(folder: Path) -> AcquireReturnProxy[Any]:
    """Be alone at work on a step; who has to wait is told so."""
    lock = FileLock(folder / "lock")
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        log.info("%s: waits for the launch that is at work on it", folder.name)
        return lock.acquire()


def _plain(value: Any) -> Any:
    """A setting as JSON data."""
    return value if isinstance(value, str | int | float | list | Mapping | None) else asdict(value)
