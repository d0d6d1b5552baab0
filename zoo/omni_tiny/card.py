"""Write the figures of CARD.md from the records that `recipe.measure` made: no figure there is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from bench.readme import replaced

METRICS = {"emotion_accuracy": "emotion named", "cider": "CIDEr-D", "cider_words": "by words", "bleu": "BLEU"}
RUNS = ("pair", "deaf")  # tables that hold the models to compare


def write(folder: Path, measured: Path, card: Path) -> None:
    """Fill the blocks `test`, `acceptance` and `curves` of the card.

    Args:
        folder: with curves.json.
        measured: with `<run>.csv`, the tables of the measured sweeps.
        card: the file to change.
    """
    text = card.read_text(encoding="utf-8")
    tables = pd.concat([pd.read_csv(measured / f"{run}.csv") for run in RUNS], keys=RUNS, names=["run"])
    text = replaced(text, "test", "\n".join(_quality(tables)))
    lossless = pd.read_csv(measured / "lossless.csv")
    text = replaced(text, "acceptance", "\n".join(_acceptance(lossless)))
    curves = json.loads((folder / "curves.json").read_text())
    text = replaced(text, "curves", "\n".join(_curves(curves)))
    card.write_text(text, encoding="utf-8")


def _quality(table: pd.DataFrame) -> Iterable[str]:
    """Every model on every kind of caption: the value and its 95 % interval."""
    yield f"n = {table['n'].min()}    " + "".join(f"{title:<24}" for title in METRICS.values())
    for _, rows in table.groupby(["language", "caption_type"]):
        first = rows.iloc[0]
        yield f"{first['language']}, {first['caption_type']}"
        for (run, _), row in rows.iterrows():
            name = "deaf" if run == "deaf" else row["method"]
            yield f"  {name:<9}" + "".join(f"{_interval(row, metric):<24}" for metric in METRICS)


def _acceptance(table: pd.DataFrame) -> Iterable[str]:
    """Of the drafted tokens that the cloud looked at, how many it kept."""
    for _, row in table.iterrows():
        kind = f"{row['language']}, {row['caption_type']}"
        yield f"{kind:<22}{_interval(row, 'acceptance_rate')} of tested tokens kept"


def _curves(curves: dict[str, list[dict[str, float]]]) -> Iterable[str]:
    """Training batches, augmented: every fourth entry and the last."""
    yield "model      step  caption loss  emotion  topic  pace  pitch"
    for name, curve in curves.items():
        for entry in [entry for i, entry in enumerate(curve, start=1) if i % 4 == 0 or i == len(curve)]:
            loss = f"{entry['caption_loss']:.3f}" if "caption_loss" in entry else "-"
            rest = "".join(f"{entry[key]:>7.3f}" for key in ("emotion", "topic", "pace", "pitch"))
            yield f"{name:<9}{entry['step']:>6}{loss:>14}  {rest}"


def _interval(row: pd.Series, metric: str) -> str:
    if metric not in row or pd.isna(row[metric]):
        return "-"
    return f"{row[metric]:.3g} [{row[f'{metric}_low']:.3g}, {row[f'{metric}_high']:.3g}]"
