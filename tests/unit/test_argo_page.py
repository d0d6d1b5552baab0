"""The page of trajectories, and the analysis of a sweep that writes it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from argo import page
from argo.analysis import analyse
from argo.corpus import Passage

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "br", "input"}
OPTIONAL_END = {"html", "li", "option", "p"}
PASSAGES = {name: Passage(id=name, title=f"About {name}", text="...") for name in ("ric-01", "ric-02")} | {
    "x&y": Passage(id="x&y", title="", text="...")
}


def step(action: str, u: float, *, ok: bool = True, **other: Any) -> dict[str, Any]:
    return {"action": action, "u": u, "ok": ok, "sub_query": None, "passages": [], "answer": None, **other}


def cell(strategy: str, ratio: float, walk: int, correct: float) -> dict[str, Any]:
    metrics = {"correct": correct, "retrievals": 1, "reasons": 1, "cost": 0.1 * ratio + 0.1, "llm_calls": 5}
    return {"strategy": strategy, "cost_ratio": ratio, "walk": walk, "metrics": metrics}


def row(name: str, **other: Any) -> dict[str, Any]:
    """Two walks: ARGO's at 1, which fails once, and the one it shares at 2 with another strategy."""
    retrieving = [
        step("retrieve", 0.0, ok=False, sub_query=f"which {EVIL}?"),
        step("retrieve", 0.0, sub_query=f"which {EVIL}?", passages=["ric-01", "x&y"], answer=EVIL),
        step("reason", 0.15, sub_query="why?", answer="because"),
    ]
    walks = [
        {"prediction": "B & C", "option": 1, "scores": [-9.126, -3.5], "u": 0.23, "trajectory": retrieving},
        {"prediction": "A", "option": 0, "scores": [-1.0, -3.5], "u": None, "trajectory": []},
    ]
    return {
        "id": name,
        "status": "ok",
        "error": None,
        "question": f"What of {EVIL} in {name}?",
        "options": ["A", "B & C"],
        "answer": 1,
        "answers": ["B & C"],
        "difficulty": "hard",
        "supporting": ["ric-01", "ric-02"],
        "walks": walks,
        "cells": [cell("argo", 1, 0, 1.0), cell("argo", 2, 1, 0.0), cell("random", 2, 1, 0.0)],
        "metrics": {},
        **other,
    }


