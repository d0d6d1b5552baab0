"""The figures and the page of samples: every number has its place, the same input gives the same bytes."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from controller import page, plots
from controller.baselines import Standing, Table, standings
from controller.importance import analyse
from controller.space import Space
from suite.errors import UserError
from suite.stats import Estimate

SPACE = Space(tiers=("low", "medium", "high"), top_ks=(4, 6, 8, 10, 12), depths=(8, 10, 12, 14, 16))
KNOBS = {"tier": SPACE.tiers, "top_k": SPACE.top_ks, "blocks": SPACE.depths}
RANDOM = np.random.default_rng(0)
PLACES = SPACE.places()
LATENCY = 20 + 8 * PLACES[:, 0] + 2 * PLACES[:, 1] + 7 * PLACES[:, 2] + RANDOM.normal(0, 1.5, (20, 75))
CHANCE = 0.3 + 0.1 * PLACES[:, 0] + 0.012 * PLACES[:, 1] + 0.05 * PLACES[:, 2]
FIXED = Table(accuracy=(RANDOM.random((20, 75)) < CHANCE).astype(float), latency_ms=LATENCY)
BUDGETS = np.linspace(22, 70, 3)
NAMES = ("two_stage", "grpo", "masked", "supervised", "lookup", "random", "oracle")


def stands() -> dict[str, list[Standing]]:
    columns = np.sort(RANDOM.integers(0, 75, (len(NAMES), 3)), axis=1)
    return {
        name: standings(FIXED.pick(chosen), FIXED, BUDGETS, seed=1) for name, chosen in zip(NAMES, columns, strict=True)
    }


def estimates(values: Any) -> list[Estimate]:
    return [Estimate(value=float(x), ci95=(float(x) - 0.05, float(x) + 0.05), n=50) for x in values]


def curve(more: float, *, groups: bool = True) -> list[dict[str, float]]:
    rows = [{"epoch": i, "reward": more - 1 / i, "entropy": 4.3 / i, "frac_zero_std": 0.5} for i in range(1, 20)]
    return rows if groups else [{name: row[name] for name in ("epoch", "reward", "entropy")} for row in rows]


STANDS = stands()
SHARES = {
    name: {knob: RANDOM.dirichlet(np.ones(len(settings)), 3) for knob, settings in KNOBS.items()}
    for name in ("two_stage", "grpo")
}
CONFUSION = {knob: RANDOM.integers(0, 90, (len(settings), len(settings))) for knob, settings in KNOBS.items()}
PARTS = {
    name: (measured, measured * RANDOM.normal(1, 0.05, 900))
    for name in ("vision_encoder_ms", "projector_ms", "prefill_ms", "decode_ms")
    for measured in [np.exp(RANDOM.normal(2, 0.5, 900))]
}
ERRORS = {name: 0.02 + 0.1 * RANDOM.random(75) for name in (*PARTS, "total_ms")}
EFFECTS = {
    quantity: {
        knob: dict(zip(map(str, settings), estimates(np.linspace(*ends, len(settings))), strict=True))
        for knob, settings in KNOBS.items()
    }
    for quantity, ends in (("accuracy", (0.4, 0.6)), ("latency, ms", (40, 80)))
}
LOST = RANDOM.random((200, 8)) < np.r_[0.6, RANDOM.random(7) * 0.2]
FOUND = analyse(
    np.vstack([np.ones(200), 1.0 - LOST.T]),
    RANDOM.random((200, 8)),
    ["shapes", "diagram"] * 100,
    depths=(4,),
    diagrams=("diagram",),
    seed=1,
)
CURVES = {"grpo": curve(0.6), "exact": curve(0.63, groups=False)}
QUANTITIES = ("reward", "entropy", "frac_zero_std")

FIGURES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "tradeoff": (
        lambda path: plots.draw_tradeoff(path, FIXED, STANDS),
        ("accuracy", "mean latency of a sample, ms", "hull of them", "fixed configurations", *NAMES),
    ),
    "adherence": (
        lambda path: plots.draw_adherence(path, STANDS, target=0.8),
        ("budget, ms", "target 0.8", "mean", "p90", "p95", *NAMES),
    ),
    "confusion": (lambda path: plots.draw_confusion(path, SPACE, CONFUSION), ("label", "chosen", "tier", "medium")),
    "knobs": (
        lambda path: plots.draw_knobs(path, SPACE, BUDGETS.tolist(), SHARES),
        ("tier", "top_k", "blocks", "low", "16", "two_stage", "grpo", "22", "70"),
    ),
    "training": (
        lambda path: plots.draw_training(path, CURVES, quantities=QUANTITIES, optimum={"reward": 0.61}),
        ("reward", "frac zero std", "exact optimum", "epoch"),
    ),
    "importance": (
        lambda path: plots.draw_importance(path, FOUND),
        ("accuracy drop", "block influence", "merged", "diagram", f"{100 * FOUND.keep_by[0]:.1f}"),
    ),
    "importance_bars": (
        lambda path: plots.draw_importance_bars(path, FOUND),
        ("shapes", "merged", f"{FOUND.keep_by[0]:.2f}"),
    ),
    "estimator_errors": (
        lambda path: plots.draw_estimator_errors(path, SPACE, ERRORS),
        ("low/k4", "high/k12", "vision encoder", "total", f"{100 * ERRORS['total_ms'][-1]:.0f}"),
    ),
    "estimates": (lambda path: plots.draw_estimates(path, PARTS), ("prefill", "measured, ms", "predicted, ms")),
    "regret": (lambda path: plots.draw_regret(path, STANDS), NAMES[:-1]),
    "marginals": (
        lambda path: plots.draw_marginals(path, EFFECTS),
        ("accuracy", "latency, ms", "tier", "medium", "12"),
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_names_what_it_shows_and_is_the_same_bytes(name: str, tmp_path: Path) -> None:
    draw, words = FIGURES[name]
    for number in (1, 2):
        draw(tmp_path / f"{number}.svg")
    first = (tmp_path / "1.svg").read_text()
    assert first == (tmp_path / "2.svg").read_text()
    assert "dc:date" not in first  # nor do they change with the day
    told = re.findall(r"<text[^>]*>(?:<tspan[^>]*>)?([^<]+)", first)
    assert {word.replace("\u2212", "-") for word in told} >= set(words)
    assert len(first) < 700_000
    assert not re.search(r'rect[^>]*fill="#fff|style="fill: #ffffff', first)  # the page's own colour shows through


def test_the_oracle_has_no_regret_to_show(tmp_path: Path) -> None:
    plots.draw_regret(tmp_path / "regret.svg", STANDS)
    assert "oracle<" not in (tmp_path / "regret.svg").read_text().replace("the oracle of", "")


def test_a_baseline_looks_the_same_whatever_else_there_is() -> None:
    every, few = (dict(zip(names, plots._looks(names), strict=True)) for names in (NAMES, ("random", "new", "oracle")))
    assert {few[name] for name in ("random", "oracle")} == {every[name] for name in ("random", "oracle")}
    assert few["new"] == every["two_stage"]
    assert len(set(every.values())) == len(every)


def test_what_was_not_measured_is_a_gap(tmp_path: Path) -> None:
    gap = Estimate(value=None, ci95=None, n=0)
    effects = {"accuracy": {"tier": {"low": gap, "medium": gap, "high": estimates([0.5])[0]}}}
    plots.draw_marginals(tmp_path / "gap.svg", effects)
    assert "nan" not in (tmp_path / "gap.svg").read_text().lower()
    blank = {"decode_ms": (np.array([np.nan, 0.0]), np.array([1.0, 1.0]))}
    plots.draw_estimates(tmp_path / "blank.svg", blank)
    unknown = {"decode_ms": np.where(np.arange(75) < 3, np.nan, 0.1)}
    plots.draw_estimator_errors(tmp_path / "unknown.svg", SPACE, unknown)
    assert (tmp_path / "unknown.svg").read_text().count(">10<") == 73  # 72 cells and one heading


def test_one_budget_and_one_policy_are_enough(tmp_path: Path) -> None:
    one = {"grpo": STANDS["grpo"][:1]}
    plots.draw_tradeoff(tmp_path / "a.svg", FIXED, one)
    plots.draw_adherence(tmp_path / "b.svg", one, target=0.8)
    plots.draw_regret(tmp_path / "c.svg", one)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        plots.draw_regret(tmp_path / "none" / "regret.svg", STANDS)


EVIL = "<script>alert('&')</script>"
PNG = b"\x89PNG of "


def row(name: str, **other: Any) -> dict[str, Any]:
    run = {"tier": "low", "top_k": 4, "blocks": 8, "answer": EVIL, "accuracy": 0.0, "decision_ms": 0.05}
    runs = [
        {**run, "budget_ms": 20.0, "total_ms": 21.5, "met": False},
        {**run, "budget_ms": 40.0, "total_ms": 33.0, "met": True, "tier": "high", "answer": "red", "accuracy": 1.0},
        {**run, "budget_ms": 60.0, "total_ms": 34.0, "met": True, "answer": "pink", "accuracy": 0.3},
    ]
    answers = ["red"] * 9 + [EVIL]
    return {"id": name, "dataset": "shapes", "question": f"What of {EVIL}?", "answers": answers, "runs": runs, **other}


class Outline(HTMLParser):
    """Cells by class, tags that opened, addresses, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        if tag == "td":
            self.cells.append((found.get("class", ""), ""))

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.tags[-1] == "td":
            kind, text = self.cells[-1]
            self.cells[-1] = kind, text + data.strip()


