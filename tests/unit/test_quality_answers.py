"""Answers by SQuAD's rules, and agreement of token ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.errors import UserError
from suite.quality import AnswerMatch, TokenAgreement
from suite.quality.squad import normalise, token_f1
from suite.quality.tokens import position_share, prefix_share, rouge_l


def test_answers_follow_squad() -> None:
    assert normalise("The  Cat's, a-b!") == "cats ab"
    assert token_f1("the red red cat", "a red cat") == pytest.approx(0.8)
    result = AnswerMatch().compute(
        predictions=["The Eiffel Tower.", "red circle", "", "a"],
        references=[["eiffel tower"], ["blue circle", "red"], ["x"], [""]],
    )
    assert result["per_sample"] == {
        "exact_match": [1.0, 0.0, 0.0, 1.0],
        "f1": pytest.approx([1.0, 2 / 3, 0.0, 1.0]),
    }
    assert result["exact_match"] == 0.5


def test_token_agreement_counts() -> None:
    result = TokenAgreement().compute(
        predictions=[[1, 2, 3, 4], [1, 2], [], [], [9]], references=[[1, 2, 9, 4], [1, 2, 3, 4], [], [5], [5]]
    )
    assert result["per_sample"] == {
        "exact_match": [0.0, 0.0, 1.0, 0.0, 0.0],
        "prefix": [0.5, 0.5, 1.0, 0.0, 0.0],
        "positions": [0.75, 0.5, 1.0, 0.0, 0.0],
    }
    assert (result["exact_match"], result["prefix"], result["positions"]) == pytest.approx((0.2, 0.4, 0.45))


ids = st.lists(st.integers(0, 3), max_size=6)


@given(ids, ids)
def test_token_agreement_is_one_only_for_identical_sequences(a: list[int], b: list[int]) -> None:
    assert (prefix_share(a, b) == 1) == (position_share(a, b) == 1) == (a == b)
    assert prefix_share(a, b) == prefix_share(b, a)
    assert 0 <= prefix_share(a, b) <= position_share(a, b) <= 1
    assert (rouge_l(a, b) == 1) == (a == b)
    assert rouge_l(a, b) == rouge_l(b, a)
    assert prefix_share(a, b) <= rouge_l(a, b) <= 1


def test_rouge_l_survives_an_inserted_token() -> None:
    assert rouge_l([1, 2, 3, 4], [9, 1, 2, 3, 4]) == pytest.approx(8 / 9)
    assert prefix_share([1, 2, 3, 4], [9, 1, 2, 3, 4]) == 0


def test_token_metrics_refuse_mismatched_samples() -> None:
    with pytest.raises(UserError, match="TokenAgreement: 1 predictions but 0"):
        TokenAgreement().compute(predictions=[[1]], references=[])
