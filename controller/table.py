"""The profile: what every configuration answered on every sample, and what it took; Parquet on disk.

One row is one (sample, configuration). Accuracy is known for every row; times only for the samples that were timed,
and they are None, not 0, on the others. A pair is timed in several runs, minutes apart: its time is their median, which
no busy second moves, and every single run is kept, because a budget must be met by runs and not by medians.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
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
    runs: dict[str, Floats]
    """Each of `PARTS` in each of r runs, (n, c, r) in ms; NaN where the sample was not timed."""

    @cached_property
    def parts(self) -> dict[str, Floats]:
        """Each of `PARTS`, median over the runs, (n, c) in ms."""
        return {name: np.median(values, axis=2) for name, values in self.runs.items()}

    @property
    def single_ms(self) -> Floats:
        """Every run's total, the sum of its parts, (n, c, r)."""
        vision, projector, prefill, decode = (self.runs[name] for name in PARTS)
        total: Floats = vision + projector + prefill + decode
        return total

    @cached_property
    def total_ms(self) -> Floats:
        """Median over the runs of their totals, (n, c)."""
        return np.asarray(np.median(self.single_ms, axis=2))

    def averaged(self) -> Profile:
        """The same with the mean over the runs in the place of all of them: what runs take on average."""
        return replace(self, runs={name: values.mean(axis=2, keepdims=True) for name, values in self.runs.items()})

    @property
    def per_token_ms(self) -> Floats:
        """Decode time per token after the first, (n, c); NaN where the answer has one token only."""
        later = (self.output_tokens - 1).astype(float)
        each: Floats = np.divide(self.parts["decode_ms"], later, out=np.full(later.shape, np.nan), where=later > 0)
        return each

    @property
    def timed(self) -> npt.NDArray[np.bool_]:
        """Which samples were timed, (n,)."""
        return np.asarray(np.isfinite(self.runs["prefill_ms"]).all(axis=(1, 2)))

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
            runs={name: values[chosen] for name, values in self.runs.items()},
        )

    def split(self, name: str) -> Profile:
        """The samples of `tune` or of `test`."""
        return self.take(np.array(self.splits) == name)


def write(path: Path, profile: Profile) -> None:
    """Store as Parquet, one row a (sample, configuration).

    `prefill_ms` and so on are the medians; `prefill_ms_1` is the first run's.
    """
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
    for name in PARTS:
        rounds = np.moveaxis(profile.runs[name], 2, 0)
        columns |= {f"{name}_{number}": values.ravel() for number, values in enumerate(rounds, 1)}
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
        runs={name: np.stack([grid(one, float) for one in _rounds(rows, name)], axis=2) for name in PARTS},
    )


def _rounds(rows: pd.DataFrame, part: str) -> list[str]:
    """Names of a part's columns, the first run's first."""
    found = [name for name in rows.columns if name.startswith(f"{part}_")]
    return sorted(found, key=lambda name: int(name.rsplit("_", 1)[1]))
