"""JSON out of files that anyone may have written: what cannot be kept, counted or shown is refused as it is read."""

from __future__ import annotations

import json
import math
import re
from typing import Any

# only a text with one of these can hold what `_refuse` looks for; all others are spared the walk
_ODD = re.compile(r"NaN|Infinity|[eE]\+?\d{3}|\d{19}|\\u[dD][89a-fA-F]")


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or it holds NaN, an infinity, an integer of more than 64 bits, half of a surrogate
            pair, or more levels than Python follows.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _ODD.search(text):
        _refuse(value)
    return value


def _refuse(value: Any) -> None:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += (*one.keys(), *one.values())
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str):
            one.encode()  # a UnicodeEncodeError is a ValueError
        elif isinstance(one, float) and not math.isfinite(one):
            raise ValueError(f"{one} is no number of JSON")
        elif isinstance(one, int) and not -(2**63) <= one < 2**63:
            raise ValueError("an integer has more than 64 bits")
