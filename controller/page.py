"""samples.html: what the controller did on each sample, as one static page.

Self-contained and made from the rows and images alone, so the same rows give the same bytes. A row
is one of samples.jsonl of `task=controller`:

    id, dataset, question, answers (accepted ones)
    runs: one a budget: budget_ms, tier, top_k, blocks, answer, accuracy (0 to 1), total_ms (the controller's own time
        in it), decision_ms, met (whether total_ms is within the budget)
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from suite.records.store import write_atomic
from suite.report.sheet import document

Row = Mapping[str, Any]
Picture = Callable[[str], bytes]
"""PNG of a sample, by its id."""

MOST, SIDE = 60, 384
"""Samples shown, and pixels of an image's longer side, at most: the images travel in the page."""
STYLE = """
section { display: flex; flex-wrap: wrap; gap: .4rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .45rem; margin: 1rem 0; padding: .7rem; content-visibility: auto; contain-intrinsic-size: auto 22rem }
section h2 { font-size: 1.05rem; margin: 0 } .told { flex: 1 1 20rem; min-width: 0 }
img { width: min(12rem, 100%); aspect-ratio: 1; object-fit: contain; align-self: start; image-rendering: pixelated }
table { margin-top: .4rem; width: 100% } th, td { padding: .2rem .7rem .2rem 0 } th { white-space: nowrap }
.number { text-align: right; white-space: nowrap }
"""
HEAD = (
    "<tr><th class=number>budget<th>tier<th class=number>top-k<th class=number>blocks<th>answer"
    "<th class=number>time<th class=number>decision<th>budget met"
)


def write(path: Path, rows: Iterable[Row], image: Picture) -> None:
    """Write the page.

    Raises:
        UserError: the file cannot be written.
    """
    write_atomic(path, page(list(rows), image))


def page(rows: Sequence[Row], image: Picture) -> str:
    """The page as text, of up to `MOST` samples spread evenly over the rows."""
    shown = rows[:: -(-len(rows) // MOST)] if rows else ()
    runs = [run for row in rows for run in row["runs"]]
    met = f"{sum(run['met'] for run in runs) / len(runs):.0%} of {len(runs)} runs within the budget, " if runs else ""
    sets = ", ".join(f"{name} {count}" for name, count in Counter(str(row["dataset"]) for row in rows).items())
    body = (
        f"<h1>Samples</h1><p>{len(shown)} of {len(rows)} samples. {met}{escape(sets)}.</p><p class=dim>Budgets and "
        "times are in ms; the time includes the controller's decision. Tier is how much of the image is looked at, "
        "top-k the experts a token, blocks the decoder blocks that run.</p>\n"
        + "\n".join(_section(row, image) for row in shown)
    )
    return document("Samples", body, style=STYLE)


def png(image: Image.Image) -> bytes:
    """An image as a page needs it: PNG, no larger than it is shown on a fine screen."""
    small, file = image.copy(), io.BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(file, format="PNG")
    return file.getvalue()


def _section(row: Row, image: Picture) -> str:
    data = base64.b64encode(image(row["id"])).decode()
    counts = Counter(str(answer) for answer in row["answers"])
    accepted = " | ".join(f"{answer} ×{n}" if n > 1 and len(counts) > 1 else answer for answer, n in counts.items())
    return (
        f'<section><img alt="" src="data:image/png;base64,{data}">'
        f"<div class=told><h2>{escape(row['question'])}</h2>"
        f"<p class=dim>{escape(str(row['dataset']))}, {escape(row['id'])}</p>"
        f"<p>true answer: <b>{escape(accepted)}</b></p>"
        f"<div class=wide><table>{HEAD}{''.join(map(_run, row['runs']))}</table></div></div></section>"
    )


def _run(run: Row) -> str:
    share = run["accuracy"]
    kind, mark = ("right", "✓") if share == 1 else ("wrong", "✗") if share == 0 else ("", "≈")
    partly = "" if share in (0, 1) else f" {share:.1f} right"
    met, tick = ("right", "✓ yes") if run["met"] else ("wrong", "✗ no")
    return (
        f"<tr><td class=number>{run['budget_ms']:.1f}<td>{escape(run['tier'])}<td class=number>{run['top_k']}"
        f"<td class=number>{run['blocks']}<td class={kind or 'partly'}>{mark} {escape(run['answer'])}{partly}"
        f"<td class=number>{run['total_ms']:.1f}<td class=number>{run['decision_ms']:.2f}<td class={met}>{tick}\n"
    )
