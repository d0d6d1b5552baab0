"""Gates: when a drafted token goes to the cloud, and the two thresholds that reduce to known methods."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from edgecloud.gates import GATES, always, entropy
from edgecloud.schema import GATES as NAMES

nats = st.floats(0, 20)


@given(h=nats, threshold=st.floats(min_value=1e-9, max_value=20))
def test_entropy_sends_what_is_above_the_threshold(h: float, threshold: float) -> None:
    assert entropy(h, threshold) is (h > threshold)


@given(h=nats)
def test_threshold_zero_is_always_and_infinity_never(h: float) -> None:
    assert entropy(h, 0.0)
    assert not entropy(h, math.inf)
    assert always(h, math.inf)


def test_at_the_threshold_a_token_stays() -> None:
    assert not entropy(1.5, 1.5)


def test_every_name_a_user_can_type_is_there() -> None:
    assert set(GATES) == set(NAMES)
