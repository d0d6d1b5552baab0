"""What an edge and a cloud process say to each other: eight messages, packed with msgpack, checked to the last field.

A message is an array: its kind, then its fields in the order of its class. Whatever does not fit raises `BadMessage`
before anything is done with it. What is lossless in one process stays so across two: features travel as float32, the
distribution a token was drawn from as float64.

What this does not know: gRPC, models, and whether token ids exist; session.py checks those.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import msgpack
import numpy as np
import torch
from torch import Tensor

from edgecloud.counters import SOURCES
from edgecloud.lm import Prompt
from edgecloud.verify import VERIFIERS

VERSION = 1
"""Of these messages; both sides must speak the same."""
METHOD = "/edgecloud.Cloud/Session"
"""The one gRPC method, a stream both ways: a session lasts as long as its stream."""
TOKEN = "edgecloud-token"
"""Metadata key of the shared secret."""

Packed = tuple[bytes, bytes]
"""A distribution: token ids (uint32; none where it is dense) and their probabilities (float64), little-endian."""


class BadMessage(ValueError):
    """Bytes that are no message, or a message whose fields cannot be."""


def require(holds: bool, what: str) -> None:
    """Raise `BadMessage` unless it holds."""
    if not holds:
        raise BadMessage(what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Edge, once: begins a session."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Cloud, once: what model it is, for the edge to check before the first sample."""

    version: int
    model: str
    revision: str
    """See `suite.models.revision`."""
    dtype: str
    device: str
    engine: str
    hardware: str
    """Name of the hardware profile."""
    parameters: int
    vocab: int
    """Token ids that count, from 0."""
    tokenizer: str
    """See `tokenizer_digest`."""
    eos: tuple[int, ...]
    hears: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Edge: a new sample. Not answered, so that the upload overlaps with drafting; the next answer may be `Refused`."""

    seed: int
    sample: str
    """With `seed`, the luck of all draws (`sampling.Luck`)."""
    verification: str
    temperature: float
    top_p: float
    rank_threshold: int
    surprise_threshold_nats: float
    cloud_weight: float
    tokens: tuple[int, ...]
    mels: int = 0
    """Mel bins of the clip; 0: there is none."""
    features: bytes = b""
    """float32 (mels, frames), little-endian."""
    mask: bytes = b""
    """One byte a frame."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "begin.seed is out of range")
        require(self.verification in VERIFIERS, "begin.verification is unknown")
        require(0 <= self.temperature <= 10, "begin.temperature is out of range")
        require(0 < self.top_p <= 1, "begin.top_p is out of range")
        require(self.rank_threshold >= 1, "begin.rank_threshold is out of range")
        require(self.surprise_threshold_nats >= 0, "begin.surprise_threshold_nats is out of range")
        require(0 <= self.cloud_weight <= 1, "begin.cloud_weight is out of range")
        require(len(self.tokens) > 0, "begin.tokens is empty")
        require(0 <= self.mels <= 1024, "begin.mels is out of range")
        require(len(self.features) == 4 * self.mels * len(self.mask), "begin.features has the wrong size")
        require((self.mels > 0) == (len(self.mask) > 0), "begin.mask has the wrong size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Edge: one round, see `verify.Cloud.judge`."""

    known: int
    """Tokens of the output that the cloud was told before."""
    new: tuple[int, ...]
    """Those after them."""
    drafted: tuple[int, ...]
    unsure: tuple[bool, ...]
    room: int
    q: tuple[Packed, ...] = ()
    """What each unsure token was drawn from, where the verifier looks at it."""

    def __post_init__(self) -> None:
        require(self.known >= 0, "judge.known is out of range")
        require(1 <= self.room <= 1 << 20, "judge.room is out of range")
        require(len(self.drafted) <= self.room, "judge.drafted is longer than judge.room")
        require(len(self.unsure) == len(self.drafted), "judge.unsure has the wrong length")
        require(len(self.q) in (0, sum(self.unsure)), "judge.q has the wrong length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
    """Edge: see `verify.Cloud.peek`; fields as in `Judge`."""

    known: int
    new: tuple[int, ...]
    drafted: tuple[int, ...]

    def __post_init__(self) -> None:
        require(self.known >= 0, "peek.known is out of range")
        require(0 < len(self.drafted) <= 1 << 20, "peek.drafted has the wrong length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Cloud: answers `Judge`, at most one more than was drafted."""

    tokens: tuple[int, ...]
    sources: tuple[int, ...]
    """Indices into `counters.SOURCES`."""
    seconds: float
    """Time in the model since `Begin` (measured)."""
    computed: int
    """Positions it computed since then."""

    def __post_init__(self) -> None:
        require(len(self.tokens) == len(self.sources) > 0, "verdicts.sources has the wrong length")
        require(all(0 <= source < len(SOURCES) for source in self.sources), "verdicts.sources is out of range")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surprises:
    """Cloud: answers `Peek`; `seconds` and `computed` as in `Verdicts`."""

    nats: tuple[float, ...]
    seconds: float
    computed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Cloud: this sample cannot be done, and why in one sentence; the next one may."""

    sentence: str


KINDS: tuple[type, ...] = (Open, Card, Begin, Judge, Peek, Verdicts, Surprises, Refused)


def pack(message: Any) -> bytes:
    """A message as bytes."""
    values = [getattr(message, field.name) for field in fields(message)]
    packed: bytes = msgpack.packb([KINDS.index(type(message)), *values])
    return packed


def unpack(data: bytes, *legal: type[Any]) -> Any:
    """The message in `data`.

    Raises:
        BadMessage: it is not one of the `legal` kinds, or not well formed.
    """
    try:
        found = msgpack.unpackb(data, use_list=False)
    except Exception as error:  # msgpack documents no common base: ValueError, UnpackException, UnicodeDecodeError
        raise BadMessage("the bytes are no message") from error
    require(isinstance(found, tuple) and len(found) > 0 and type(found[0]) is int, "the bytes are no message")
    kind = KINDS[found[0]] if 0 <= found[0] < len(KINDS) else None
    if kind is None or kind not in legal:
        raise BadMessage(f"a message of kind {found[0]} has no place here")
    hints = _hints(kind)
    require(len(found) == len(hints) + 1, f"{kind.__name__.lower()} has {len(found) - 1} fields")
    for (name, hint), value in zip(hints, found[1:], strict=True):
        require(_is(value, hint), f"{kind.__name__.lower()}.{name} has the wrong type")
    return kind(**{name: value for (name, _), value in zip(hints, found[1:], strict=True)})


@cache
def _hints(kind: type) -> tuple[tuple[str, Any], ...]:
    """Names and types of a message's fields, in order."""
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in fields(kind))


def _is(value: Any, hint: Any) -> bool:
    """Whether `value` is exactly of the type; a bool is no int, a NaN no float."""
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_is(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(_is(item, one) for item, one in zip(value, inner, strict=True))
    return type(value) is hint and not (hint is float and math.isnan(value))


def packed_q(q: Tensor) -> Packed:
    """A distribution (vocab,), by its ids where most of it is zero (a nucleus, a shortened head); exact either way."""
    dense = q.detach().cpu().numpy().astype("<f8", copy=False)
    ids = np.flatnonzero(dense)
    if 0 < 12 * len(ids) < 8 * len(dense):
        return ids.astype("<u4").tobytes(), dense[ids].tobytes()
    return b"", dense.tobytes()


def unpacked_q(packed: Packed, vocab: int) -> Tensor:
    """The distribution (vocab,), float64.

    Raises:
        BadMessage: it is none over `vocab` ids.
    """
    ids, mass = packed
    require(len(mass) % 8 == 0 and len(ids) % 4 == 0, "judge.q has the wrong size")
    values = np.frombuffer(mass, "<f8").astype(np.float64)
    require(bool(np.isfinite(values).all()) and bool((values >= 0).all()), "judge.q is no distribution")
    if not ids:
        require(len(values) == vocab, "judge.q has the wrong size")
        return torch.from_numpy(values)
    at = np.frombuffer(ids, "<u4").astype(np.int64)
    require(len(at) == len(values) and int(at.max()) < vocab, "judge.q has the wrong size")
    full = torch.zeros(vocab, dtype=torch.float64)
    full[torch.from_numpy(at)] = torch.from_numpy(values)
    return full


def packed_audio(prompt: Prompt) -> dict[str, Any]:
    """The fields of `Begin` for a prompt's clip."""
    if prompt.audio is None:
        return {}
    features = prompt.audio["input_features"][0].cpu().numpy().astype("<f4", copy=False)
    mask = prompt.audio["feature_attention_mask"][0].cpu().numpy().astype("u1")
    return {"mels": features.shape[0], "features": features.tobytes(), "mask": mask.tobytes()}


def unpacked_prompt(begin: Begin) -> Prompt:
    """The prompt of a sample, with its clip."""
    if begin.mels == 0:
        return Prompt(tokens=list(begin.tokens))
    features = np.frombuffer(begin.features, "<f4").astype(np.float32).reshape(1, begin.mels, -1)
    mask = np.frombuffer(begin.mask, "u1").astype(np.int64)[None]
    audio = {"input_features": torch.from_numpy(features), "feature_attention_mask": torch.from_numpy(mask)}
    return Prompt(tokens=list(begin.tokens), audio=audio)


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 (hex) of which text each token id stands for."""
    words = "\0".join(f"{token}\0{number}" for token, number in sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(words.encode(errors="surrogatepass")).hexdigest()
