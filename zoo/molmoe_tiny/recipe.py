"""Rebuild `zoo/molmoe_tiny`: train the model, store what is held out, measure what each knob is worth.

    python -m zoo build molmoe_tiny           killed, it goes on; CARD.md says how long it took
    python -m zoo build molmoe_tiny --quick   the same steps in miniature, into the work folder only

No step needs the network or a GPU. The steps are corpus.py (drawing.py, scenes.py, questions.py), train.py
(eyes.py, paths.py, batches.py), measure.py and card.py.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from zoo.molmoe_tiny import card, corpus, measure, model, train

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
SCHEDULE = train.Schedule(eyes=2600, even=3600, whole=9800)
QUICK = train.Schedule(eyes=4, even=2, whole=6, eye_units=1, text=40)
HELD_OUT = {"tune": 500, "test": 500}
"""Images of each data set in each split that is not trained on."""


def fit(checkpoint: Path, target: Path, schedule: train.Schedule) -> None:
    """Train, or what is left of it; the model goes to `target` in bfloat16, with its tokenizer and its curve."""
    torch.manual_seed(0)
    tok = model.tokenizer()
    made = model.new(tok)
    curve = train.train(made, tok, schedule, checkpoint)
    made.to(torch.bfloat16).save_pretrained(target)
    tok.save_pretrained(target)
    (target / "curve.json").write_text(json.dumps(curve, indent=1) + "\n")


def figures(folder: Path, *, count: int, samples: int, rounds: int) -> dict[str, Any]:
    """Importance, accuracy by knob and latency of a stored model, on `count` held-out images of each data set."""
    made, tok = model.load(folder)
    scores = measure.importance(measure.Judge(made, tok, "tune", count))
    log.info("importance by block: %s", [round(score, 3) for score in scores])
    accuracy = measure.marginals(measure.Judge(made, tok, "test", count), scores)
    times = measure.latency(made, tok, scores, samples=samples, rounds=rounds)
    return {"importance": scores, "accuracy": accuracy, "latency": times}


def build(workdir: Path, *, quick: bool) -> None:
    """Run every step that is not done yet; see the module's docstring."""
    target = workdir / "quick" if quick else HERE
    fit(workdir / ("quick.pt" if quick else "whole.pt"), target, QUICK if quick else SCHEDULE)
    for split, count in HELD_OUT.items():
        corpus.write(target / "held_out", split, 4 if quick else count)
    size = {"count": 4, "samples": 1, "rounds": 1} if quick else {"count": 250, "samples": 3, "rounds": 6}
    found = figures(target, **size)
    (target / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    if not quick:
        card.write(HERE)
    log.info("What each knob is worth:\n%s", "\n".join(card.table(found)))
