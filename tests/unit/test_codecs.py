"""Codecs: sizes as told, back as sent, and lossless where they say so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from edgecloud.codecs import (
    HOP,
    Answer,
    Codec,
    Draft,
    encode_log_mel,
    encode_pcm16,
    encode_question,
    question_bytes,
    sound_bytes,
)
from edgecloud.schema import CODECS
from suite.errors import UserError

names = pytest.mark.parametrize("name", CODECS)


def distribution(seed: int, vocab: int) -> np.ndarray:
    p = np.random.default_rng(seed).random(vocab) ** 4
    return p / p.sum()


def draft_of(codec: Codec, seed: int, skipped: int, sent: int) -> Draft:
    luck = np.random.default_rng(seed)
    qs = [codec.arrives(distribution(seed + i, codec.vocab)) for i in range(sent)]
    return Draft(
        skipped=luck.integers(codec.vocab, size=skipped).tolist(),
        tokens=luck.integers(codec.vocab, size=sent).tolist(),
        unsure=(luck.random(sent) < 0.5).tolist(),
        q=qs if codec.q_bytes else None,
    )


@names
@settings(max_examples=40, deadline=None)
@given(
    vocab=st.sampled_from([2, 40, 255, 256, 859, 70_000]),
    skipped=st.integers(0, 70),
    sent=st.integers(0, 20),
    seed=st.integers(0, 2**32),
)
def test_a_draft_comes_back_and_is_as_long_as_told(name: str, vocab: int, skipped: int, sent: int, seed: int):
    codec = Codec(name=name, vocab=vocab, top=8)
    sent = min(sent, 2) if vocab > 1000 else sent
    draft = draft_of(codec, seed, skipped, sent)
    data = codec.encode(draft)
    assert len(data) == codec.up_bytes(skipped, sent)
    back = codec.decode(data)
    assert (back.skipped, back.tokens, back.unsure) == (draft.skipped, draft.tokens, draft.unsure)
    assert (back.q is None) == (draft.q is None)
    for token, sent_q, got in zip(draft.tokens if draft.q else [], draft.q or [], back.q or [], strict=True):
        if name == "residual":
            assert got[0] == np.float32(sent_q[token])
        else:
            np.testing.assert_allclose(got, sent_q, rtol=2**-10, atol=2**-24)


@pytest.mark.parametrize("name", ["topk", "full"])
def test_what_the_edge_draws_from_is_bit_for_bit_what_the_cloud_decodes(name: str):
    codec, p = Codec(name=name, vocab=300, top=5), distribution(1, 300)
    q = codec.arrives(p)
    data = codec.encode(Draft(skipped=[], tokens=[3], unsure=[True], q=[p]))
    assert (codec.decode(data).q[0] == q).all()
    assert (q > 0).sum() == (5 if name == "topk" else (p.astype("f2") > 0).sum())


@names
def test_an_answer_comes_back(name: str):
    codec = Codec(name=name, vocab=859)
    for answer in (Answer(stands=3, token=17), Answer(stands=2)):
        assert codec.decode_answer(codec.encode_answer(answer)) == answer
        assert len(codec.encode_answer(answer)) == codec.down_bytes(refused=False)
    if name == "residual":
        p = distribution(5, 859)
        data = codec.encode_answer(Answer(stands=1, p=p))
        assert len(data) == codec.down_bytes(refused=True)
        np.testing.assert_allclose(codec.decode_answer(data).p, p, rtol=2**-9, atol=2**-24)


def test_messages_of_another_codec_are_refused():
    ids, full = Codec(name="ids", vocab=859), Codec(name="full", vocab=859)
    data = ids.encode(Draft(skipped=[1], tokens=[2], unsure=[True]))
    for broken in (data[:-1], data + b"x", b"", data[:2]):
        with pytest.raises(UserError, match="must use the same codec"):
            ids.decode(broken)
    with pytest.raises(UserError, match="must use the same codec"):
        full.decode(data)
    with pytest.raises(UserError, match="names token 858, the vocabulary has 300"):
        Codec(name="ids", vocab=300).decode(ids.encode(Draft(skipped=[], tokens=[858], unsure=[True])))
    with pytest.raises(UserError, match="is none"):
        ids.decode_answer(b"abcdef")


@pytest.mark.parametrize("name", ["ids", "topk", "full"])
def test_sampling_over_it_is_lossless_where_it_says_so(name: str):
    """Leviathan's rule with what the codec lets the cloud know; 20,000 draws against p."""
    codec, vocab = Codec(name=name, vocab=12, top=4), 12
    assert codec.lossless(greedy=False)
    p, edge = distribution(2, vocab), distribution(9, vocab)
    counts = np.zeros(vocab)
    for draw_u, accept_u, replace_u in np.random.default_rng(0).random((20_000, 3)):
        token, q = codec.draw(edge, draw_u)
        if accept_u * q[token] >= p[token]:
            residual = (p - q).clip(min=0).cumsum()
            token = int(np.searchsorted(residual, replace_u * residual[-1], side="right"))
        counts[token] += 1
    assert chisquare(counts, p * counts.sum()).pvalue > 1e-3


def test_a_codec_that_hid_what_it_cut_would_not_be_lossless():
    """The planted bug: draw from the whole q, verify against its largest values."""
    codec, p, edge = Codec(name="topk", vocab=12, top=4), distribution(2, 12), distribution(9, 12)
    counts, full = np.zeros(12), Codec(name="full", vocab=12)
    for draw_u, accept_u, replace_u in np.random.default_rng(0).random((20_000, 3)):
        token, _ = full.draw(edge, draw_u)
        q = codec.arrives(edge)
        if accept_u * q[token] >= p[token]:
            residual = (p - q).clip(min=0).cumsum()
            token = int(np.searchsorted(residual, replace_u * residual[-1], side="right"))
        counts[token] += 1
    assert chisquare(counts, p * counts.sum()).pvalue < 1e-6


def test_only_the_residual_codec_rounds_the_clouds_distribution():
    assert [name for name in CODECS if not Codec(name=name, vocab=9).lossless(greedy=False)] == ["residual"]
    assert all(Codec(name=name, vocab=9).lossless(greedy=True) for name in CODECS)


@given(samples=st.integers(1, 1000), tokens=st.integers(0, 30))
def test_a_question_is_as_long_as_told(samples: int, tokens: int):
    codec, frames = Codec(name="ids", vocab=859), -(-samples // HOP)
    wave = np.linspace(-1, 1, samples, dtype=np.float32)
    sound = encode_pcm16(wave)
    assert len(sound) == sound_bytes("pcm16", 128, frames)
    assert np.frombuffer(sound, "<i2")[:samples] == pytest.approx(32767 * wave, abs=0.51)
    mel = encode_log_mel(np.zeros((128, frames), dtype=np.float32))
    assert len(mel) == sound_bytes("log_mel", 128, frames)
    asked = list(range(tokens))
    assert len(encode_question(asked, codec, sound)) == question_bytes(tokens, codec, len(sound))
