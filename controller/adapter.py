"""A vision-language model behind the knobs: one answer at a time, with its parts timed in that same run.

The knobs are the image's tier (eyes.py), the experts a token and the decoder blocks (knobs.py). A question is
tokenised by `ask`; an answer is made in two halves, `see` and `answer`, so that a controller can read the question
before it picks the tier, and look at what was seen before it picks the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from controller import crops
from controller.decoder import Decoder
from controller.eyes import Eyes, LlavaEyes
from controller.knobs import SPARSE, gate_of, knobs
from controller.molmo import Molmo2Eyes
from controller.schema import ControllerConfig
from controller.space import Space
from controller.timing import Stopwatch, Times
from controller.words import Words
from suite.errors import ConfigError, UserError, check_choice
from suite.models.loading import Loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An image at a tier as the decoder gets it."""

    tier: str
    tokens: Tensor
    """Vision tokens (1, tokens, width)."""
    times: Times
    """`vision_encoder_ms`, the making of the crops included, and `projector_ms`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question as the decoder gets it."""

    question: str
    ids: Tensor
    """Of the prompt after the image (length,), the mark before the answer included."""
    ms: float
    """What tokenising took: done once, for whoever decides and for the model, it is part of the prefill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One greedy answer and what it took."""

    answer: str
    token_ids: tuple[int, ...]
    """Of the answer, its end included."""
    vision_tokens: int
    text_tokens: int
    parts: dict[str, float]
    """Each of `table.PARTS` in ms. Prefill has the tokenizing of the question and the setting of the knobs in it, and
    yields the first token; decode is what follows, about 0 when nothing does."""
    total_ms: float
    """The question and both halves from start to end, measured apart from the parts."""

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer, its end included."""
        return len(self.token_ids)


class Adapter:
    """One loaded model; made by `open_adapter`.

    Attributes:
        model: the transformers model.
        space: the settings of the knobs.
        depth: decoder blocks in all.
        width: of a token.
        device: where the model is.
        decoder: the decoder block by block.
        before: ids of the prompt before the image, (length,).
        end_ids: tokens that end an answer.
    """

    def __init__(self, loaded: Loaded, task: ControllerConfig, eyes: Eyes) -> None:
        """Check the knobs against the model.

        Raises:
            ConfigError: the model has no such setting of a knob.
        """
        self.model = loaded.model
        self.device = torch.device(loaded.device)
        self.end_ids = _end_ids(loaded)
        self._eyes, self._mode = eyes, task.top_k_mode
        self._embedding = self.model.get_input_embeddings()
        self._stack = self.model.model.language_model
        self.decoder = Decoder(self.model)
        text = self.model.config.get_text_config()
        self.depth, self.width = len(self._stack.layers), int(text.hidden_size)
        self.space = _space(task, self._stack)
        self._words = Words(loaded, room=_room(task, eyes, text.max_position_embeddings))
        self.before = self._words.before.to(self.device)

    def pixels(self, image: Image.Image, tier: str) -> Tensor:
        """Crops of one image, (crops, ...), on the CPU; of any size and mode, what is transparent on white."""
        return self._eyes.pixels(image, tier)

    def encode(self, pixels: Tensor) -> Tensor:
        """Features of the vision tower (n, features, its width) from the crops of n images (n, crops, ...)."""
        return self._eyes.encode(pixels.to(self.device, self.model.dtype))

    def project(self, features: Tensor) -> Tensor:
        """Vision tokens (n, vision tokens, width)."""
        return self._eyes.project(features)

    def text(self, question: str) -> Tensor:
        """Ids (length,) of the prompt after the image, the mark before the answer included.

        Raises:
            UserError: the question is empty or too long.
        """
        return self._words.text(question)

    def decode_text(self, ids: Sequence[int]) -> str:
        """The answer that these tokens are, without its end."""
        return self._words.decode(ids)

    def ask(self, question: str) -> Asked:
        """The question, tokenised.

        Raises:
            UserError: the question is empty or too long.
        """
        start = time.perf_counter()
        ids = self.text(question)
        return Asked(question=question, ids=ids, ms=1000 * (time.perf_counter() - start))

    def language(self, question: str, ids: Tensor) -> npt.NDArray[np.float32]:
        """Mean word embedding of the question (width,): the language feature of C3.

        Args:
            question: as asked.
            ids: its tokens, from `text`.
        """
        rows = self._rows[self._words.words(question, ids)]
        mean: npt.NDArray[np.float32] = np.add.reduce(rows, axis=0) / np.float32(len(rows))
        return mean

    @cached_property
    def _rows(self) -> npt.NDArray[np.float32]:
        """Word embeddings (tokens, width), copied once: of so few rows numpy has the mean before torch has begun."""
        with torch.inference_mode():
            table: Tensor = self._embedding(torch.arange(len(self._words), device=self.device))
            return table.float().cpu().numpy()

    def embed(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """What the decoder reads (n, length, width): what stands before the image, the image, the text.

        Args:
            tokens: vision tokens (n, vision tokens, width).
            ids: of the text (n, text tokens), from `text`.
        """
        parts = [tokens, self._embedding(ids.to(self.device)).to(tokens.dtype)]
        if len(self.before):
            parts.insert(0, self._embedding(self.before).to(tokens.dtype).expand(len(tokens), -1, -1))
        return torch.cat(parts, dim=1)

    def mask(self, length: int, vision_tokens: int) -> Tensor | None:
        """Who attends to whom in a prompt of `length`, bool (1, 1, length, length); None: causal.

        Molmo2's vision tokens attend to each other both ways.
        """
        if not self._eyes.two_way:
            return None
        image = torch.zeros(length, dtype=torch.bool, device=self.device)
        image[len(self.before) : len(self.before) + vision_tokens] = True
        causal = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        return (causal | (image[:, None] & image))[None, None]

    def knobs(self, top_k: int, kept: Sequence[int]) -> AbstractContextManager[None]:
        """Within this, the model routes to `top_k` experts (0: it has none) and has only the blocks `kept`."""
        return knobs(self.model, top_k=top_k, kept=kept, mode=self._mode)

    def see(self, image: Image.Image, tier: str) -> Seen:
        """First half: the image's vision tokens at a tier."""
        watch = Stopwatch(self.device)
        with torch.inference_mode():
            features = self.encode(self.pixels(image, tier)[None])
            watch.lap("vision_encoder_ms")
            tokens = self.project(features)
            watch.lap("projector_ms")
        return Seen(tier=tier, tokens=tokens, times=watch.stop())

    def answer(self, seen: Seen, asked: Asked, *, top_k: int, kept: Sequence[int], max_new_tokens: int) -> Run:
        """Second half: the greedy answer, with a KV cache.

        Args:
            seen: from `see`.
            asked: from `ask`, about the image.
            top_k: experts a token; 0: the model has none.
            kept: numbers of the decoder blocks that run.
            max_new_tokens: tokens of the answer at most.
        """
        watch = Stopwatch(self.device)
        with torch.inference_mode(), self.knobs(top_k, kept):
            cache = DynamicCache()
            embeds = self.embed(seen.tokens, asked.ids[None])
            said = [self._next(embeds, cache, self.mask(embeds.shape[1], seen.tokens.shape[1]))]
            watch.lap("prefill_ms")
            while said[-1] not in self.end_ids and len(said) < max_new_tokens:
                embeds = self._embedding(torch.tensor([said[-1:]], device=self.device))
                said.append(self._next(embeds, cache, None))
            watch.lap("decode_ms")
        times = watch.stop()
        parts = seen.times.parts | times.parts
        return Run(
            answer=self.decode_text(said),
            token_ids=tuple(said),
            vision_tokens=seen.tokens.shape[1],
            text_tokens=len(asked.ids),
            parts=parts | {"prefill_ms": asked.ms + parts["prefill_ms"]},
            total_ms=asked.ms + seen.times.total_ms + times.total_ms,
        )

    def run(
        self, image: Image.Image, question: str, *, tier: str, top_k: int, kept: Sequence[int], max_new_tokens: int
    ) -> Run:
        """One question about one image in one configuration.

        Raises:
            UserError: the question is empty or too long.
        """
        asked, seen = self.ask(question), self.see(image, tier)
        return self.answer(seen, asked, top_k=top_k, kept=kept, max_new_tokens=max_new_tokens)

    def _next(self, embeds: Tensor, cache: Any, mask: Tensor | None) -> int:
        """The likeliest token after these, which the cache gains."""
        out = self._stack(inputs_embeds=embeds, past_key_values=cache, attention_mask=mask, use_cache=True)
        return int(self.model.lm_head(out.last_hidden_state[:, -1]).argmax())


