"""`task.sweep=replay`: the trace of a job, and what decodes from it in place of the models."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from edgecloud import task as live
from edgecloud.data import Sample
from edgecloud.decode import OnToken, Output
from edgecloud.lm import CachedLM, Prompt
from edgecloud.manifest import file_sha256
from edgecloud.pair import Pair, load_pair
from edgecloud.replay import Tape
from edgecloud.schema import SpecDecConfig, VoicesConfig
from edgecloud.trace import SampleTrace, open_trace
from suite.config import RunConfig
from suite.context import RunContext
from suite.errors import UserError
from suite.models import sources
from suite.models.loading import place
from suite.models.precision import resolve
from suite.models.revision import revision

FOLDER = Path("outputs") / ".traces"


class Replay:
    """The samples of a job, played from its trace; the models are loaded when the trace first ends.

    Attributes:
        pair: as the task knows it, with a tape instead of models.
        facts: what the record says of the trace.
    """

    def __init__(self, cfg: RunConfig, ctx: RunContext) -> None:
        """Open the trace, or begin one.

        Raises:
            UserError: it is no trace or one of something else; or there is none, and `refuse` asks for one.
        """
        self.task: SpecDecConfig = cfg.task
        self.cfg, self.ctx = cfg, ctx
        origin = made_of(cfg)
        mark = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
        path = Path(self.task.trace).expanduser() if self.task.trace else FOLDER / f"{mark[:16]}.jsonl"
        self.trace = open_trace(path, origin)
        self._models: Pair | None = None
        goes_live = self.task.on_trace_end == "live"
        if self.trace.about is None:
            if not goes_live:
                raise UserError(f"There is no trace {path}; record one with task.on_trace_end=live.")
            pair = self._load()
            models = {name: {**facts, "load_s": None} for name, facts in pair.facts.items()}
            words = {"eos": sorted(pair.eos), "vocab": pair.vocab, "placeholder": pair.placeholder}
            self.trace.begin({"models": models, "configs": pair.configs, **words})
        assert self.trace.about is not None
        about = self.trace.about
        self.tape = Tape(self.trace.costs, self._both if goes_live else None)
        self.pair = Pair(
            edge=None,
            cloud=None,
            processor=None,
            tokenizer=_tokenizer(sources.folder(cfg.models["cloud"])),
            eos=frozenset(about["eos"]),
            facts=about["models"],
            configs=about["configs"],
            vocab=about["vocab"],
            placeholder=about["placeholder"],
            tape=self.tape,
        )
        self.facts = {"trace": {"file": path.as_posix(), "fingerprint": mark}}
        self._decode = live.decoder(self.task, self.pair, cfg.seed)

    def ask(self, sample: Sample) -> tuple[Prompt, float | None]:
        """As `task.ask`, from the trace where it has the sample; then the prompt comes without its clip.

        Raises:
            UserError: the sample is broken, or not in the trace where it may not grow, or another one there.
        """
        if sample.problem:
            raise UserError(sample.problem)
        asked = hashlib.sha256(sample.prompt.encode())
        if sample.clip is not None:
            asked.update(file_sha256(sample.clip).encode())
        found = self.trace.samples.get(sample.id)
        if found is None:
            if self.task.on_trace_end == "refuse":
                raise UserError(f"The trace does not hold {sample.id}; set task.on_trace_end=live to record it.")
            prompt, features_ms = live.ask(sample, self._load())
            found = self.trace.add(
                SampleTrace(
                    id=sample.id,
                    asked=asked.hexdigest(),
                    prompt=prompt.tokens,
                    features_ms=features_ms,
                    sound=None if prompt.audio is None else _shape(prompt.audio["input_features"]),
                )
            )
        if found.asked != asked.hexdigest():
            raise UserError(f"The trace holds another sample {sample.id}; give another task.trace.")
        # whoever prices the upload looks at the shape; the sound itself is fetched if a model must hear it
        audio = found.sound and {"input_features": torch.empty(1, *found.sound, device="meta")}
        return Prompt(tokens=found.prompt, audio=audio or None), found.features_ms

    def decode(self, sample: Sample, prompt: Prompt, on_token: OnToken | None = None) -> Output:
        """As the live decoder; what the models had to be asked is kept before anything else.

        Raises:
            UserError: the trace ends and may not grow.
        """
        recorded, tape = self.trace.samples[sample.id], self.tape
        tape.begin(recorded, lambda: live.ask(sample, self._load())[0])
        output: Output = self._decode(sample, prompt, on_token)
        self._counts = {"consulted": tape.consulted, "replayed": tape.consulted - tape.live, "live_calls": tape.calls}
        if tape.calls:
            self.trace.save(recorded)
            tape.begin(recorded, lambda: live.ask(sample, self._load())[0])
            output = self._decode(sample, prompt)  # now that its calls have prices
        return output

    def counts(self) -> dict[str, float | None]:
        """Of the last sample: positions at which a model was consulted, those answered by the trace, live calls."""
        return dict(self._counts)

    def _both(self) -> tuple[CachedLM, CachedLM]:
        pair = self._load()
        assert pair.edge is not None and pair.cloud is not None
        return pair.edge, pair.cloud

    def _load(self) -> Pair:
        if self._models is None:
            self._models = load_pair(self.ctx, self.task)
            if isinstance(self.cfg.dataset, VoicesConfig):
                live.check_hears(self._models)
        return self._models


def made_of(cfg: RunConfig) -> dict[str, Any]:
    """What the facts of a trace depend on: models, their precision and engine, data, and what is asked.

    Not how much is decoded, gated, or drafted: any such setting reads and extends the same trace.
    """
    task: SpecDecConfig = cfg.task
    made: dict[str, Any] = {"task.engine": task.engine}
    for name, hardware in (("edge", cfg.hardware), ("cloud", task.cloud_hardware)):
        if name not in cfg.models:
            raise UserError(f"models.{name} is not configured; a trace is of two models.")
        spec = cfg.models[name]
        device = place(spec, hardware=hardware, gpu_mode=cfg.gpu_mode).replicas[0].device
        made[f"models.{name}"] = revision(spec)
        made[f"models.{name}.dtype"] = resolve(spec.dtype, hardware.dtype, device)[0]
        made[f"models.{name}.quantization"] = spec.quantization
        made[f"models.{name}.device"] = device.partition(":")[0]
    dataset = cfg.dataset
    if isinstance(dataset, VoicesConfig):
        made["dataset"] = file_sha256(Path(dataset.audio).expanduser() if dataset.audio else dataset.file())
        for name in ("caption_type", "language", "prompt_type"):
            made[f"dataset.{name}"] = getattr(dataset, name)
    else:
        made["dataset"] = file_sha256(dataset.file())
    return made


def _shape(features: torch.Tensor) -> tuple[int, int]:
    """Mel bins and frames of (1, bins, frames)."""
    _, bins, frames = features.shape
    return bins, frames


@cache
def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(sources.tokenizer_folder(folder), local_files_only=True)
