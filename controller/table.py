"""The profile: what every configuration answered on every sample, and what it took; Parquet on disk.

One row is one (sample, configuration). Accuracy is known for every row; times only for the samples that were timed,
and they are None, not 0, on the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from controller.space import Space

PARTS = ("vision_encoder_ms", "projector_ms", "prefill_ms", "decode_ms")
"""Measured parts of a run, which add up to its total; decode is what follows the first token."""
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Arrays of n samples by c configurations; column c is `space.configurations[c]`."""

    space: Space
    ids: tuple[str, ...]
    datasets: tuple[str, ...]
    splits: tuple[str, ...]
    """`tune` (for estimators and controllers) or `test` (for figures)."""
    accuracy: Floats
    """(n, c), 0 to 1."""
    output_tokens: Ints
    """(n, c), the end of the answer included."""
    vision_tokens: Ints
    """(n, c)."""
    text_tokens: Ints
    """(n,), of the question."""
    parts: dict[str, Floats]
    """Each of `PARTS`, (n, c) in ms; NaN where the sample was not timed."""

    @property
    def total_ms(self) -> Floats:
        """Sum of the parts, (n, c)."""
        vision, projector, prefill, decode = (self.parts[name] for name in PARTS)
        total: Floats = vision + projector + prefill + decode
        return total

    @property
    def per_token_ms(self) -> Floats:
        """Decode time per token after the first, (n, c); NaN where the answer has one token only."""
        later = (self.output_tokens - 1).astype(float)
        each: Floats = np.divide(self.parts["decode_ms"], later, out=np.full(later.shape, np.nan), where=later > 0)
        return each

    @property
    def timed(self) -> npt.NDArray[np.bool_]:
        """Which samples were timed, (n,)."""
        return np.array([not np.isnan(row).any() for row in self.parts["prefill_ms"]], dtype=bool)

    def take(self, rows: npt.NDArray[Any]) -> Profile:
        """The samples that a boolean mask or an array of row numbers selects."""
        chosen = np.arange(len(self.ids))[rows]
        return Profile(
            space=self.space,
            ids=tuple(self.ids[i] for i in chosen),
            datasets=tuple(self.datasets[i] for i in chosen),
            splits=tuple(self.splits[i] for i in chosen),
            accuracy=self.accuracy[chosen],
            output_tokens=self.output_tokens[chosen],
            vision_tokens=self.vision_tokens[chosen],
            text_tokens=self.text_tokens[chosen],
            parts={name: values[chosen] for name, values in self.parts.items()},
        )

    def split(self, name: str) -> Profile:
        """The samples of `tune` or of `test`."""
        return self.take(np.array(self.splits) == name)


def write(path: Path, profile: Profile) -> None:
    """Store as Parquet, one row a (sample, configuration)."""
    n, c = profile.accuracy.shape
    knobs = profile.space.configurations
    columns: dict[str, Any] = {
        "id": np.repeat(profile.ids, c),
        "dataset": np.repeat(profile.datasets, c),
        "split": np.repeat(profile.splits, c),
        "tier": np.tile([one.tier for one in knobs], n),
        "top_k": np.tile([one.top_k for one in knobs], n),
        "blocks": np.tile([one.blocks for one in knobs], n),
        "vision_tokens": profile.vision_tokens.ravel(),
        "text_tokens": np.repeat(profile.text_tokens, c),
        "output_tokens": profile.output_tokens.ravel(),
        "accuracy": profile.accuracy.ravel(),
    }
    columns |= {name: profile.parts[name].ravel() for name in PARTS}
    columns |= {"decode_per_token_ms": profile.per_token_ms.ravel(), "total_ms": profile.total_ms.ravel()}
    pd.DataFrame(columns).to_parquet(path, index=False)


def read(path: Path) -> Profile:
    """The stored profile."""
    rows = pd.read_parquet(path)
    space = Space(
        tiers=tuple(dict.fromkeys(rows["tier"])),
        top_ks=tuple(int(k) for k in dict.fromkeys(rows["top_k"])),
        depths=tuple(int(depth) for depth in dict.fromkeys(rows["blocks"])),
    )
    c = len(space)
    first = rows.iloc[::c]

    def grid(name: str, kind: type) -> Any:
        return rows[name].to_numpy(dtype=kind).reshape(-1, c)

    return Profile(
        space=space,
        ids=tuple(first["id"]),
        datasets=tuple(first["dataset"]),
        splits=tuple(first["split"]),
        accuracy=grid("accuracy", float),
        output_tokens=grid("output_tokens", int),
        vision_tokens=grid("vision_tokens", int),
        text_tokens=first["text_tokens"].to_numpy(dtype=int),
        parts={name: grid(name, float) for name in PARTS},
    )
