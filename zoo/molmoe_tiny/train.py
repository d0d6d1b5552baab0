"""Train the model: first its eyes, on what each vision token shows, then the decoder on answers, then the knobs.

The eyes (eyes.py) stay as they are once the decoder begins. The decoder learns with every block, at any tier, for
`WHOLE_SHARE` of its steps, first from all data sets alike, then mostly from what is hardest. After that every image is
answered twice in a step: on a full path, and on a smaller one drawn at random and taught by the full one's answers (the
sandwich rule, Yu and Huang 2019, arXiv:1903.05134, with in-place distillation as in Cai et al. 2020, arXiv:1908.09791).
Routers are not trained, and experts are chosen almost at random (`paths.JITTER`). Late blocks are dropped more often
than early ones and never more than a quarter: heavier or earlier dropping puts all the work into the first two blocks.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from controller.knobs import DENSE
from suite.rng import generator
from zoo.molmoe_tiny import corpus, paths
from zoo.molmoe_tiny.batches import Batch, Maker
from zoo.molmoe_tiny.eyes import Eyes, see
from zoo.molmoe_tiny.model import EXPERTS

log = logging.getLogger(__name__)

OWN = 0.5
"""Weight of the smaller path's own answers beside its teacher's."""
EXPERT_RATE = 4.0
"""Learning rate of the experts' matrices over that of all others: unnormalised routing divides what they do by 16."""
WHOLE_SHARE = 0.85
"""Share of the decoder's steps in which every block runs."""
EARLY_TIERS = {"low": 0.2, "medium": 0.2, "high": 0.6}
LATE_TIERS = {"low": 0.0, "medium": 0.0, "high": 1.0}
"""How often a full path has a tier, before and after the knobs are trained."""
EVEN_SHARES = {"shapes": 4, "text": 4, "commonsense": 4, "diagram": 4}
HARD_SHARES = {"shapes": 2, "text": 2, "commonsense": 6, "diagram": 6}
"""Images of each data set in a batch of the decoder, at first and then."""
EYES_SHARES = {"shapes": 2, "text": 8, "commonsense": 3, "diagram": 3}
"""Of 16 images, those of each data set while the eyes learn: what is hard to see comes more often."""
SAVE_EVERY = 200
SHOWN = ("loss", "right", "eyes_loss", "small_loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long each stage takes, and what a step holds."""

    eyes: int
    even: int
    """Steps of the decoder on all data sets alike."""
    whole: int
    """All steps of the decoder."""
    units: int = 1
    """Times the shares in a batch of the decoder."""
    eye_units: int = 2
    """Times `EYES_SHARES` in a batch of the eyes."""
    text: int = 96
    """Most text tokens that follow an image."""
    peak_lr: float = 1e-3
    eyes_lr: float = 3e-3

    @property
    def late(self) -> int:
        """The step from which the knobs are trained."""
        return self.eyes + round(self.whole * WHOLE_SHARE)


def train(model: Any, tok: Any, schedule: Schedule, checkpoint: Path) -> list[dict[str, float]]:
    """Run what is left of the schedule; the learning curve, one entry every `SAVE_EVERY` steps.

    Args:
        model: untrained, in float32.
        tok: its tokenizer.
        schedule: lengths of the stages.
        checkpoint: written every `SAVE_EVERY` steps; where it exists, training goes on from it.
    """
    eyes = Eyes(model, tok)
    model.model.language_model.set_experts_implementation(DENSE)
    model.set_attn_implementation("eager")  # fused attention is slower backwards on a CPU
    both = nn.ModuleList([model, eyes])
    for block in model.model.language_model.layers:
        block.mlp.gate.requires_grad_(False)
    trained = [(name, p) for name, p in both.named_parameters() if p.requires_grad]
    vectors = [p for _, p in trained if p.ndim <= 1]
    experts = [p for name, p in trained if ".experts." in name]
    matrices = [p for name, p in trained if p.ndim > 1 and ".experts." not in name]
    groups = [
        {"params": experts, "weight_decay": 0.05 / EXPERT_RATE, "times": EXPERT_RATE},
        {"params": matrices, "weight_decay": 0.05, "times": 1.0},
        {"params": vectors, "weight_decay": 0.0, "times": 1.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
    step, curve, total = 0, [], schedule.eyes + schedule.whole
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        both.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, curve = saved["step"], saved["curve"]
    makers = _makers(tok, schedule)
    run = torch.compile(paths.decode, dynamic=False)
    started, seen = time.perf_counter(), []
    while step < total:
        stage = _stage(step, schedule)
        # norms learn with the eyes; once the decoder begins, what it is trained on is what is measured
        model.train(stage == "eyes")
        batch = makers[stage].batch(step)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, schedule) * group["times"]
        optimizer.zero_grad(set_to_none=True)
        late = stage == "late"
        shown = look(model, eyes, batch) if stage == "eyes" else learn(model, batch, step, run, twice=late)
        norm = torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient of step {step} is {norm}; the last checkpoint is {checkpoint}")
        optimizer.step()
        seen.append([shown.get(name, math.nan) for name in SHOWN])
        step += 1
        if step % SAVE_EVERY == 0 or step in (schedule.eyes, total):
            mean = zip(SHOWN, np.array(seen).T, strict=True)
            told = {name: round(float(x[x == x].mean()), 4) for name, x in mean if (x == x).any()}
            curve.append({"step": step, **told})
            log.info("%s (%.2f s a step)", curve[-1], (time.perf_counter() - started) / len(seen))
            state = {"model": both.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "curve": curve}
            torch.save(state, partial := checkpoint.with_suffix(".partial"))
            partial.replace(checkpoint)
            started, seen = time.perf_counter(), []
    model.eval()
    return curve


def look(model: Any, eyes: Eyes, batch: Batch) -> dict[str, float]:
    """One step of the eyes: gradients of the vision tokens' loss."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = eyes(see(model, batch), batch.labels)
    loss.backward()
    return {"eyes_loss": loss.item()}


def learn(model: Any, batch: Batch, step: int, run: Any, *, twice: bool) -> dict[str, float]:
    """One step of the decoder, which `run` runs: gradients of the full paths and, if `twice`, of smaller ones."""
    rng, rows = generator(corpus.SEED, "path", step), len(batch.ids)
    blocks = len(model.model.language_model.layers)
    way = paths.full(rng, rows, blocks, LATE_TIERS if twice else EARLY_TIERS)
    truth = batch.ids.roll(-1, 1)[batch.scored]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen = see(model, batch)
    if twice:
        way, batch, seen = paths.joined(way, paths.small(rng, rows, blocks)), _doubled(batch), torch.cat([seen, seen])
    noise = paths.jitter(rng, blocks, len(batch.ids), seen.shape[1] + batch.ids.shape[1], EXPERTS)
    with torch.autocast("cpu", torch.bfloat16):
        logits = paths.answer(model, batch, seen, way, run, noise)
    told = logits[: len(truth)]
    loss = F.cross_entropy(told, truth)
    shown = {"loss": loss.item(), "right": (told.argmax(-1) == truth).float().mean().item()}
    if twice:
        small = logits[len(truth) :]
        own = F.cross_entropy(small, truth)
        loss = loss + F.cross_entropy(small, told.detach().softmax(-1)) + OWN * own
        shown["small_loss"] = own.item()
    loss.backward()
    return shown


def _doubled(batch: Batch) -> Batch:
    texts = ("ids", "segment", "place", "scored")
    return replace(batch, **{name: getattr(batch, name).repeat(2, 1) for name in texts})


def _stage(step: int, schedule: Schedule) -> str:
    if step < schedule.eyes:
        return "eyes"
    if step < schedule.eyes + schedule.even:
        return "even"
    return "hard" if step < schedule.late else "late"


def _makers(tok: Any, schedule: Schedule) -> dict[str, Maker]:
    """What draws the batches of each stage; a late batch has half the images, each answered twice."""

    def maker(shares: dict[str, int], units: float, text: int) -> Maker:
        return Maker(tok, shares={name: int(units * share) for name, share in shares.items()}, text=text)

    return {
        "eyes": maker(EYES_SHARES, schedule.eye_units, 0),
        "even": maker(EVEN_SHARES, schedule.units, schedule.text),
        "hard": maker(HARD_SHARES, schedule.units, schedule.text),
        "late": maker(HARD_SHARES, schedule.units / 2, schedule.text),
    }


def _rate(step: int, schedule: Schedule) -> float:
    """Warm-up and cosine decay, once for the eyes and once for the decoder."""
    first = step < schedule.eyes
    length, peak = (schedule.eyes, schedule.eyes_lr) if first else (schedule.whole, schedule.peak_lr)
    at = step if first else step - schedule.eyes
    return peak * min(1.0, (at + 1) / 50) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * at / length)))
