"""A causal language model with a cache, asked one question: the logits after the last tokens of a sequence.

The caller names the whole sequence each time; the model finds how much of it stands in its cache, rolls back what
does not, and computes the rest. So no caller counts positions, and a roll-back can neither be forgotten nor go too far.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch
from torch import Tensor

from edgecloud.lean import LeanLlama, lean_supports
from suite.errors import UserError


class Engine(Protocol):
    """A forward pass that keeps a cache; positions are appended by `feed` and dropped by `rollback`."""

    def feed(self, tokens: list[int], keep: int) -> Tensor:
        """Append `tokens` (n); logits (keep, columns) after the last `keep` of them."""

    def rollback(self, length: int) -> None:
        """Drop all positions from `length` on."""


class TransformersEngine:
    """The model's own forward pass, whatever its architecture."""

    def __init__(self, model: Any) -> None:
        self.model, self.length = model, 0
        self.rollback(0)

    def feed(self, tokens: list[int], keep: int) -> Tensor:
        """See `Engine`."""
        ids = torch.tensor([tokens], device=self.model.device)
        self.length += len(tokens)
        out = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=keep)
        logits: Tensor = out.logits[0]
        return logits

    def rollback(self, length: int) -> None:
        """See `Engine`."""
        from transformers import DynamicCache

        if length == 0:
            # without a config every layer keeps all positions; a sliding-window layer could not be rolled back
            self.cache = DynamicCache()
        elif length < self.length:
            self.cache.crop(length - self.length)
        self.length = length


class CachedLM:
    """One live sequence on one model.

    Attributes:
        vocab: token ids that count, from 0; models of one tokenizer may pad their vocabularies differently.
        width: logit columns that count.
        columns: token id of each logit column, or None when column = id (a shortened head has its own).
        computed: positions computed since the last reset, re-computed ones included.
        seconds: time spent in the model since the last reset (measured).
    """

    def __init__(self, model: Any, *, vocab: int | None = None, engine: str = "lean") -> None:
        """Wrap a `transformers` causal model; `engine` is `lean` where it knows the architecture, or `transformers`."""
        self.engine_name = engine if engine != "lean" or lean_supports(model) else "transformers"
        self.engine: Engine = LeanLlama(model) if self.engine_name == "lean" else TransformersEngine(model)
        self.vocab = min(vocab or model.config.vocab_size, model.config.vocab_size)
        self.window: int = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        self.columns: Tensor | None = None
        self.width = self.vocab
        if self.engine_name == "lean" and getattr(model, "head_ids", None) is not None:
            self.columns = model.head_ids
            self.width = int((self.columns < self.vocab).sum())  # ids are ascending
        self.cached: list[int] = []
        self.computed, self.seconds = 0, 0.0

    def reset(self) -> None:
        """Forget the sequence and the meters."""
        self.engine.rollback(0)
        self.cached = []
        self.computed, self.seconds = 0, 0.0

    @torch.inference_mode()
    def logits(self, sequence: list[int], keep: int = 1) -> Tensor:
        """Logits (keep, columns), float32, after each of the last `keep` tokens of `sequence`.

        Raises:
            UserError: the sequence is longer than the model's window.
        """
        if len(sequence) > self.window:
            raise UserError(
                f"The text has {len(sequence)} tokens, the model's window {self.window}; shorten the prompt."
            )
        start = time.perf_counter()
        common = min(len(self.cached), len(sequence) - keep)
        while self.cached[:common] != sequence[:common]:  # at most a draft's length: only its tail can differ
            common -= 1
        if common < len(self.cached):
            self.engine.rollback(common)
        new = sequence[common:]
        logits = self.engine.feed(new, keep)[:, : self.width].float()
        self.cached = self.cached[:common] + new
        self.computed += len(new)
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        self.seconds += time.perf_counter() - start
        return logits

    def token(self, column: int) -> int:
        """Token id of a logit column."""
        return column if self.columns is None else int(self.columns[column])

    def spread(self, values: Tensor) -> Tensor:
        """Per-column `values` (columns,) as (vocab,) by token id, 0 where the model has no column."""
        if self.columns is None:
            return values
        full = values.new_zeros(self.vocab)
        full[self.columns[: self.width]] = values
        return full