class Outline(HTMLParser):
    """Text by the class of the innermost element that has one, addresses, and the filters' marks of each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.texts: list[tuple[str, str]] = []
        self.sections: list[dict[str, str]] = []
        self.entries: list[dict[str, str]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.walks = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.links += [found[name] for name in ("href", "src") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        marks = {name.removeprefix("data-"): value for name, value in found.items() if name.startswith("data-")}
        if marks:
            (self.sections if tag == "section" else self.entries).append(marks)
        self.walks += found.get("class") == "walk"
        if tag not in VOID | OPTIONAL_END:
            self.open.append((tag, found.get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        if tag not in OPTIONAL_END:
            assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        kind = next((kind for _, kind in reversed(self.open) if kind), "")
        self.texts.append((kind, data.strip()))

    def of(self, kind: str) -> list[str]:
        return [text for found, text in self.texts if found == kind and text]


def outline(rows: list[dict[str, Any]], tmp_path: Path) -> tuple[str, Outline]:
    page.write(tmp_path / "trajectories.html", rows, PASSAGES)
    text = (tmp_path / "trajectories.html").read_text(encoding="utf-8")
    found = Outline(text)
    assert found.open == []  # what was opened was closed
    return text, found


def test_a_question_shows_each_distinct_walk_once_with_all_who_took_it(tmp_path: Path) -> None:
    text, found = outline([row("q1")], tmp_path)
    assert found.walks == 2
    said = " ".join(text for _, text in found.texts if text)
    assert "argo at 1 retrieve U 0.00 → 0.00 failed which" in said
    assert "retrieve U 0.00 → 0.15 which" in said
    assert "reason U 0.15 → 0.23 why? → because right ✓ B & C" in said
    assert "argo at 2 random at 2 answers at once wrong ✗ A" in said
    assert "-9.13 A -3.50 B & C" in said


def test_right_options_and_supporting_passages_are_marked(tmp_path: Path) -> None:
    _, found = outline([row("q1")], tmp_path)
    assert "B & C ✓" in found.of("right")
    assert "A ✓" not in found.of("right")
    # the legend, the two that hold the answer, and the one of them that was handed on
    assert found.of("support") == ["marked", "About ric-01", "About ric-02", "About ric-01"]
    assert any(text == "x&y" for _, text in found.texts)  # a passage without a title goes by its id


def test_nothing_in_the_data_becomes_markup(tmp_path: Path) -> None:
    broken = row("q2", status="failed", error=EVIL, difficulty='"><b>')
    chosen = row("q3", options=["A", EVIL], answers=[EVIL])
    chosen["walks"][0]["prediction"] = EVIL
    text, found = outline([row("q1"), broken, chosen], tmp_path)
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert found.sections[1]["level"] == '"><b>'
    assert any(text == EVIL for _, text in found.texts)


def test_filters_know_level_disagreement_and_who_is_wrong(tmp_path: Path) -> None:
    agreed = row("q2", difficulty="easy", cells=[cell("argo", 1, 0, 1.0), cell("random", 1, 0, 1.0)])
    missed = row("q3", difficulty="", cells=[cell("argo", 1, 1, 0.0), cell("random", 1, 1, 0.0)])
    failed = row("q4", status="failed", error="the server stopped", walks=[], cells=[])
    _, found = outline([row("q1"), agreed, missed, failed], tmp_path)
    assert found.sections == found.entries == [
        {"level": "hard", "apart": "1", "wrong": "anyone argo random"},
        {"level": "easy", "apart": "", "wrong": ""},
        {"level": "", "apart": "", "wrong": "anyone argo random"},
        {"level": "hard", "apart": "", "wrong": "anyone"},
    ]  # fmt: skip
    assert found.links == ["#q0", "#q1", "#q2", "#q3"]
    assert [name for name in found.ids if name.startswith("q")] == ["q0", "q1", "q2", "q3"]


def test_free_form_answers_show_what_was_accepted(tmp_path: Path) -> None:
    walks = [{"prediction": "Oslo", "option": None, "scores": None, "u": 0.0, "trajectory": []}]
    free = row(
        "q", options=[], answer=None, answers=["Bergen", "Byfjorden"], walks=walks, cells=[cell("argo", 1, 0, 0)]
    )
    _, found = outline([free], tmp_path)
    assert "Bergen | Byfjorden" in found.of("right")
    assert found.links == ["#q0"]  # no address leads outside


# --- a sweep of jobs ------------------------------------------------------------------------------------------------


def write_job(folder: Path, strategy: str, ratio: float, *, seed: int = 1, right: int = 4, status: str = "ok") -> None:
    task = {"name": "argo", "strategy": strategy, "cost_ratio": ratio, "top_k": 3}
    record = {
        "schema": 1,
        "fingerprint": f"{strategy}/{ratio}/{seed}",
        "status": "completed",
        "task": "argo",
        "name": "x",
        "config": {"task": task, "dataset": {"name": "oran_mini"}, "seed": seed, "tracker": {"name": "none"}},
        "overrides": [f"task.strategy={strategy}", f"task.cost_ratio={ratio}", f"seed={seed}"],
        "metrics": {},
        "facts": {"words": {f"{ratio:g}": "RP"}, "breakpoints": [1.5], "baselines": {"chance": 0.25}},
        "samples": {"completed": 6, "failed": 0},
        "error": None,
        "seed": seed,
        "provenance": {},
        "models": {"llm": "1"},
        "data_sha256": "d",
        "started_at": "2026-01-02T10:00:00+00:00",
        "wall_time_s": 1.0,
    }
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record))
    rows = []
    for i in range(6):
        asked = {key: value for key, value in row(f"q{i}").items() if key not in ("walks", "cells", "metrics")}
        walk = row("")["walks"][0 if i < right else 1]
        rows.append(
            {**asked, "status": status, **walk, "metrics": cell(strategy, ratio, 0, float(i < right))["metrics"]}
        )
    (folder / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


def test_a_sweep_is_analysed_as_one_grid(tmp_path: Path) -> None:
    for number, (strategy, ratio, right) in enumerate((("argo", 1, 5), ("argo", 2, 5), ("always_retrieve", 2, 6))):
        write_job(tmp_path / str(number), strategy, ratio, right=right)
    analyse(tmp_path)
    found = json.loads((tmp_path / "analysis.json").read_text())
    (group,) = found["groups"]
    assert group["jobs"] == ["0", "1", "2"]
    assert group["metrics"]["argo_c1_accuracy"]["value"] == pytest.approx(5 / 6)
    assert group["metrics"]["always_retrieve_accuracy"]["value"] == 1.0
    assert found["summary"][0].startswith("ARGO does not reach always_retrieve's accuracy")
    assert found["tables"][0]["rows"][0][:3] == ["argo", "1, 2", "RP"]  # the words of all jobs
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "graph_1a.svg", "graph_1b.svg", "graph_cost.svg",
    ]  # fmt: skip
    shown = Outline((tmp_path / "trajectories.html").read_text())
    assert len(shown.sections) == 6
    assert shown.walks == 7  # question 5 alone was walked in two ways
    assert "argo at 1, 2 always_retrieve at 2" in " ".join(text for _, text in shown.texts if text)


def test_seeds_are_kept_apart(tmp_path: Path) -> None:
    for number, (strategy, seed) in enumerate((s, i) for i in (1, 2) for s in ("argo", "always_retrieve")):
        write_job(tmp_path / str(number), strategy, 2, seed=seed, right=4 if seed == 1 else 2)
    analyse(tmp_path)
    found = json.loads((tmp_path / "analysis.json").read_text())
    assert [(one["group"], one["jobs"]) for one in found["groups"]] == [("seed=1", ["0", "1"]), ("seed=2", ["2", "3"])]
    assert [one["metrics"]["argo_c2_accuracy"]["value"] for one in found["groups"]] == pytest.approx([4 / 6, 2 / 6])
    assert [said.partition(":")[0] for said in found["summary"]] == ["seed=1", "seed=2"]
    assert (tmp_path / "plots" / "graph_1a_seed-2.svg").exists()
    assert (tmp_path / "trajectories_seed-1.html").exists()


def test_fewer_than_two_cells_are_no_curve(tmp_path: Path) -> None:
    write_job(tmp_path / "0", "argo", 2, seed=1)
    write_job(tmp_path / "1", "argo", 2, seed=2)
    analyse(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
