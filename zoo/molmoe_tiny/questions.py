"""What can be asked about a scene, with its answer: the four data sets.

`shapes` counts and names; `text` reads; `commonsense` needs a fact that the image does not show; `diagram` is multiple
choice with one, two or three hops from bar to bar, and up to three from tile to tile. Answers are as even as a scene
allows: a question that a glance at its words answers teaches nothing about the knobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zoo.molmoe_tiny.drawing import COLOURS, SHAPES
from zoo.molmoe_tiny.scenes import COUNTRIES, FACTS, SIGNS, Scene, Thing, bars, flag, objects, signs, tiles

MOST_CHOICES = 4
ABOUT_COUNTRIES = ("capital", "continent", "language", "currency")
ABOUT_ELEMENTS = ("symbol", "mass", "period")
ASKED_FACTS = 4
"""Most facts that are asked about one thing."""
HOPS = (0.5, 0.3, 0.2)
"""How often tiles are walked one, two or three steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about an image."""

    text: str
    answer: str
    hops: int = 1
    """How many things must be found one after another."""
    open_text: str = ""
    """Of multiple choice: the same question without the choices."""


def shapes(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Counting, colour, shape, yes and no."""
    things = scene.things
    colours, kinds = Counter(t.colour for t in things), Counter(t.kind for t in things)
    asked = [Question(text="how many objects are there?", answer=str(len(things)))]
    asked += [Question(text=f"how many {colour} objects are there?", answer=str(n)) for colour, n in colours.items()]
    asked += [Question(text=f"how many {kind}s are there?".replace("ss ", "sses "), answer=str(n))
              for kind, n in kinds.items()]  # fmt: skip
    asked += [Question(text=f"what color is the {t.kind}?", answer=t.colour) for t in things if kinds[t.kind] == 1]
    asked += [Question(text=f"what shape is the {t.colour} object?", answer=t.kind)
              for t in things if colours[t.colour] == 1]  # fmt: skip
    there = {(t.colour, t.kind) for t in things}
    absent = [(c, k) for c in colours for k in kinds if (c, k) not in there] or [
        (c, k) for c in COLOURS for k in SHAPES if (c, k) not in there
    ]
    for colour, kind in (_one(rng, sorted(there)), _one(rng, absent)):
        answer = "yes" if (colour, kind) in there else "no"
        asked.append(Question(text=f"is there a {colour} {kind}?", answer=answer, hops=2))
    return asked


