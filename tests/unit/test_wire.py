"""Messages between edge and cloud: what is packed comes back, and nothing else gets in."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.lm import Prompt
from edgecloud.wire import (
    KINDS,
    BadMessage,
    Begin,
    Judge,
    Open,
    Peek,
    Refused,
    Surprises,
    Verdicts,
    pack,
    packed_audio,
    packed_q,
    unpack,
    unpacked_prompt,
    unpacked_q,
)
from tests.served import card
from tests.tiny import sound


def begin(**changes: Any) -> Begin:
    settings: dict[str, Any] = {
        "seed": 1,
        "sample": "s",
        "verification": "rank",
        "temperature": 0.0,
        "top_p": 1.0,
        "rank_threshold": 3,
        "surprise_threshold_nats": float("inf"),
        "cloud_weight": 0.5,
        "tokens": (1, 2, 3),
    }
    return Begin(**settings | changes)


def judge(**changes: Any) -> Judge:
    settings: dict[str, Any] = {"known": 2, "new": (5,), "drafted": (7, 8), "unsure": (True, False), "room": 9}
    return Judge(**settings | changes)


@pytest.mark.parametrize(
    "message",
    [
        Open(version=1),
        card(40, eos=(2, 0), hears=True),
        begin(),
        judge(q=((b"", b"12345678"),)),
        Peek(known=0, new=(), drafted=(1,)),
        Verdicts(tokens=(7, 9), sources=(1, 3), seconds=0.25, computed=12),
        Surprises(nats=(0.5,), seconds=0.0, computed=1),
        Refused(sentence="The text has 9 tokens."),
    ],
    ids=lambda message: type(message).__name__,
)
def test_every_message_comes_back_as_it_was(message: Any) -> None:
    assert unpack(pack(message), type(message)) == message


def test_a_round_costs_few_bytes() -> None:
    assert len(pack(judge(known=100, new=(3000, 4000), drafted=(5000, 6000, 7000), unsure=(True, False, True)))) < 30


def change(message: Any, **changes: Any) -> bytes:
    """The message with fields that its class would not take."""
    fields = {name: changes.get(name, getattr(message, name)) for name in type(message).__slots__}
    return bytes(msgpack.packb([KINDS.index(type(message)), *fields.values()]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1",
        msgpack.packb(7),
        msgpack.packb([]),
        msgpack.packb([99]),
        msgpack.packb([-1]),
        msgpack.packb([True, 1]),
        msgpack.packb(["open", 1]),
        msgpack.packb([0, 1]),  # an Open, which has no place here
        pack(judge()) + b"x",
        pack(judge())[:-1],
        msgpack.packb([KINDS.index(Judge), 0]),
        change(judge(), known=-1),
        change(judge(), known=True),
        change(judge(), known=2.0),
        change(judge(), new=5),
        change(judge(), new=["5"]),
        change(judge(), new=[None]),
        change(judge(), unsure=[1, 0]),
        change(judge(), unsure=[True]),
        change(judge(), room=0),
        change(judge(), room=1),  # less than was drafted
        change(judge(), room=2**40),
        change(judge(), q=[[b"", b""], [b"", b""]]),
        change(judge(), q=[[b""]]),
        change(judge(), q=[["", ""]]),
        change(begin(), seed=-1),
        change(begin(), seed=2**63),
        change(begin(), sample=b"s"),
        change(begin(), verification="trust me"),
        change(begin(), temperature=float("nan")),
        change(begin(), temperature=-1.0),
        change(begin(), top_p=0.0),
        change(begin(), rank_threshold=0),
        change(begin(), surprise_threshold_nats=-1.0),
        change(begin(), cloud_weight=1.5),
        change(begin(), tokens=[]),
        change(begin(), mels=8),
        change(begin(), mels=8, features=b"1234", mask=b"1"),
        change(begin(), mels=-1),
        change(begin(), mask=b"1"),
        change(Peek(known=0, new=(), drafted=(1,)), drafted=[]),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        unpack(data, Begin, Judge, Peek)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_bad_message(data: bytes) -> None:
    with contextlib.suppress(BadMessage):
        unpack(data, *KINDS)


@pytest.mark.parametrize("zeros", [0, 20, 39, 40])
def test_a_distribution_comes_back_bit_for_bit(zeros: int) -> None:
    q = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(zeros))
    q[:zeros] = 0.0
    packed = packed_q(q)
    assert torch.equal(unpacked_q(packed, 40), q)
    assert len(packed[0] + packed[1]) == min(320, 12 * (40 - zeros) or 320)  # whichever is shorter


@pytest.mark.parametrize(
    "packed",
    [
        (b"", b""),
        (b"", b"1234567"),
        packed_q(torch.ones(39, dtype=torch.float64)),
        packed_q(torch.full((40,), float("nan"), dtype=torch.float64)),
        packed_q(-torch.ones(40, dtype=torch.float64)),
        packed_q(torch.nn.functional.one_hot(torch.tensor(40), 41).double()),
        (b"\0\0\0\0" * 2, b"\0" * 8),
    ],
)
def test_what_is_no_distribution_is_refused(packed: tuple[bytes, bytes]) -> None:
    with pytest.raises(BadMessage):
        unpacked_q(packed, 40)


def test_a_clip_comes_back_bit_for_bit() -> None:
    asked = Prompt(tokens=[1, 2, 3], audio=sound(5, 17))
    found = unpacked_prompt(unpack(pack(begin(**packed_audio(asked))), Begin))
    assert found.tokens == asked.tokens
    assert found.audio is not None and asked.audio is not None
    assert {name: value.dtype for name, value in found.audio.items()} == {
        name: value.dtype for name, value in asked.audio.items()
    }
    assert all(torch.equal(found.audio[name], asked.audio[name]) for name in asked.audio)
    assert unpacked_prompt(begin()).audio is None