def open_adapter(loaded: Loaded, task: ControllerConfig) -> Adapter:
    """The adapter for a loaded model, its experts pinned to do only what is asked of them.

    Raises:
        UserError: models of this kind cannot be driven.
        ConfigError: the model has no such setting of a knob.
    """
    model, kind = loaded.model, loaded.model.config.model_type
    if kind not in ("llava", "molmo2"):
        own = " (Molmo-1 brings its own code, which is written for transformers 4)" if kind == "molmo" else ""
        raise UserError(
            f"models.vlm.id={loaded.spec.id} is of type {kind}{own}, which the controller cannot drive; choose a Llava "
            "(over OLMoE for the top-k knob) or a Molmo2."
        )
    stack = model.model.language_model
    if len(set(getattr(stack.config, "layer_types", None) or [])) > 1:
        raise UserError(
            f"models.vlm.id={loaded.spec.id} mixes kinds of attention, so its blocks cannot be left out one by one; "
            "choose a model with the same attention in every block."
        )
    if any(gate_of(block) for block in stack.layers):
        # the grouped variants are slow on a CPU, and not monotone in top-k
        stack.set_experts_implementation(SPARSE)
    # eager attention adds its mask to the scores, so the truth values of `Decoder.block` would hide nothing
    stack.set_attn_implementation("sdpa")
    llava = kind == "llava"
    eyes = LlavaEyes(model, loaded.folder) if llava else Molmo2Eyes(model, loaded.tokenizer, loaded.folder)
    return Adapter(loaded, task, eyes)


