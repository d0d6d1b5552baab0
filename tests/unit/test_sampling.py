"""The distribution sampled from, the draw, entropy and the luck of a position."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud.sampling import Luck, Sampling, draw, entropy

LAST_U = float(np.nextafter(1.0, 0.0))
weights = st.lists(st.sampled_from([0.0, 0.0, 1e-300, 1e-9, 0.1, 0.5, 1.0, 3.0]), min_size=1, max_size=9).filter(any)
logit_rows = st.lists(st.floats(-30, 30) | st.just(-math.inf), min_size=1, max_size=30).filter(
    lambda row: max(row) > -math.inf
)
quick = settings(max_examples=60, deadline=None)


@given(row=logit_rows)
@quick
def test_entropy_is_scipys_and_absent_columns_carry_no_mass(row: list[float]) -> None:
    nats = entropy(torch.tensor(row))
    p = np.exp(np.array(row) - max(row))
    assert nats == pytest.approx(float(scipy.stats.entropy(p)), abs=2e-6)
    present = [x for x in row if x > -math.inf]
    assert nats == pytest.approx(entropy(torch.tensor(present)), abs=2e-6)


@pytest.mark.parametrize(
    ("row", "nats"), [([0.0] * 8, math.log(8)), ([0.0, -math.inf], 0.0), ([500.0, -500.0], 0.0), ([3.0], 0.0)]
)
def test_entropy_at_its_ends(row: list[float], nats: float) -> None:
    assert entropy(torch.tensor(row)) == pytest.approx(nats, abs=1e-6)


@given(mass=weights, u=st.floats(0, LAST_U))
@quick
def test_draw_is_the_inverse_cdf_and_never_of_zero_mass(mass: list[float], u: float) -> None:
    for at in (u, 0.0, LAST_U):
        index = draw(torch.tensor(mass, dtype=torch.float64), at)
        total = np.cumsum(np.array(mass))
        assert mass[index] > 0.0
        assert (total[index - 1] if index else 0.0) <= at * total[-1] <= total[index]


def test_draw_at_its_boundaries() -> None:
    p = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0], dtype=torch.float64)
    assert [draw(p, u) for u in (0.0, np.nextafter(0.25, 0), 0.25, LAST_U)] == [1, 1, 3, 3]
    assert draw(0.1 * p, LAST_U) == 3  # a residual need not be normalised
    assert draw(torch.full((49,), 1 / 49, dtype=torch.float64), LAST_U) == 48  # the sum falls short of 1
    assert draw(torch.full((49,), 1 / 49, dtype=torch.float32), LAST_U) == 48  # u becomes 1 in float32


@given(row=logit_rows, temperature=st.floats(0.1, 5.0), top_p=st.floats(0.01, 1.0))
@quick
def test_probabilities_are_the_nucleus_of_the_tempered_softmax(
    row: list[float], temperature: float, top_p: float
) -> None:
    found = Sampling(temperature=temperature, top_p=top_p).probabilities(torch.tensor(row)).numpy()
    logits = torch.tensor(row).double().numpy() / temperature
    full = np.exp(logits - logits.max())
    full /= full.sum()
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    kept = found > 0
    assert found[kept] == pytest.approx(full[kept] / full[kept].sum(), rel=1e-9)
    assert full[kept].sum() >= top_p - 1e-12  # the mass is reached
    assert full[kept].sum() - full[kept].min() < top_p + 1e-12  # and the set is the smallest
    assert full[~kept].max(initial=0.0) <= full[kept].min() * (1 + 1e-12)


def test_temperature_zero_is_greedy_and_its_distribution_the_one_hot_limit() -> None:
    assert Sampling().greedy
    assert not Sampling(temperature=0.1).greedy
    assert Sampling().probabilities(torch.tensor([0.1, 2.0, 2.0, -1.0])).tolist() == [0, 1, 0, 0]


def test_luck_belongs_to_seed_sample_purpose_and_position_whatever_the_order_of_calls() -> None:
    forward, backward = Luck(3, "a"), Luck(3, "a")
    positions = [0, 1, 1023, 1024, 5000, 2]
    one = [forward.uniform("draft", i) for i in positions]
    assert [backward.uniform("draft", i) for i in reversed(positions)] == one[::-1]
    others = [Luck(4, "a"), Luck(3, "b")]
    seen = [one, *([luck.uniform("draft", i) for i in positions] for luck in others)]
    seen += [[forward.uniform(purpose, i) for i in positions] for purpose in ("accept", "replace")]
    flat = [u for row in seen for u in row]
    assert len(set(flat)) == len(flat)
    assert all(0.0 <= u < 1.0 for u in flat)


def test_luck_is_uniform_and_its_purposes_independent() -> None:
    luck = Luck(0, "sample")
    draws = {purpose: [luck.uniform(purpose, i) for i in range(5000)] for purpose in ("draft", "accept", "replace")}
    for row in draws.values():
        assert scipy.stats.kstest(row, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(list(draws.values())) - np.eye(3)).max() < 0.06
