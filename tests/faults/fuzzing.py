"""Files broken in every way: values replaced, fields lost, bytes cut, flipped and put in."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.errors import UserError

FEW = 30
"""Inputs of each check in a quick run."""
JUNK: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            -1,
            10**30,
            1e308,
            float("nan"),
            float("inf"),
            "",
            " ",
            "x",
            "0",
            "\ud800",
            "../../x",
            "a\0b",
        ]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.builds(lambda one: [one], st.none() | st.integers() | st.text(max_size=2)),
    st.builds(lambda one: {"x": one}, st.none() | st.integers()),
    st.just([]),
    st.just({}),
)


def many(total: int) -> pytest.MarkDecorator:
    """Runs a check on few inputs quickly, and on `total` of them in a slow run."""
    return pytest.mark.parametrize("inputs", [FEW, pytest.param(total, marks=pytest.mark.slow)])


def fuzz(
    inputs: int, figures: Counter[str], what: st.SearchStrategy[Any], check: Callable[[Any], object]
) -> Counter[str]:
    """Give so many inputs to `check`, which may answer, or say with a `UserError` in one sentence what is wrong.

    Returns:
        How many ended in `answers` and in `sentences`. The quick run takes the same inputs every time.
    """
    ends: Counter[str] = Counter()

    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=inputs == FEW,
        suppress_health_check=list(HealthCheck),
    )
    @given(what)
    def one(value: Any) -> None:
        figures["fuzzed inputs"] += 1
        try:
            check(value)
            ends["answers"] += 1
        except UserError as error:
            assert_sentence(error)
            ends["sentences"] += 1

    one()
    return ends


def assert_sentence(error: UserError) -> None:
    """It is one line, it can be printed, and it says something."""
    said = str(error)
    said.encode()
    assert said.strip() and said.count("\n") == 0 and "Traceback" not in said, said


def broken_json(whole: Any, edits: int = 3) -> st.SearchStrategy[bytes]:
    """The JSON text of `whole`, of which up to so many places and some bytes are not what they were."""
    return st.composite(_broken)(whole, edits)


def broken_lines(rows: list[Any]) -> st.SearchStrategy[bytes]:
    """The same of JSON lines; lines are lost, doubled and swapped too."""

    @st.composite
    def lines(draw: st.DrawFn) -> bytes:
        chosen = draw(st.lists(st.sampled_from(range(len(rows))), min_size=0, max_size=len(rows) + 1))
        at = draw(st.integers(0, len(rows)))
        text = [draw(broken_json(rows[i])) if n == at else json.dumps(rows[i]).encode() for n, i in enumerate(chosen)]
        return b"\n".join(text) + draw(st.sampled_from([b"\n", b"", b"\n\n"]))

    return lines()


def broken_bytes(whole: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes cut, replaced, put in."""
    return st.composite(_bytes)(whole)


def _broken(draw: st.DrawFn, whole: Any, edits: int) -> bytes:
    tree = [copy.deepcopy(whole)]
    for _ in range(draw(st.integers(0, edits))):
        places = list(_places(tree))
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        if holder is tree or draw(st.integers(0, 3)):
            holder[key] = draw(JUNK)
        else:
            del holder[key]
    text = json.dumps(tree[0], ensure_ascii=draw(st.booleans())).encode(errors="replace")
    if draw(st.integers(0, 200)) == 0:
        return b"[" * 1_100 + text
    return _bytes(draw, text) if draw(st.integers(0, 2)) == 0 else text


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) there is."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else []
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def _bytes(draw: st.DrawFn, text: bytes) -> bytes:
    at = draw(st.integers(0, len(text)))
    put, cut = draw(st.binary(max_size=3)), draw(st.sampled_from([0, 1, 5, len(text)]))
    return text[:at] + put + text[at + cut :]
