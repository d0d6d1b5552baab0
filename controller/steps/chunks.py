"""Work through samples chunk by chunk, keeping each result as it comes: a killed step goes on at the next chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from controller.data import Sample
from suite.progress import Progress
from suite.records import SampleLog

CHUNK = 64
"""Samples that are answered together."""


def chunked(
    samples: Sequence[Sample], log: Path, work: Callable[[Sequence[Sample]], dict[str, Any]], *, label: str, size: int
) -> list[dict[str, Any]]:
    """Rows of `work` over chunks of `size` samples, in their order.

    Args:
        samples: all of them, in a fixed order.
        log: JSON Lines file of the rows.
        work: what to do with a chunk; JSON data.
        label: for the progress bar.
        size: samples of a chunk.
    """
    chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
    with closing(SampleLog(log)) as rows:
        done = sum(len(chunk) for chunk in chunks if _name(chunk) in rows)
        with Progress(label, len(samples), done=done) as progress:
            for chunk in chunks:
                if _name(chunk) not in rows:
                    rows.append({"id": _name(chunk), "status": "ok", "error": None, **work(chunk)})
                    progress.advance(len(chunk))
        return [rows.rows[_name(chunk)] for chunk in chunks]


def _name(chunk: Sequence[Sample]) -> str:
    """Names a chunk; data and sizes are part of the step's folder already."""
    return f"{chunk[0].id} and {len(chunk) - 1} more"
