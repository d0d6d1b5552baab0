"""trajectories.html: every question with all its walks side by side, as one static page.

Self-contained and made from the rows alone, so the same rows give the same bytes. A row is one of
samples.jsonl of `task=argo_graphs`, or made of those of `task=argo` (`gather`):

    id, status, error, question, options, answer (index or null), answers, difficulty, supporting (ids of passages)
    walks: prediction, option, scores, u (progress at the end), trajectory: action, u (before), ok, sub_query, passages,
        answer
    cells: strategy, cost_ratio, walk (index into walks), metrics
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from argo.corpus import Passage
from argo.curves import Cell
from argo.schema import STRATEGIES
from suite.records.store import write_atomic
from suite.report.sheet import document

Row = Mapping[str, Any]

STYLE = """
section { border-top: 1px solid var(--line); margin-top: 1.5rem; padding-top: .5rem; content-visibility: auto;
  contain-intrinsic-size: auto 40rem } section h2 { margin: .2rem 0 } h3 { font-size: .95rem; margin: 0 0 .4rem }
.list { max-height: 24rem; overflow-y: auto; padding-left: 2rem; border: 1px solid var(--line);
  border-radius: .45rem }
.walks { display: flex; gap: .8rem; overflow-x: auto; padding-bottom: .6rem; scroll-snap-type: x proximity }
.walk { flex: 0 0 min(23rem, 86vw); background: var(--card); border: 1px solid var(--line); border-radius: .45rem;
  padding: .6rem .7rem; scroll-snap-align: start } .support { background: var(--mark) }
