"""A causal language model with a cache, asked one question: the logits after the last tokens of a sequence.

The caller names the whole sequence each time; the model finds how much of it stands in its cache, rolls back what
does not, and computes the rest. So no caller counts positions, and a roll-back can neither be forgotten nor go too far.
A model that hears gets the clip when the sequence begins, and listens to it when it is first asked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from edgecloud.lean import LeanLlama, Sound, lean_supports
from suite.errors import UserError

THINKER = "qwen2_5_omni_thinker"  # model_type of the models that hear


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model is asked: text, or text about a clip."""

    tokens: list[int]
    """At least one token id; where the clip goes, one audio placeholder for each of its embeddings."""
    audio: dict[str, Tensor] | None = None
    """`input_features` (1, mel bins, frames) and `feature_attention_mask` (1, frames); None when there is no clip."""


class Engine(Protocol):
    """A forward pass that keeps a cache; positions are appended by `feed` and dropped by `rollback`."""

    name: str
    """What a record calls it."""

    def feed(self, tokens: list[int], keep: int, sound: Sound | None = None) -> Tensor:
        """Append `tokens` (n), some of them replaced by `sound`; logits (keep, columns) after the last `keep`."""

    def rollback(self, length: int) -> None:
        """Drop all positions from `length` on."""


class TransformersEngine:
    """The model's own forward pass, whatever its architecture."""

    name = "transformers"

    def __init__(self, model: Any) -> None:
        self.model, self.length = model, 0
        self.rollback(0)

    def feed(self, tokens: list[int], keep: int, sound: Sound | None = None) -> Tensor:
        """See `Engine`; no model of this kind hears, so `sound` is None."""
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


class ThinkerEngine(TransformersEngine):
    """The forward pass of a Qwen2.5-Omni thinker, which takes embeddings so that it can be told what it hears."""

    def feed(self, tokens: list[int], keep: int, sound: Sound | None = None) -> Tensor:
        """See `Engine`."""
        ids = torch.tensor([tokens], device=self.model.device)
        inputs = self.model.get_input_embeddings()(ids)
        if sound is not None:
            inputs[0, sound.at] = sound.embeddings.to(inputs)
        # Of text and audio alone the three rows of positions are equal. They are always given, for what the module
        # would make up itself depends on the `rope_deltas` that the last user of the module left there.
        positions = torch.arange(self.length, self.length + len(tokens), device=ids.device).expand(3, 1, -1)
        self.length += len(tokens)
        hidden = self.model.model(
            inputs_embeds=inputs, position_ids=positions, past_key_values=self.cache, use_cache=True
        ).last_hidden_state
        logits: Tensor = self.model.lm_head(hidden[0, -keep:]).to(ids.device)
        return logits


