"""Tables of the page; text is escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

Cell = tuple[str, Any]
"""Text, and the value to sort by."""
LONG = 60
"""Characters from which a text may break."""


def plain(header: Sequence[str], rows: Sequence[Sequence[Any]], *, jobs: Sequence[str] = ()) -> str:
    """A table of texts that sorts at a click; with `jobs`, row i belongs to job i and is hidden with it."""
    marked = [("job", jobs[place] if jobs else "", row) for place, row in enumerate(rows)]
    made = [(kind if job else "", job, [(str(text), _by(str(text))) for text in row]) for kind, job, row in marked]
    return table(header, made, sortable=True)


def _by(text: str) -> str:
    """The number that a text begins with, `-0.12 [-0.2, 0.1]` or `~1,234`; else the text."""
    first = text.split(" ")[0].replace(",", "").removeprefix("~")
    try:
        return str(float(first))
    except ValueError:
        return text


def table(header: Sequence[str], rows: Sequence[tuple[str, str, Sequence[Cell]]], *, sortable: bool = False) -> str:
    """A table whose rows are (data attribute or "", its value, cells)."""
    head = "".join(heading_cell(name) if sortable else f"<th scope=col>{escape(name)}" for name in header)
    body = []
    for kind, value, cells in rows:
        mark = f' data-{kind}="{escape(value)}"' if kind else ""
        body.append(f"<tr{mark}>" + "".join(cell(text, by if sortable else None) for text, by in cells) + "\n")
    return f"<div class=wide><table><thead><tr>{head}<tbody>{''.join(body)}</table></div>"


def heading_cell(name: str, *, kind: str = "", title: str = "") -> str:
    """A header that sorts its column, with a mouse or a keyboard."""
    marks = (f' class="{kind}"' if kind else "") + (f' title="{escape(title)}"' if title else "")
    return f"<th scope=col{marks}><button type=button>{escape(name)}</button>"


def cell(text: str, by: Any = None) -> str:
    """One cell; `by` is what it is sorted by."""
    kind = " class=text" if len(text) > LONG else ""
    mark = "" if by is None else f' data-v="{escape(str(by))}"'
    return f"<td{kind}{mark}>{escape(text)}"
