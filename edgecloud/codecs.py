"""What goes over the network, byte for byte: drafts up, verdicts down, and once the question with its clip. No torch.

Every field has a fixed width, so that the size of a message follows from counts (`up_bytes`, `down_bytes`), and a clock
can price a run that never encoded anything; tests hold the sizes to `len(encode(...))`.

A codec also says what the cloud may know of the edge's distribution q, and so what the edge must do for the output to
stay the cloud's own (`draw`):

ids       token ids alone. To the cloud each draft is certain (q has all its mass on it), and verification of a certain
          draft x, accepted with probability p(x), is lossless whatever x was drawn from; only fewer tokens stand.
topk      ids and the `top` largest probabilities in 16 bit. The edge draws from what the cloud will decode.
full      the whole distribution in 16 bit. The edge draws from what the cloud will decode.
residual  ids and q(token) in 32 bit up; on a refusal the cloud's distribution in 16 bit down, and the edge, which has
          q, draws from the residual (Distributed Split Speculative Decoding, arXiv:2507.12000). The cloud's
          distribution is rounded on the way, so this one is not exactly lossless when sampling.

Greedy verification looks at no q, so then every codec is lossless.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from suite.errors import UserError

Floats = npt.NDArray[np.float64]

HOP = 160
"""Samples of one 10 ms frame at 16 kHz; a clip is sent in whole frames."""
_COUNTS = struct.Struct("<HB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A message up.

    Attributes:
        skipped: tokens committed on the edge's word since the last message, which the cloud must catch up on.
        tokens: those to judge, at most 255.
        unsure: which of them are to be verified.
        q: of each what the cloud may know: a distribution (vocab,); with `residual` its one value at the token;
            None where the codec carries none.
    """

    skipped: list[int]
    tokens: list[int]
    unsure: list[bool]
    q: list[Floats] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A message down.

    Attributes:
        stands: how many of the tokens stand.
        token: the cloud's own next token; None where the output has no room for it, or `p` came instead.
        p: the cloud's distribution (vocab,) where the edge is to draw the replacement itself (`residual`).
    """

    stands: int
    token: int | None = None
    p: Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """One of `schema.CODECS` for a vocabulary of `vocab` token ids."""

    name: str
    vocab: int
    top: int = 16
    """`topk`: probabilities sent of each token."""

    @property
    def id_bytes(self) -> int:
        """Width of a token id; the largest value of that width means no token."""
        return next(width for width in (1, 2, 3, 4) if self.vocab < 256**width)

    @property
    def q_bytes(self) -> int:
        """Bytes that say what the cloud may know of one token's q."""
        kept = min(self.top, self.vocab)
        return {"ids": 0, "topk": kept * (self.id_bytes + 2), "full": 2 * self.vocab, "residual": 4}[self.name]

    def up_bytes(self, skipped: int, sent: int) -> int:
        """Size of a draft of so many tokens to catch up on and to judge."""
        return _COUNTS.size + -(-sent // 8) + self.id_bytes * (skipped + sent) + self.q_bytes * sent

    def down_bytes(self, *, refused: bool) -> int:
        """Size of an answer."""
        return 1 + (2 * self.vocab if refused and self.name == "residual" else self.id_bytes)

    def lossless(self, *, greedy: bool) -> bool:
        """Whether lossless verification stays lossless over it (proved in tests/unit/test_codecs.py)."""
        return greedy or self.name != "residual"

    def draw(self, p: Floats, u: float) -> tuple[int, Floats]:
        """A token drawn from the edge's distribution `p` (vocab,) with u in [0, 1), and the q to verify it against.

        Where p is rounded or cut on its way, the token is drawn from what arrives, so both sides hold the same q.
        """
        q = self.arrives(p)
        cumulative = q.cumsum()
        token = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
        token = min(token, int(q.nonzero()[0][-1]))
        if self.name == "ids":
            q = np.zeros_like(q)
            q[token] = 1.0
        return token, q

    def arrives(self, p: Floats) -> Floats:
        """`p` (vocab,) as the cloud would decode it."""
        if self.name in ("ids", "residual"):
            return p
        return self._read_q(self._q(p, 0), 0)

    def encode(self, draft: Draft) -> bytes:
        """The bytes of a message up."""
        parts = [_COUNTS.pack(len(draft.skipped), len(draft.tokens))]
        parts.append(np.packbits(np.array(draft.unsure, dtype=bool), bitorder="little").tobytes())
        parts += [self._id(token) for token in (*draft.skipped, *draft.tokens)]
        if self.q_bytes:
            assert draft.q is not None
            parts += [self._q(q, token) for q, token in zip(draft.q, draft.tokens, strict=True)]
        return b"".join(parts)

    def decode(self, data: bytes) -> Draft:
        """What the cloud may use of a message up.

        Raises:
            UserError: the message is not of the length it claims, or names a token that does not exist.
        """
        if len(data) < _COUNTS.size:
            raise UserError(f"A draft of {len(data)} bytes is too short; edge and cloud must use the same codec.")
        skipped, sent = _COUNTS.unpack_from(data)
        if len(data) != (expected := self.up_bytes(skipped, sent)):
            raise UserError(
                f"A draft of {skipped} + {sent} tokens has {len(data)} bytes instead of {expected}; edge and cloud "
                f"must use the same codec ({self.name}) and vocabulary ({self.vocab})."
            )
        at = _COUNTS.size
        mask = np.frombuffer(data, dtype=np.uint8, count=-(-sent // 8), offset=at)
        at += len(mask)
        ids = [self._read_id(data, at + i * self.id_bytes) for i in range(skipped + sent)]
        if max(ids, default=0) >= self.vocab:
            raise UserError(f"A draft names token {max(ids)}, the vocabulary has {self.vocab}; use one family.")
        at += len(ids) * self.id_bytes
        return Draft(
            skipped=ids[:skipped],
            tokens=ids[skipped:],
            unsure=np.unpackbits(mask, count=sent, bitorder="little").astype(bool).tolist(),
            q=[self._read_q(data, at + i * self.q_bytes) for i in range(sent)] if self.q_bytes else None,
        )

    def encode_answer(self, answer: Answer) -> bytes:
        """The bytes of a message down."""
        if answer.p is not None:
            return bytes([answer.stands]) + answer.p.astype("<f2").tobytes()
        return bytes([answer.stands]) + self._id(256**self.id_bytes - 1 if answer.token is None else answer.token)

    def decode_answer(self, data: bytes) -> Answer:
        """What the edge may use of a message down.

        Raises:
            UserError: no answer has this length.
        """
        if len(data) == 1 + self.id_bytes:
            token = self._read_id(data, 1)
            return Answer(stands=data[0], token=token if token < self.vocab else None)
        if len(data) != self.down_bytes(refused=True):
            raise UserError(f"An answer of {len(data)} bytes is none; edge and cloud must use the same codec.")
        return Answer(stands=data[0], p=_normal(np.frombuffer(data, dtype="<f2", offset=1).astype(np.float64)))

    def _id(self, token: int) -> bytes:
        return token.to_bytes(self.id_bytes, "little")

    def _read_id(self, data: bytes, at: int) -> int:
        return int.from_bytes(data[at : at + self.id_bytes], "little")

    def _q(self, q: Floats, token: int) -> bytes:
        if self.name == "residual":
            return struct.pack("<f", q[token])
        if self.name == "full":
            return q.astype("<f2").tobytes()
        best = np.argsort(-q, kind="stable")[: self.top]
        return b"".join(map(self._id, map(int, best))) + q[best].astype("<f2").tobytes()

    def _read_q(self, data: bytes, at: int) -> Floats:
        if self.name == "residual":
            return np.array(struct.unpack_from("<f", data, at))
        if self.name == "full":
            return _normal(np.frombuffer(data, dtype="<f2", count=self.vocab, offset=at).astype(np.float64))
        kept = min(self.top, self.vocab)
        q = np.zeros(self.vocab)
        ids = [self._read_id(data, at + i * self.id_bytes) for i in range(kept)]
        q[ids] = np.frombuffer(data, dtype="<f2", count=kept, offset=at + kept * self.id_bytes)
        return _normal(q)


def encode_question(tokens: list[int], codec: Codec, sound: bytes = b"") -> bytes:
    """The question: ids of its text (the clip's placeholders left out), then the clip."""
    ids = b"".join(token.to_bytes(codec.id_bytes, "little") for token in tokens)
    return struct.pack("<HI", len(tokens), len(sound)) + ids + sound


def question_bytes(tokens: int, codec: Codec, sound: int = 0) -> int:
    """Size of a question of so many text tokens and bytes of sound."""
    return struct.calcsize("<HI") + tokens * codec.id_bytes + sound


def encode_pcm16(wave: npt.NDArray[np.float32]) -> bytes:
    """A clip (samples,) at 16 kHz in [-1, 1] as 16-bit samples, padded with silence to whole frames of 10 ms."""
    whole = np.pad(wave, (0, -len(wave) % HOP))
    return (np.clip(whole, -1.0, 1.0) * 32767).round().astype("<i2").tobytes()


def encode_log_mel(features: npt.NDArray[np.float32]) -> bytes:
    """Log-mel features (mel bins, frames) in 16 bit: the edge has computed them already."""
    return features.astype("<f2").tobytes()


def sound_bytes(name: str, bins: int, frames: int) -> int:
    """Size of a clip of so many 10 ms frames in one of `schema.AUDIO_CODECS`."""
    return 2 * frames * (HOP if name == "pcm16" else bins)


def _normal(q: Floats) -> Floats:
    """With sum 1 again."""
    normal: Floats = q / q.sum()
    return normal
