"""The precision a model is loaded in."""

from __future__ import annotations

import pytest

from suite.models import precision


@pytest.mark.parametrize(
    ("model", "hardware", "native", "expected"),
    [
        ("auto", "auto", True, "bfloat16"),
        ("auto", "auto", False, "float32"),
        ("auto", "float32", True, "float32"),
        ("bfloat16", "float32", False, "bfloat16"),  # the model's own choice wins, even where it is emulated
        ("float32", "bfloat16", True, "float32"),
    ],
)
def test_who_decides(monkeypatch: pytest.MonkeyPatch, model: str, hardware: str, native: bool, expected: str) -> None:
    monkeypatch.setattr(precision, "computes_bf16", lambda: native)
    assert precision.resolve(model, hardware, "cpu") == (expected, ())


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
@pytest.mark.parametrize("where", [("float16", "auto"), ("auto", "float16")])
def test_float16_on_a_cpu_is_changed_and_said(
    monkeypatch: pytest.MonkeyPatch, where: tuple[str, str], native: bool, expected: str
) -> None:
    monkeypatch.setattr(precision, "computes_bf16", lambda: native)
    dtype, (note,) = precision.resolve(*where, "cpu")
    assert dtype == expected
    assert expected in note
