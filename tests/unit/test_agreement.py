"""Agreement with the cloud's recorded text: what was cut by length compares only as far as both go."""

from __future__ import annotations

import pytest

from edgecloud.counters import Counters
from edgecloud.decode import Ending, Output
from edgecloud.metrics import agreement


def output(tokens: list[int], limit: int) -> Output:
    out = Output(Ending(max_new_tokens=limit), Counters())
    for token in tokens:
        out.commit(token, "cloud", 0.0)
    return out


def test_no_recorded_text_is_no_agreement_rather_than_zero():
    assert agreement(output([1, 2], 8), None) == {"agreement": None, "same_prefix": None}


@pytest.mark.parametrize(
    ("tokens", "limit", "recorded", "ended", "prefix"),
    [
        ([1, 2, 3], 3, [1, 2, 3, 4, 5], True, 1.0),  # cut here: the rest was never asked for
        ([1, 2, 3, 4, 5], 8, [1, 2, 3], False, 1.0),  # cut there
        ([1, 2, 3], 8, [1, 2, 3, 4, 5], True, 0.6),  # ended here by itself, too early
        ([1, 2, 3, 4, 5], 8, [1, 2, 3], True, 0.6),  # went on where the cloud had ended
    ],
)
def test_cut_texts(tokens: list[int], limit: int, recorded: list[int], ended: bool, prefix: float):
    scores = agreement(output(tokens, limit), {"tokens": recorded, "ended": ended})
    assert scores["same_prefix"] == prefix
    assert (scores["agreement"] == 1) == (prefix == 1)
