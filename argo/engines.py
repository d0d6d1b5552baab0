"""The engine that a configuration asks for. No torch here.

A model is loaded when the first call must be made: a run whose answers are all in the store loads none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from argo.calls import Call, Engine, Failure, Reply
from argo.schema import ArgoConfig
from suite.config import RunConfig
from suite.errors import UserError
from suite.models import precision, sources
from suite.models.loading import load, place
from suite.models.revision import revision
from suite.models.spec import ModelConfig

HANDED = 4
"""Calls handed over for each that is computed at the same time, so that none that ends leaves its place empty."""
TURN_TOKENS = 128
"""What a chat template may put around a prompt."""


def open_engine(cfg: RunConfig) -> Engine:
    """The engine of `cfg.task`.

    Raises:
        UserError: the model is not configured, cannot be found or placed on this machine.
    """
    task: ArgoConfig = cfg.task
    if task.engine == "openai":
        from argo.openai_engine import OpenAIEngine

        return OpenAIEngine(task)
    if "llm" not in cfg.models:
        raise UserError("models.llm is not configured; task.engine=transformers needs it. Choose models=smollm2_rag.")
    return InProcess(cfg)


class InProcess:
    """transformers on every replica that the GPU mode places; see `Engine`."""

    def __init__(self, cfg: RunConfig) -> None:
        """Find the model and decide where it goes, without loading it."""
        task: ArgoConfig = cfg.task
        self.spec: ModelConfig = cfg.models["llm"]
        self.task, self.hardware = task, cfg.hardware
        self.replicas = place(self.spec, hardware=cfg.hardware, gpu_mode=cfg.gpu_mode).replicas
        self.batch = HANDED * task.batch_size * len(self.replicas)
        self.words = sources.tokenizer_folder(sources.folder(self.spec))
        dtype, _ = precision.resolve(self.spec.dtype, cfg.hardware.dtype, self.replicas[0].device)
        quantized = self.spec.quantization != "none"
        template = sources.chat_template(self.words) if task.prompt_format != "plain" else None
        told = f"{self.spec.quantization} ({dtype})" if quantized else dtype
        self.identity = identity(self.spec, revision(self.spec), told, template)

    @cached_property
    def engine(self) -> Engine:
        """The loaded model.

        Raises:
            UserError: it cannot be loaded, or not be run as the task asks.
        """
        from argo.pool import ReplicaPool
        from argo.transformers_engine import TransformersEngine

        engines = [
            TransformersEngine(
                load(self.spec, placement=replica, hardware=self.hardware),
                prompt_format=self.task.prompt_format,
                rows=self.task.batch_size,
            )
            for replica in self.replicas
        ]
        return engines[0] if len(engines) == 1 else ReplicaPool(engines)

    @cached_property
    def window(self) -> int:
        """As the loaded engine's."""
        config = sources.read_config(sources.folder(self.spec))
        config = config.get("text_config", config)
        limit = config.get("max_position_embeddings")
        return self.engine.window if limit is None else window(int(limit), self.task.prompt_format)

    def tokens(self, text: str) -> int:
        """As the loaded engine counts."""
        return (
            len(self._tokenizer.encode(text, add_special_tokens=False)) if self._tokenizer else self.engine.tokens(text)
        )

    def answer(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """See `Engine`; the first calls wait for the model to be loaded."""
        return self.engine.answer(calls)

    @cached_property
    def _tokenizer(self) -> Any:
        """The tokenizer without transformers, None where it has no such file."""
        from tokenizers import Tokenizer

        path = self.words / "tokenizer.json"
        return Tokenizer.from_file(str(path)) if path.is_file() else None


def window(limit: int, prompt_format: str) -> int:
    """Tokens for a prompt and its answer, of a model that sees `limit`."""
    return limit - (0 if prompt_format == "plain" else TURN_TOKENS)


def identity(spec: ModelConfig, weights: str, dtype: str, template: str | None) -> dict[str, Any]:
    """What decides an answer beside the call.

    Args:
        spec: which model.
        weights: its revision.
        dtype: the precision it computes in, and its quantisation.
        template: of a chat; None where no prompt becomes a turn.
    """
    return {
        "engine": "transformers",
        "version": version("transformers"),
        "source": spec.source,
        # a folder's revision says what is in it, and where it stands decides no answer
        "model": Path(spec.id).name if spec.source == "path" else spec.id,
        "revision": weights,
        "dtype": dtype,
        "template": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
    }
