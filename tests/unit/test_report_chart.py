"""Charts: where points lie, what they tell, which are on the front, and that nothing in a name becomes markup."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from suite.report.chart import HEIGHT, WIDTH, Axis, Point, Series, chart
from suite.report.plot import pareto
from suite.report.words import less_is_better

SVG = "{http://www.w3.org/2000/svg}"
EVIL = '<script>"&'


def point(x: float, y: float, **other: Any) -> Point:
    return Point(**{"job": "0", "x": x, "y": y, "title": "t", **other})


def drawn(*series: Series, **other: Any) -> ElementTree.Element:
    titles = {"title": "t", "x_title": "x", "y_title": "y", "joined": True}
    return ElementTree.fromstring(chart(series, **{**titles, **other}))


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 10], [0, 2.5, 5, 7.5, 10]),
        ([0.1, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5]),
        ([-3, 41], [-20, 0, 20, 40, 60]),
        ([5, 5], [4.5, 4.75, 5, 5.25, 5.5]),
        ([0, 0], [-1, -0.5, 0, 0.5, 1]),
        ([1e-9, 4e-9], [1e-9, 2e-9, 3e-9, 4e-9]),
    ],
)
def test_ticks_are_round_and_enclose_all_values(values: list[float], ticks: list[float]) -> None:
    axis = Axis(values, 0, 100)
    assert axis.ticks == pytest.approx(ticks)
    assert axis(ticks[0]) == pytest.approx(0)
    assert axis(ticks[-1]) == pytest.approx(100)


def test_every_point_and_interval_is_inside_and_tells_its_job() -> None:
    points = [point(i, i * i, y_ci=(i * i - 9, i * i + 30), x_ci=(i - 1, i + 1), job=f"a {i}") for i in range(5)]
    root = drawn(Series(label="s", points=tuple(points)))
    links = list(root.iter(f"{SVG}a"))
    assert [link.get("data-job") for link in links] == [f"a {i}" for i in range(5)]
    assert links[2].get("href") == "#run-a%202"
    for path in root.iter(f"{SVG}path"):
        if path.get("class") in ("bar", "line"):
            for place in path.get("d", "")[1:].split("L"):
                x, y = map(float, place.split())
                assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
    lines = [path for path in root.iter(f"{SVG}path") if path.get("class") == "line"]
    assert [line.get("data-jobs") for line in lines][0] == '["a 0", "a 1"]'
    assert not [path for path in drawn(Series(label="", points=tuple(points)), joined=False) if path.get("data-jobs")]


def test_the_place_is_the_value() -> None:
    low, high = (link for link in drawn(Series(label="", points=(point(0, 0), point(10, 10)))).iter(f"{SVG}a"))
    first, second = (link.find(f"{SVG}path").get("d") for link in (low, high))  # type: ignore[union-attr]
    assert first is not None and second is not None
    assert float(first[1:].split()[0]) < float(second[1:].split()[0])  # right is more
    assert float(first.split()[1].split("a")[0]) > float(second.split()[1].split("a")[0])  # up is more


def test_names_stay_text() -> None:
    evil = point(1, 1, title=EVIL, label=EVIL, job=EVIL)
    root = drawn(Series(label=EVIL, points=(evil, point(2, 2))), title=EVIL, x_title=EVIL, y_title=EVIL)
    assert not list(root.iter(f"{SVG}script"))
    assert [text.text for text in root.iter(f"{SVG}text")].count(EVIL) == 5


def test_labels_do_not_cover_each_other_and_long_legends_are_cut() -> None:
    crowd = tuple(point(1 + i / 1000, 1, label=f"label {i}") for i in range(10))
    texts = [
        text.text or "" for text in drawn(Series(label="x" * 200, points=(*crowd, point(9, 9)))).iter(f"{SVG}text")
    ]
    assert [text for text in texts if text.startswith("label")] == ["label 0"]
    assert [text for text in texts if text.endswith("…")][0].startswith("xxx")


def test_the_front_is_what_nobody_beats() -> None:
    found = [point(1, 5), point(2, 4), point(2, 7), point(3, 7), point(4, 9), point(1, 5)]
    assert [(p.x, p.y) for p in pareto(found, -1, 1)] == [(1, 5), (2, 7), (4, 9)]  # spend less, gain more
    assert [(p.x, p.y) for p in pareto(found, 1, 1)] == [(4, 9)]
    assert [(p.x, p.y) for p in pareto(found, -1, -1)] == [(1, 5), (2, 4)]


@pytest.mark.parametrize(
    ("name", "unit", "less"),
    [
        ("ttft_ms", "ms", True), ("cloud_call_rate", "1", True), ("cost", "1", True), ("llm_calls", "1", True),
        ("otps", "tokens/s", False), ("accuracy", "1", False), ("acceptance_rate", "1", False), ("bleu", "1", False),
    ],
)  # fmt: skip
def test_what_is_spent_is_known_by_unit_or_name(name: str, unit: str, less: bool) -> None:
    assert less_is_better(name, unit) == less
