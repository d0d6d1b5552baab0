"""Which beginnings that prompts share are worth computing once: the instructions and examples of each kind of call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

PASS_TOKENS = 256
"""What a pass of its own costs beside its tokens, in tokens of a batch (135M model, 2 CPU cores: 70 of 0.25 ms)."""
LEVELS = 8


def shared_lengths(rows: Sequence[list[int]]) -> list[int]:
    """How many first tokens of each row to compute once for all rows that share them; 0 where it does not pay.

    The rows are the leaves of a tree of tokens. A branch of n rows that share d tokens saves (n - 1) d of them, less
    `PASS_TOKENS`; of a branch and its own branches the better choice is taken. At least one token of a row is left.

    Args:
        rows: token ids, at least one each.
    """
    lengths = [0] * len(rows)
    for shared, group in _best(rows, sorted(range(len(rows)), key=lambda i: rows[i]), LEVELS)[1]:
        for i in group:
            lengths[i] = shared
    return lengths


def common(one: list[int], other: list[int]) -> int:
    """How many first tokens are equal."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))


def _best(rows: Sequence[list[int]], group: list[int], levels: int) -> tuple[int, list[tuple[int, list[int]]]]:
    """Tokens saved, and (length of the shared beginning, rows), for a sorted group."""
    if len(group) < 2:
        return 0, []
    # of sorted rows the first and the last differ earliest
    shared = min(common(rows[group[0]], rows[group[-1]]), min(len(rows[i]) for i in group) - 1)
    saved = (len(group) - 1) * shared - PASS_TOKENS
    branches = groupby(group, key=lambda i: rows[i][shared]) if levels else ()
    parts = [_best(rows, list(branch), levels - 1) for _, branch in branches]
    apart = sum(part for part, _ in parts)
    if saved > apart:
        return saved, [(shared, group)]
    return apart, [choice for _, choices in parts for choice in choices]