def _end_ids(loaded: Loaded) -> frozenset[int]:
    ends = loaded.model.generation_config.eos_token_id
    ends = loaded.tokenizer.eos_token_id if ends is None else ends
    return frozenset([ends] if isinstance(ends, int) else ends or [])


def _space(task: ControllerConfig, stack: Any) -> Space:
    """The settings of the knobs; see `Adapter`."""
    for tier in task.tiers:
        check_choice("task.tiers", tier, crops.TIERS)
    if task.tiers != sorted(task.tiers, key=crops.count):
        raise ConfigError(f"task.tiers={task.tiers} must go from cheap to dear, as {list(crops.TIERS)} do.")
    depth, gate = len(stack.layers), gate_of(stack.layers[0])
    if gate is not None and task.top_ks[-1] > gate.num_experts:
        raise ConfigError(f"task.top_ks={task.top_ks}: the model has {gate.num_experts} experts; ask for no more.")
    if task.blocks[-1] > depth:
        raise ConfigError(f"task.blocks={task.blocks}: the model has {depth} decoder blocks; ask for no more.")
    return Space(
        tiers=tuple(task.tiers), top_ks=(0,) if gate is None else tuple(task.top_ks), depths=tuple(task.blocks)
    )


def _room(task: ControllerConfig, eyes: Eyes, positions: int) -> int:
    """Text tokens that fit beside the largest image and the longest answer."""
    most = max(eyes.tokens(tier) for tier in task.tiers)
    room = positions - most - task.max_new_tokens
    if room <= 0:
        raise ConfigError(
            f"task.tiers={task.tiers}: an image takes {most} of the model's {positions} positions and leaves no room "
            f"for a question and {task.max_new_tokens} tokens of an answer; leave the dearest tier out."
        )
    return room
