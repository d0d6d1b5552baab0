"""Does an output repeat, token by token, what the cloud alone would have written?

For a lossless method every number here is 1; for a gated or relaxed one they say how far, and how early, the output
left the cloud's greedy path.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from statistics import fmean
from typing import Any

from suite.quality.base import TokenMetric


class TokenAgreement(TokenMetric):
    """Agreement of token ids with one reference sequence per sample (the cloud's greedy output)."""

    about = "Exact match, common prefix and position-wise equality of token ids."
    source = "own definition, see suite/quality/tokens.py"

    def _compute(self, predictions: list[list[int]], references: list[list[int]]) -> dict[str, Any]:
        """Compare `predictions` with `references`.

        Returns:
            `exact_match`, `prefix`, `positions`: means over samples, 0 to 1.
            `per_sample`: the same three names, one list each.
        """
        pairs = list(zip(predictions, references, strict=True))
        per_sample = {
            "exact_match": [float(output == reference) for output, reference in pairs],
            "prefix": [prefix_share(output, reference) for output, reference in pairs],
            "positions": [position_share(output, reference) for output, reference in pairs],
        }
        return {**{name: fmean(values) for name, values in per_sample.items()}, "per_sample": per_sample}


def prefix_share(output: Sequence[int], reference: Sequence[int]) -> float:
    """Length of the longest common prefix over that of the longer sequence: 1 exactly when the two are identical."""
    longer = max(len(output), len(reference))
    same = takewhile(lambda pair: pair[0] == pair[1], zip(output, reference, strict=False))
    return sum(1 for _ in same) / longer if longer else 1.0


def position_share(output: Sequence[int], reference: Sequence[int]) -> float:
    """Positions holding the same token, over the length of the longer sequence: 1 exactly when they are identical."""
    longer = max(len(output), len(reference))
    return sum(a == b for a, b in zip(output, reference, strict=False)) / longer if longer else 1.0


def rouge_l(output: Sequence[int], reference: Sequence[int]) -> float:
    """F1 of the longest common subsequence (ROUGE-L with beta 1; Lin 2004): 1 exactly when the two are identical.

    Unlike a common prefix it does not collapse at the first token that differs.
    """
    if not output or not reference:
        return float(list(output) == list(reference))
    row = [0] * (len(reference) + 1)
    for token in output:
        diagonal = 0
        for i, other in enumerate(reference, start=1):
            diagonal, row[i] = row[i], diagonal + 1 if token == other else max(row[i], row[i - 1])
    return 2 * row[-1] / (len(output) + len(reference))