ol, ul { margin: .3rem 0; padding-left: 1.6rem } li { margin: .25rem 0 } .walk ol > li { margin: .6rem 0 }
"""
# the list and the sections below it carry the same data-*, and are shown or hidden alike
SCRIPT = """
const level = document.getElementById('level'), apart = document.getElementById('apart');
const wrong = document.getElementById('wrong');
function filter() {
  let shown = 0;
  document.querySelectorAll('[data-level]').forEach(one => {
    one.hidden = level.value && one.dataset.level !== level.value || apart.checked && !one.dataset.apart
      || wrong.value && !one.dataset.wrong.split(' ').includes(wrong.value);
    shown += one.tagName === 'SECTION' && !one.hidden;
  });
  document.getElementById('shown').textContent = shown;
}
[level, apart, wrong].forEach(one => one.addEventListener('change', filter));
"""


WALK = ("prediction", "option", "scores", "u", "trajectory")
"""What a sample of `task=argo` says of its walk."""


def gather(samples: Mapping[Cell, Iterable[Row]]) -> list[dict[str, Any]]:
    """A row for each question that any cell of `task=argo` answered, with its walks in all of them."""
    found: dict[str, dict[str, Any]] = {}
    for cell, answered in samples.items():
        for sample in answered:
            asked = {key: value for key, value in sample.items() if key not in (*WALK, "metrics")}
            row = found.setdefault(sample["id"], {**asked, "walks": [], "cells": []})
            walk = {key: sample.get(key) for key in WALK}
            if walk not in row["walks"]:
                row["walks"].append(walk)
            at = row["walks"].index(walk)
            told = {"strategy": cell.strategy, "cost_ratio": cell.cost_ratio, "walk": at, "metrics": sample["metrics"]}
            row["cells"].append(told)
    return list(found.values())


def write(path: Path, rows: Iterable[Row], passages: Mapping[str, Passage]) -> None:
    """Write the page; `passages` by id, which stands in for the title of one that has none or is not there.

    Raises:
        UserError: the file cannot be written.
    """
    write_atomic(path, page(list(rows), {name: passage.title for name, passage in passages.items()}))


def page(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """The page as text; `titles` of passages by id."""
    levels = dict.fromkeys(str(row.get("difficulty") or "") for row in rows)
    names = [name for name in STRATEGIES if any(cell["strategy"] == name for row in rows for cell in _cells(row))]
    parts = [
        f"<h1>Trajectories</h1><p class=dim>{len(rows)} questions. U is the progress that the decision process "
        "believes in; a column is a walk, with the strategies and costs of a retrieval (c_r / c_p) that took it. "
        "Passages <span class=support>marked</span> are among those that hold the answer.</p>",
        "<div class=filters>",
        _select("level", "difficulty", "all", [level for level in levels if level]),
        "<label><input type=checkbox id=apart> strategies disagree</label>",
        _select("wrong", "wrong", "all", ["anyone", *names]),
        f"<span><span id=shown>{len(rows)}</span> shown</span></div>",
        f"<ol class=list>{''.join(_entry(number, row) for number, row in enumerate(rows))}</ol>",
        *(_section(number, row, titles) for number, row in enumerate(rows)),
    ]
    return document("Trajectories", "\n".join(parts), style=STYLE, script=SCRIPT)


def _select(name: str, label: str, everything: str, choices: Sequence[str]) -> str:
    options = "".join(f"<option>{escape(choice)}" for choice in choices)
    return f'<label>{label} <select id={name}><option value="">{everything}{options}</select></label>'


def _entry(number: int, row: Row) -> str:
    right, wrong = _who(row, right=True), _who(row, right=False)
    told = [f"<span class={kind}>{kind}: {escape(', '.join(who))}</span>" for kind, who in _kinds(right, wrong) if who]
    level = f"{escape(str(row['difficulty']))}: " if row.get("difficulty") else ""
    said = "; ".join(told) if row["status"] == "ok" else f"<span class=wrong>{escape(row['status'])}</span>"
    words = escape(row.get("question") or row["id"])
    return f'<li {_data(row)}>{level}<a href="#q{number}">{words}</a> <span class=dim>{said}</span>\n'


def _kinds(right: Sequence[str], wrong: Sequence[str]) -> tuple[tuple[str, Sequence[str]], ...]:
    return ("right", right), ("wrong", wrong)


def _section(number: int, row: Row, titles: Mapping[str, str]) -> str:
    level = f", {escape(str(row['difficulty']))}" if row.get("difficulty") else ""
    head = f"<h2>{escape(row.get('question') or row['id'])}</h2><p class=dim>{escape(row['id'])}{level}</p>"
    if row["status"] != "ok":
        return (
            f"<section id=q{number} {_data(row)}>{head}<p class=wrong>{escape(row['error'] or 'failed')}</p></section>"
        )
    options = "".join(_option(text, at == row["answer"]) for at, text in enumerate(row["options"]))
    if options:
        head += f"<ol>{options}</ol>"
    else:
        head += f"<p>accepted: <b class=right>{escape(' | '.join(row.get('answers') or ()))}</b></p>"
    supporting = row.get("supporting") or ()
    if supporting:
        head += f"<p>Passages that hold the answer:</p><ul>{_passages(supporting, supporting, titles)}</ul>"
    takers: dict[int, list[Row]] = {}
    for cell in row["cells"]:
        takers.setdefault(cell["walk"], []).append(cell)
    walks = "".join(_walk(row, row["walks"][at], cells, titles) for at, cells in takers.items())
    return f"<section id=q{number} {_data(row)}>{head}<div class=walks>{walks}</div></section>"


def _option(text: str, right: bool) -> str:
    return f"<li><b class=right>{escape(text)} ✓</b>" if right else f"<li>{escape(text)}"


def _walk(row: Row, walk: Row, cells: Sequence[Row], titles: Mapping[str, str]) -> str:
    """One column."""
    ratios: dict[str, list[str]] = {}
    for cell in cells:
        ratios.setdefault(cell["strategy"], []).append(f"{float(cell['cost_ratio']):g}")
    head = "<br>".join(f"{escape(name)} <span class=dim>at {', '.join(at)}</span>" for name, at in ratios.items())
    steps = walk["trajectory"]
    after = [*(step["u"] for step in steps), walk.get("u")][1:]
    supporting = row.get("supporting") or ()
    listed = "".join(_step(step, u, supporting, titles) for step, u in zip(steps, after, strict=True))
    right = cells[0]["metrics"]["correct"] == 1
    kind = "right" if right else "wrong"
    scores = ""
    if walk["scores"]:
        scored = zip(walk["scores"], row["options"], strict=True)
        told = "".join(_score(score, text, at == walk["option"]) for at, (score, text) in enumerate(scored))
        scores = f"<details><summary>log-likelihood of the options, nats</summary><ol>{told}</ol></details>"
    return (
        f"<div class=walk><h3>{head}</h3><ol>{listed or '<li>answers at once'}</ol>"
        f"<p><b class={kind}>{kind} {'✓' if right else '✗'}</b> {escape(walk['prediction'])}</p>{scores}</div>\n"
    )


def _score(score: float, text: str, chosen: bool) -> str:
    told = f"<b>{escape(text)}</b>" if chosen else escape(text)
    return f"<li>{score:.2f} {told}"


def _step(step: Row, after: float | None, supporting: Sequence[str], titles: Mapping[str, str]) -> str:
    to = "end" if after is None else f"{after:.2f}"
    failed = "" if step["ok"] else " <b class=wrong>failed</b>"
    parts = [f"<li><b>{escape(step['action'])}</b> <span class=dim>U {step['u']:.2f} → {to}</span>{failed}"]
    if step.get("sub_query"):
        parts.append(f"<br><i>{escape(step['sub_query'])}</i>")
    if step.get("passages"):
        parts.append(f"<ul>{_passages(step['passages'], supporting, titles)}</ul>")
    if step.get("answer"):
        parts.append(f"<br>→ {escape(step['answer'])}")
    return "".join(parts)


def _passages(ids: Iterable[str], supporting: Sequence[str], titles: Mapping[str, str]) -> str:
    def one(name: str) -> str:
        text = escape(titles.get(name) or name)
        return f"<li><span class=support>{text}</span>" if name in supporting else f"<li>{text}"

    return "".join(map(one, ids))


def _cells(row: Row) -> Sequence[Row]:
    return row["cells"] if row["status"] == "ok" else ()


def _who(row: Row, *, right: bool) -> list[str]:
    """Strategies that are right (wrong) at some cost."""
    found = {cell["strategy"] for cell in _cells(row) if (cell["metrics"]["correct"] == 1) == right}
    return [name for name in STRATEGIES if name in found]


def _data(row: Row) -> str:
    """What the filters look at."""
    right, wrong = _who(row, right=True), _who(row, right=False)
    missed = " ".join(["anyone", *wrong]) if wrong or row["status"] != "ok" else ""
    level, apart = escape(str(row.get("difficulty") or "")), "1" if right and wrong else ""
    return f'data-level="{level}" data-apart="{apart}" data-wrong="{missed}"'