def text(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Words and numbers, found by the colour of their sign, and the other way round."""
    asked = []
    for sign in scene.things:
        asked.append(Question(text=f"what is on the {sign.colour} sign?", answer=sign.text, hops=2))
        asked.append(Question(text=f"what color is the sign with {sign.text}?", answer=sign.colour, hops=2))
    return asked


def commonsense(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """A colour, a flag or an atomic number, and a fact about it."""
    asked = []
    for thing in scene.things:
        if thing.kind == "sign":
            for name, answer in zip(ABOUT_ELEMENTS, FACTS["elements"][int(thing.text)], strict=True):
                words = f"what is the {name} of the {thing.colour} element?"
                asked.append(Question(text=words, answer=str(answer), hops=2))
        elif thing.kind == "flag":
            asked.append(Question(text="which country has this flag?", answer=thing.country))
            for i, name in enumerate(ABOUT_COUNTRIES, start=1):
                answer = FACTS["countries"][thing.country][i]
                asked.append(Question(text=f"what is the {name} of this country?", answer=answer, hops=2))
        elif sum(other.kind == thing.kind for other in scene.things) == 1:
            at = list(COLOURS).index(thing.colour)
            facts = [
                Question(text=f"which {name} has the color of the {thing.kind}?", answer=answers[at], hops=2)
                for name, answers in FACTS["colours"].items()
            ]
            facts += [
                Question(text=f"what is the color of the {thing.kind} in {name}?", answer=answers[at], hops=2)
                for name, answers in FACTS["words"].items()
            ]
            asked += [facts[i] for i in sorted(rng.permutation(len(facts))[:ASKED_FACTS])]
    return asked


def diagram(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Bars: the tallest, a neighbour, the neighbour of the tallest, the taller neighbour. Tiles: `_walks`."""
    things = scene.things
    if things[0].kind == "tile":
        return _walks(scene, rng)
    by_height = sorted(things, key=lambda bar: bar.level)
    asked: list[tuple[str, Thing, int]] = [
        ("which bar is tallest?", by_height[-1], 1),
        ("which bar is shortest?", by_height[0], 1),
    ]
    for i, bar in enumerate(things):
        for word, j in (("left", i - 1), ("right", i + 1)):
            if not 0 <= j < len(things):
                continue
            asked.append((f"which bar is {word} of {bar.colour}?", things[j], 1))
            if bar in (by_height[0], by_height[-1]):
                extreme = "tallest" if bar is by_height[-1] else "shortest"
                asked.append((f"which bar is {word} of the {extreme}?", things[j], 2))
        if 0 < i < len(things) - 1:
            pair = sorted((things[i - 1], things[i + 1]), key=lambda bar: bar.level)
            asked.append((f"which bar beside {bar.colour} is taller?", pair[1], 3))
    return [_choices(scene, words, right, hops, rng) for words, right, hops in asked]


def _walks(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One to three steps from every tile."""
    by_colour = {tile.colour: tile for tile in scene.things}
    asked = []
    for start in scene.things:
        hops = 1 + int(rng.choice(len(HOPS), p=HOPS))
        end = start
        for _ in range(hops):
            end = by_colour[end.next]
        asked.append(_choices(scene, f"from {start.colour} go {hops} on:", end, hops, rng))
    return asked


def _choices(scene: Scene, words: str, right: Thing, hops: int, rng: np.random.Generator) -> Question:
    """A question with the colours of up to four bars of the chart to choose from."""
    others = rng.permutation([bar.colour for bar in scene.things if bar is not right])[: MOST_CHOICES - 1]
    options = [str(colour) for colour in rng.permutation([right.colour, *others])]
    listed = f"{', '.join(options[:-1])} or {options[-1]}"
    return Question(text=f"{words} {listed}", answer=right.colour, hops=hops, open_text=words)


def _one(rng: np.random.Generator, among: list[tuple[str, str]]) -> tuple[str, str]:
    return among[int(rng.integers(len(among)))]


def _scene_of_objects(rng: np.random.Generator, tone: int) -> Scene:
    return objects(rng, int(rng.integers(1, 10)), tone)


def _scene_of_steps(rng: np.random.Generator, tone: int) -> Scene:
    """Bars or tiles."""
    return bars(rng, tone) if rng.random() < 0.5 else tiles(rng, tone)


def _scene_of_facts(rng: np.random.Generator, tone: int) -> Scene:
    """Atomic numbers in three of five; else a flag, or shapes, at least one of them the only one of its kind."""
    kind = rng.random()
    if kind < 0.6:
        return signs(rng, tone, numeric=1.0)
    if kind < 0.8:
        return flag(rng, tone)
    while True:
        scene = objects(rng, int(rng.integers(2, 5)), tone)
        if 1 in Counter(thing.kind for thing in scene.things).values():
            return scene


SETS: dict[str, tuple[Callable[[np.random.Generator, int], Scene], Callable[..., list[Question]]]] = {
    "shapes": (_scene_of_objects, shapes),
    "text": (signs, text),
    "commonsense": (_scene_of_facts, commonsense),
    "diagram": (_scene_of_steps, diagram),
}
"""Name of a data set -> what draws its scenes, and what asks about them."""


def every_word() -> list[str]:
    """All that a question or an answer is made of, for the tokenizer."""
    told = [answer for kind in ("colours", "words") for answers in FACTS[kind].values() for answer in answers]
    told += [str(fact) for row in FACTS["countries"].values() for fact in row[1:]]
    asked = [f"which {name} has the color of the {kind}?" for name in FACTS["colours"] for kind in SHAPES]
    asked += [f"what is the color of the {kind} in {name}?" for name in FACTS["words"] for kind in SHAPES]
    asked += [f"what is the {name} of this country?" for name in ABOUT_COUNTRIES]
    asked += [f"what is the {name} of the {colour} element?" for name in ABOUT_ELEMENTS for colour in COLOURS]
    told += [str(fact) for row in FACTS["elements"].values() for fact in row]
    return [*told, *asked, *COUNTRIES, *SIGNS, *COLOURS, *SHAPES, "yes", "no"]