def test_page_shows_every_run_and_escapes_what_it_shows(tmp_path: Path) -> None:
    page.write(tmp_path / "samples.html", [row("a&b")], lambda name: PNG + name.encode())
    text = (tmp_path / "samples.html").read_text()
    found = Outline(text)
    assert "script" not in found.tags
    assert found.addresses == ["data:image/png;base64," + base64.b64encode(PNG + b"a&b").decode()]
    assert f"What of {EVIL}?" in found.words
    assert f"red ×9 | {EVIL}" in found.words
    assert found.cells[:8] == [
        ("number", "20.0"), ("", "low"), ("number", "4"), ("number", "8"), ("wrong", f"✗ {EVIL}"), ("number", "21.5"),
        ("number", "0.05"), ("wrong", "✗ no"),
    ]  # fmt: skip
    assert found.cells[12] == ("right", "✓ red")
    assert found.cells[15] == ("right", "✓ yes")
    assert found.cells[20] == ("partly", "≈ pink 0.3 right")
    assert "67% of 3 runs within the budget, shapes 1." in found.words
    assert text == page.page([row("a&b")], lambda name: PNG + name.encode())


@pytest.mark.parametrize(("size", "kept"), [((1, 1), (1, 1)), ((96, 96), (96, 96)), ((8000, 2000), (384, 96))])
def test_a_huge_image_is_shrunk_and_a_small_one_is_not(size: tuple[int, int], kept: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "red")
    told = Image.open(io.BytesIO(page.png(image)))
    assert (told.format, told.size, told.getpixel((0, 0))) == ("PNG", kept, (255, 0, 0))
    assert image.size == size


@pytest.mark.parametrize(("rows", "shown"), [(0, 0), (1, 1), (60, 60), (61, 31), (500, 56)])
def test_page_shows_some_samples_of_all_along_the_rows(rows: int, shown: int) -> None:
    found = Outline(page.page([row(f"s{i}") for i in range(rows)], lambda name: PNG))
    assert found.tags.count("section") == shown
    assert f"{shown} of {rows} samples." in found.words