class CachedLM:
    """One live sequence on one model.

    Attributes:
        vocab: token ids that count, from 0; models of one tokenizer may pad their vocabularies differently.
        width: logit columns that count.
        columns: token id of each logit column, or None when column = id (a shortened head has its own).
        ears: the model where it hears, else None.
        audio: the clip of the sequence, as in `Prompt`.
        heard: its embeddings (m, width); None until the model is asked.
        computed: positions computed since the last reset, re-computed ones included.
        seconds: time spent in the model since the last reset (measured).
    """

    def __init__(
        self, model: Any, *, vocab: int | None = None, engine: str | Engine = "lean", bits: int | None = None
    ) -> None:
        """Wrap a `transformers` causal model.

        Args:
            model: the model.
            vocab: see the class; None: the model's own.
            engine: `lean` where it knows the architecture, `transformers`, or one that is made already.
            bits: 4 or 8: pack the weights, see `LeanWeights`; None: leave them as they are.

        Raises:
            UserError: the weights cannot be packed.
        """
        self.ears = model if model.config.model_type == THINKER else None
        self.engine: Engine = _engine(model, engine, bits) if isinstance(engine, str) else engine
        self.engine_name = self.engine.name
        cfg = model.config.get_text_config(decoder=True)
        self.vocab = min(vocab or cfg.vocab_size, cfg.vocab_size)
        self.window: int = getattr(cfg, "max_position_embeddings", None) or 1 << 30
        self.columns: Tensor | None = None
        self.width = self.vocab
        if self.engine_name != "transformers" and getattr(model, "head_ids", None) is not None:
            self.columns = model.head_ids
            self.width = int((self.columns < self.vocab).sum())  # ids are ascending
        self.reset()

    def reset(self, audio: dict[str, Tensor] | None = None) -> None:
        """Forget the sequence and the meters; `audio` is that of the next sequence (see `Prompt`).

        Raises:
            UserError: the model hears nothing, or another kind of features.
        """
        if audio is not None:
            self._check_hears(audio)
        self.engine.rollback(0)
        self.cached: list[int] = []
        self.audio = audio
        self.heard: Tensor | None = None
        self.computed, self.seconds = 0, 0.0

    @torch.inference_mode()
    def logits(self, sequence: list[int], keep: int = 1) -> Tensor:
        """Logits (keep, columns), float32, after each of the last `keep` tokens of `sequence`.

        Raises:
            UserError: the sequence is longer than the model's window, or has no place for its audio.
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
        logits = self.engine.feed(new, keep, self._sound(sequence, common))[:, : self.width].float()
        self.cached = self.cached[:common] + new
        self.computed += len(new)
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        self.seconds += time.perf_counter() - start
        return logits

    def _sound(self, sequence: list[int], start: int) -> Sound | None:
        """What is heard at `sequence[start:]`: the i-th placeholder of the sequence stands for the i-th embedding.

        Placeholders past the last embedding are words like any other: the model may write one.
        """
        if self.audio is None or self.ears is None:
            return None
        placeholder = self.ears.config.audio_token_id
        if self.heard is None:  # now and not before, so that the time to the first token contains it
            audio = {name: tensor.to(self.ears.device) for name, tensor in self.audio.items()}
            heard: Tensor = self.ears.get_audio_features(**audio).last_hidden_state
            if (places := sequence.count(placeholder)) < len(heard):
                raise UserError(
                    f"The prompt has {places} audio placeholders for {len(heard)} embeddings of its clip; "
                    "use two models of one family, whose special tokens are the same."
                )
            self.heard = heard
        first = sequence[:start].count(placeholder)
        rest = self.heard[first:]
        at = [i for i, token in enumerate(sequence[start:]) if token == placeholder][: len(rest)]
        return Sound(at, rest[: len(at)]) if at else None

    def _check_hears(self, audio: dict[str, Tensor]) -> None:
        if self.ears is None:
            raise UserError("The model hears no audio; choose a Qwen2.5-Omni model, or a data set of texts.")
        bins, found = self.ears.config.audio_config.num_mel_bins, audio["input_features"].shape[1]
        if bins != found:
            raise UserError(
                f"The model hears {bins} mel bins and the prompt has {found}; use an edge and a cloud of one family."
            )

    def token(self, column: int) -> int:
        """Token id of a logit column."""
        return column if self.columns is None else int(self.columns[column])

    def column(self, token: int) -> int:
        """Logit column of a token id that has one."""
        return token if self.columns is None else int(torch.searchsorted(self.columns, token))

    def spread(self, values: Tensor) -> Tensor:
        """Per-column `values` (columns,) as (vocab,) by token id, 0 where the model has no column."""
        if self.columns is None:
            return values
        full = values.new_zeros(self.vocab)
        full[self.columns[: self.width]] = values
        return full


def _engine(model: Any, name: str, bits: int | None) -> Engine:
    if name == "lean" and lean_supports(model):
        return LeanLlama(model, bits)
    if bits is not None:
        raise UserError(
            f"models.*.quantization on a CPU needs task.engine=lean and an architecture that it knows, and this is a "
            f"{model.config.model_type} on engine {name}; set it to none."
        )
    return ThinkerEngine(model) if model.config.model_type == THINKER else TransformersEngine(model)
