"""samples.html: every output token by token, in the colour of the one who decided it, as one static page.

Self-contained and made from the rows and the tokenizer alone, so the same rows give the same bytes. A row is one of
samples.jsonl of `task=specdec`: id, category, text, references, tokens, sources (who decided each), metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from edgecloud.counters import SOURCES
from edgecloud.live import HALF, LOOKS
from suite.records.store import write_atomic
from suite.report.sheet import document
from suite.report.words import number

Row = Mapping[str, Any]

MOST = 40
"""Samples shown, spread evenly over the rows."""
STYLE = """
section { border-top: 1px solid var(--line); margin-top: 1rem; padding-top: .6rem; content-visibility: auto;
  contain-intrinsic-size: auto 9rem } section h2 { font-size: 1rem; margin: 0 }
.said { font-size: 1.15rem; line-height: 1.9; white-space: pre-wrap } mark { color: inherit; background: var(--tint);
  border-bottom: 2px var(--look, solid) var(--edge); border-radius: .15rem; padding: .1rem .06rem }
.edge { --tint: transparent; --edge: light-dark(#8b949e, #7a838d); --look: dotted }
.accepted { --tint: light-dark(#dcf3e8, #123527); --edge: light-dark(#00714a, #4fd0a0) }
.corrected { --tint: light-dark(#fde8d8, #43260f); --edge: light-dark(#b8480a, #ffa263); --look: double }
.bonus { --tint: light-dark(#d9f2f7, #0e333b); --edge: light-dark(#00758a, #5fd0e6); --look: dashed }
.cloud { --tint: light-dark(#e3f0ff, #16304d); --edge: light-dark(#0757b8, #79b8ff) }
.legend { display: flex; flex-wrap: wrap; gap: .4rem 1.1rem } ul { margin: .3rem 0; padding-left: 1.3rem }
"""


def write(path: Path, rows: Sequence[Row], tokenizer: Any) -> None:
    """Write the page; `tokenizer` made the rows' tokens.

    Raises:
        UserError: the file cannot be written.
    """
    write_atomic(path, page(rows, tokenizer))


def page(rows: Sequence[Row], tokenizer: Any) -> str:
    """The page as text."""
    shown = rows[:: -(-len(rows) // MOST)] if rows else ()
    decided = Counter(source for row in rows for source in row["sources"])
    total = sum(decided.values())
    legend = "".join(
        f'<span><mark class="{source}">{LOOKS[source][2]}</mark> {decided[source] / total:.1%}</span>'
        for source in SOURCES
        if decided[source]
    )
    body = (
        f"<h1>Samples</h1><p>{len(shown)} of {len(rows)} samples; who decided each of the {total} tokens:</p>"
        f"<p class=legend>{legend}</p>\n" + "\n".join(_section(row, tokenizer) for row in shown)
    )
    return document("Samples", body, style=STYLE)


def pieces(tokens: Sequence[int], sources: Sequence[str], tokenizer: Any) -> list[tuple[str, str]]:
    """The output as (text, source), neighbours of one source together.

    A character of several tokens goes with the token that completes it. A token's text depends on the one before it
    (spaces), so both are decoded and what the first says is taken off.
    """

    def text(start: int, end: int) -> str:
        return str(tokenizer.decode(tokens[start:end], skip_special_tokens=True))

    found: list[tuple[str, str]] = []
    start = told = 0
    for end, source in enumerate(sources, start=1):
        whole = text(start, end)
        if whole.endswith(HALF) and end < len(sources):
            continue
        new = whole[len(text(start, told)) :]
        start, told = told, end
        if found and found[-1][1] == source:
            found[-1] = (found[-1][0] + new, source)
        elif new:
            found.append((new, source))
    return found


def _section(row: Row, tokenizer: Any) -> str:
    said = "".join(
        f'<mark class="{source}" title="{LOOKS[source][2]}">{escape(text)}</mark>'
        for text, source in pieces(row["tokens"], row["sources"], tokenizer)
    )
    references = "".join(f"<li>{escape(text)}" for text in row["references"])
    told = ", ".join(_told(row["metrics"]))
    category = f", {escape(row['category'])}" if row["category"] else ""
    return (
        f"<section><h2>{escape(row['id'])}<span class=dim>{category}</span></h2><p class=said>{said}</p>"
        f"<p class=dim>{told}</p><details><summary>references</summary><ul>{references}</ul></details></section>"
    )


def _told(metrics: Mapping[str, float | None]) -> Iterator[str]:
    yield f"tokens: {number(metrics['emitted'])}, cloud calls: {number(metrics['calls'])}"
    for name, words in (("ttft_ms", "ms to the first token"), ("otps", "tokens/s")):
        if metrics.get(name) is not None:
            yield f"{number(metrics[name])} {words}"
