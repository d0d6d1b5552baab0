"""Requests the teacher answers while it writes training text: six kinds of work, each a small grammar.

They cover the categories of Spec-Bench (Xia et al. 2024, arXiv:2401.07851). The prompts the pair is measured on
(`zoo/prompts`) are written by hand and share no topic sentence with these; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

GRAMMAR: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """One of them."""
    return choices[int(rng.integers(len(choices)))]


def mathematics(rng: np.random.Generator) -> str:
    """A word problem or a sum with fresh numbers."""
    a, b, c = (int(n) for n in rng.integers(2, 60, 3))
    name, other, things = pick(rng, GRAMMAR["names"]), pick(rng, GRAMMAR["names"]), pick(rng, GRAMMAR["things"])
    forms = [
        f"What is {a} + {b}?",
        f"What is {a} times {b}?",
        f"Calculate {a * b} divided by {b}.",
        f"Solve for x: {a}x + {b} = {a * c + b}",
        f"{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?",
        f"{name} has {a + b} {things} and gives {b} to {other}. How many are left?",
        f"A box holds {a} {things}. How many {things} are in {b} boxes? Show your work.",
        f"A train travels {a * 5} km in {c} hours. What is its average speed?",
        f"{name} earns ${a} an hour and works {b} hours. How much does {name} earn? Explain step by step.",
        f"What is {c}% of {a * 10}?",
        f"The sides of a rectangle are {a} cm and {b} cm. What is its area? What is its perimeter?",
        f"{a} {things} cost ${a * c}. How much do {b} {things} cost?",
    ]
    return pick(rng, forms)


def request(rng: np.random.Generator, passages: Sequence[str]) -> str:
    """One user request; `passages` are texts the teacher wrote earlier, for summaries and grounded questions."""
    words = {
        "name": pick(rng, GRAMMAR["names"]),
        "things": pick(rng, GRAMMAR["things"]),
        "place": pick(rng, GRAMMAR["places"]),
        "topic": pick(rng, GRAMMAR["topics"]),
        "other": pick(rng, GRAMMAR["topics"]),
    }
    kind = int(rng.integers(6))
    if kind == 0:
        return f"Write {pick(rng, GRAMMAR['forms'])} about {words['topic']}."
    if kind == 1:
        return pick(rng, GRAMMAR["questions"]).format(**words)
    if kind == 2:
        return mathematics(rng)
    if kind == 3:
        sentence = pick(rng, GRAMMAR["sentences"]).format(**words)
        language = pick(rng, GRAMMAR["languages"])
        return pick(rng, [f"Translate into {language}: {sentence}", f'How do you say "{sentence}" in {language}?'])
    passage, second = pick(rng, list(passages)), pick(rng, list(passages))
    word = pick(rng, [w.strip(".,:;!?*\"'") for w in passage.split() if len(w) > 5] or ["it"])
    question = pick(rng, GRAMMAR["questions"]).format(topic=word, other=words["other"])
    form = pick(rng, GRAMMAR["summary"] if kind == 4 else GRAMMAR["grounded"])
    return form.format(passage=passage, second=second[:300], word=word, question=question)
