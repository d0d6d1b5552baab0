"""Gates: which drafted tokens go to the cloud, formula by formula, and the thresholds that reduce to known methods."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud.draft import Drafted, spread_of
from edgecloud.gates import GATES, TEMPERATURES, adaedl, always, confidence, entropy, oracle, random, uhlm, uncertainty
from edgecloud.sampling import Luck
from edgecloud.schema import GATES as NAMES
from edgecloud.schema import SENDS_ALL, STOPS

INF = math.inf
SENDS_NOTHING = {"entropy": INF, "confidence": 0.0, "adaedl": -1000.0, "uhlm": 1.0, "random": 0.0, "oracle": INF}
quick = settings(max_examples=60, deadline=None)
rows = st.lists(st.floats(-30, 30) | st.just(-INF), min_size=1, max_size=12).filter(lambda row: max(row) > -INF)


def drafted(row: list[float], chance: float = 0.0, surprise_nats: float = 0.0) -> Drafted:
    """The greedy draft of a row of logits."""
    logits = torch.tensor(row)
    column = int(logits.argmax())
    nats, most = spread_of(logits)
    return Drafted(
        token=column,
        entropy_nats=nats,
        confidence=most,
        logits=logits,
        column=column,
        chance=chance,
        surprise_nats=surprise_nats,
    )


def test_every_name_a_user_can_type_is_there() -> None:
    assert set(GATES) == set(NAMES)
    assert set(STOPS) - {"none"} < set(GATES)
    assert set(SENDS_ALL) == set(GATES) - {"always"}


@given(row=rows, chance=st.floats(0, float(np.nextafter(1, 0))), surprise=st.floats(0, 50))
@quick
def test_one_end_of_each_scale_is_always_and_the_other_never(row: list[float], chance: float, surprise: float) -> None:
    d = drafted(row, chance, surprise)
    for name, threshold in SENDS_ALL.items():
        assert GATES[name](d, threshold), name
        assert not GATES[name](d, SENDS_NOTHING[name]), name
    assert always(d, INF)


def test_an_edge_certain_to_the_last_bit_goes_where_the_threshold_means_always() -> None:
    d = drafted([500.0, -500.0], surprise_nats=0.0)
    assert (d.entropy_nats, d.confidence) == (0.0, 1.0)
    assert uncertainty(torch.tensor([500.0, -500.0]), 0) == 0.0
    assert all(GATES[name](d, threshold) for name, threshold in SENDS_ALL.items())
    for name, threshold in {"entropy": 1e-9, "confidence": 1 - 1e-9, "adaedl": 1 - 1e-9, "uhlm": 1e-9}.items():
        assert not GATES[name](d, threshold)


@given(row=rows, threshold=st.floats(min_value=1e-6, max_value=5))
@quick
def test_the_formulas(row: list[float], threshold: float) -> None:
    p = np.exp(np.array(row) - max(row))
    p /= p.sum()
    nats = -sum(x * math.log(x) for x in p if x > 0)
    d, near = drafted(row), 1e-4
    for gate, value, sign in (
        (entropy, nats, 1),
        (confidence, p.max(), -1),
        (adaedl, 1 - math.sqrt(0.2 * nats), -1),
    ):
        if abs(value - threshold) > near and threshold != 1.0:
            assert gate(d, threshold) == (sign * value > sign * threshold), gate


def test_at_the_threshold_a_token_stays() -> None:
    d = Drafted(token=0, entropy_nats=1.25, confidence=0.5, uncertainty=0.25, chance=0.5, surprise_nats=2.0)
    for gate, threshold in ((entropy, 1.25), (confidence, 0.5), (uhlm, 0.25), (random, 0.5), (oracle, 2.0)):
        assert not gate(d, threshold)
        further = {confidence: 1, random: 1}.get(gate, -1)
        assert gate(d, threshold + further * 1e-9)
    assert not adaedl(d, 1 - math.sqrt(0.25))
    assert adaedl(d, 1 - math.sqrt(0.25) + 1e-9)


@pytest.mark.parametrize("name", ["entropy", "confidence", "adaedl", "uhlm"])
def test_a_flatter_edge_is_never_surer(name: str) -> None:
    row = [3.0, 1.0, 0.0, -1.0]
    sent = [
        [GATES[name](drafted([x * sharpness for x in row]), threshold) for sharpness in (8.0, 2.0, 1.0, 0.5, 0.0)]
        for threshold in (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
    ]
    assert all(flags == sorted(flags) for flags in sent)
    assert any(len(set(flags)) == 2 for flags in sent)  # and it does tell some apart


def test_uncertainty_is_how_often_a_draw_at_another_temperature_says_another_token() -> None:
    logits, luck = torch.tensor([2.0, 1.0, 0.5, -1.0]), np.random.default_rng(0)
    others = 0
    for temperature in TEMPERATURES.tolist():
        p = torch.softmax(logits.double() / temperature, -1).numpy()
        others += (luck.choice(4, size=2000, p=p) != 1).sum()
    assert uncertainty(logits, 1) == pytest.approx(others / (2000 * len(TEMPERATURES)), abs=0.01)


def test_uncertainty_is_asked_once() -> None:
    d = drafted([1.0, 0.5])
    assert uhlm(d, 0.1)
    first, d.logits = d.uncertainty, None
    assert uhlm(d, 0.1) and d.uncertainty == first


def test_random_sends_its_share() -> None:
    luck = Luck(0, "share")
    for rate in (0.1, 0.5, 0.9):
        sent = sum(random(Drafted(token=0, chance=luck.uniform("gate", i)), rate) for i in range(4000))
        assert sent / 4000 == pytest.approx(rate, abs=0.03)
