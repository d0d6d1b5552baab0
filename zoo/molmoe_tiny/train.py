"""Train the model: first its eyes alone, on what each vision token shows, then the whole on answers, then the knobs.

The eyes (tower and projector) learn what lies under every vision token; without this start the decoder learns which
answers are frequent, finds the image useless, and stays there. The whole model then learns with every block, at any
tier, for `WHOLE_SHARE` of its steps. After that every step trains the full path, and every other one also a smaller
path drawn at random, taught by the full one's answers (the sandwich rule, Yu and Huang 2019, arXiv:1903.05134, with
in-place distillation as in Cai et al. 2020, arXiv:1908.09791). Late blocks are dropped more often than early ones and
never more than a quarter: heavier or earlier dropping puts all the work into the first two blocks.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from controller import crops
from controller.knobs import DENSE, knobs
from suite.rng import generator
from zoo.molmoe_tiny import corpus
from zoo.molmoe_tiny.batches import Batch, Maker, mask, positions, tokens_of
from zoo.molmoe_tiny.model import TOP_KS

log = logging.getLogger(__name__)

AUXILIARY, BALANCE, OWN = 0.3, 0.01, 0.5
"""Weights of the vision tokens' loss, of even routing, and of the smaller path's own answers beside its teacher's."""
NOTHING = 0.15
"""Weight of a vision token that shows nothing, in the vision tokens' loss."""
SHARP = 4.0
"""What a word's match with a vision token is multiplied by at the start."""
WHOLE_SHARE = 0.88
"""Share of the steps in which every block runs."""
SAVE_EVERY = 100
SHOWN = ("loss", "right", "eyes_loss", "balance", "small_loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long each stage takes, and what a step holds."""

    eyes: int
    whole: int
    images: int = 16
    eye_images: int = 32
    text: int = 72
    """Most text tokens that follow an image."""
    peak_lr: float = 1.5e-3
    eyes_lr: float = 3e-3


class Eyes(nn.Module):
    """The heads that say what a vision token must contain, most of them in the decoder's own words.

    A token that shows a red circle must look like the embeddings of " red" and " circle". So question and image speak
    one language before the decoder learns anything, and matching them is one thing to learn, not one a word.
    """

    def __init__(self, model: Any, tok: Any) -> None:
        super().__init__()
        self._embedding = [model.get_input_embeddings()]  # in a list: its weights are the model's
        width = model.config.text_config.hidden_size
        self.words = {name: [tok(text)["input_ids"][0] for text in texts] for name, texts in corpus.WORDS.items()}
        self.turn = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.full((len(self.words),), SHARP))
        self.nothing = nn.Parameter(torch.zeros(len(self.words)))
        self.plain = nn.ModuleDict(
            {name: nn.Linear(width, size) for name, size in corpus.LABELS.items() if name not in self.words}
        )

    def forward(self, seen: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the heads; seen is (..., width), labels (..., len(corpus.LABELS))."""
        total = seen.new_zeros(())
        for logits, truth in zip(self.logits(seen), labels.flatten(0, -2).T, strict=True):
            weight = torch.ones(logits.shape[-1])
            weight[0] = NOTHING
            total = total + F.cross_entropy(logits, truth, weight)
        return total / len(corpus.LABELS)

    def logits(self, seen: Tensor) -> tuple[Tensor, ...]:
        """Scores of each head, (tokens, its answers)."""
        tokens = seen.flatten(0, -2)
        turned = self.turn(tokens)
        return tuple(self._head(name, turned if name == "next" else tokens).float() for name in corpus.LABELS)

    def _head(self, name: str, tokens: Tensor) -> Tensor:
        if name in self.plain:
            told: Tensor = self.plain[name](tokens)
            return told
        place = list(self.words).index(name)
        scores = self.scale[place] * (tokens @ self._embedding[0].weight[self.words[name]].T.to(tokens.dtype))
        return torch.cat([self.nothing[place].expand(len(tokens), 1).to(scores.dtype), scores], dim=1)


class Routing:
    """While active, collects how evenly the gates spread the tokens."""

    def __init__(self, model: Any) -> None:
        self.losses: list[Tensor] = []
        for block in model.model.language_model.layers:
            block.mlp.gate.register_forward_hook(self._note)

    def _note(self, gate: Any, args: Any, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, _, chosen = outputs
        if logits.requires_grad:
            load = torch.bincount(chosen.flatten(), minlength=gate.num_experts).float() / chosen.numel()
            self.losses.append(gate.num_experts * (load * logits.float().softmax(-1).mean(0)).sum())

    def take(self) -> Tensor:
        """Mean load-balancing loss (Fedus et al. 2022, arXiv:2101.03961; 1 is even) since the last call."""
        mean = torch.stack(self.losses).mean()
        self.losses.clear()
        return mean


def see(model: Any, batch: Batch) -> Tensor:
    """Vision tokens of all three grids, (images, 56, width)."""
    features = model.model.vision_tower(batch.pixels).last_hidden_state
    return model.model.multi_modal_projector(features).view(len(batch.ids), -1, model.config.text_config.hidden_size)


def answer(model: Any, batch: Batch, seen: Tensor) -> Tensor:
    """Logits (answer tokens, vocabulary) from the vision tokens of one tier, (images, tokens, width)."""
    vision = seen.shape[1]
    embeds = torch.cat([seen, model.get_input_embeddings()(batch.ids).to(seen.dtype)], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=embeds, attention_mask=mask(batch.segment, vision), position_ids=positions(batch, vision),
        use_cache=False,
    ).last_hidden_state[:, vision:]  # fmt: skip
    return model.lm_head(hidden[batch.scored]).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of the knobs."""

    tier: str
    top_k: int
    kept: tuple[int, ...] | None = None


def first_path(rng: np.random.Generator) -> Setting:
    """Any tier, with every block, at the reference's top-k or at the largest."""
    tier = str(rng.choice(list(crops.TIERS), p=[0.2, 0.2, 0.6]))
    return Setting(tier=tier, top_k=int(rng.choice([8, max(TOP_KS)])))


def full_path(rng: np.random.Generator) -> Setting:
    """The high tier with every block, at the reference's top-k or at the largest."""
    return Setting(tier="high", top_k=int(rng.choice([8, max(TOP_KS)])))


def small_path(rng: np.random.Generator, blocks: int) -> Setting:
    """Any tier, any top-k, up to a quarter of the blocks dropped, late ones rather than early ones."""
    dropped = int(rng.integers(0, blocks // 4 + 1))
    rising = np.arange(1, blocks + 1, dtype=float)
    gone = rng.choice(blocks, size=dropped, replace=False, p=rising / rising.sum())
    kept = tuple(i for i in range(blocks) if i not in gone)
    return Setting(tier=str(rng.choice(list(crops.TIERS))), top_k=int(rng.choice(TOP_KS)), kept=kept)


def train(model: Any, tok: Any, schedule: Schedule, checkpoint: Path) -> list[dict[str, float]]:
    """Run what is left of the schedule; the learning curve, one entry every `SAVE_EVERY` steps.

    Args:
        model: untrained, in float32.
        tok: its tokenizer.
        schedule: lengths of the stages.
        checkpoint: written every `SAVE_EVERY` steps; where it exists, training goes on from it.
    """
    eyes, routing = Eyes(model, tok), Routing(model)
    model.model.language_model.set_experts_implementation(DENSE)
    model.set_attn_implementation("eager")  # fused attention is slower backwards on a CPU
    both = nn.ModuleList([model, eyes])
    matrices = [p for p in both.parameters() if p.ndim > 1]
    vectors = [p for p in both.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
    step, curve, total = 0, [], schedule.eyes + schedule.whole
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        both.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, curve = saved["step"], saved["curve"]
    makers = {
        True: Maker(tok, images=schedule.eye_images, text=0),
        False: Maker(tok, images=schedule.images, text=schedule.text),
    }
    model.train()
    started, seen = time.perf_counter(), []
    while step < total:
        looking = step < schedule.eyes
        _norms(model.model.vision_tower, training=looking)
        batch = makers[looking].batch(step)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, schedule)
        optimizer.zero_grad(set_to_none=True)
        shown = look(model, eyes, batch) if looking else learn(model, eyes, routing, batch, step, schedule)
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


def _norms(tower: nn.Module, *, training: bool) -> None:
    """Once the eyes know the images the statistics of their batch norms stay: what is trained is what is measured.

    Only the norms: in evaluation mode LeViT's attention keeps its biases from one call, and their graph, to the next.
    """
    for module in tower.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(training)


def look(model: Any, eyes: Eyes, batch: Batch) -> dict[str, float]:
    """One step of the eyes alone: gradients of the vision tokens' loss."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = eyes(see(model, batch), batch.labels)
    loss.backward()
    return {"eyes_loss": loss.item()}


def learn(model: Any, eyes: Eyes, routing: Routing, batch: Batch, step: int, schedule: Schedule) -> dict[str, float]:
    """One step of the whole: gradients of the full path and, late and in every other step, of a smaller one."""
    rng = generator(corpus.SEED, "path", step)
    late = step - schedule.eyes >= schedule.whole * WHOLE_SHARE
    path = full_path(rng) if late else first_path(rng)
    truth = batch.ids.roll(-1, 1)[batch.scored]
    with torch.autocast("cpu", torch.bfloat16):
        seen = see(model, batch)
        # the paths share the eyes' work: their gradients meet here
        shared = seen.detach().requires_grad_()
        eyes_loss = eyes(seen, batch.labels)
        with knobs(model, top_k=path.top_k):
            logits = answer(model, batch, shared[:, tokens_of(path.tier)])
        loss, balance = F.cross_entropy(logits, truth), routing.take()
    (loss + BALANCE * balance).backward()
    right = (logits.argmax(-1) == truth).float().mean()
    shown = {"loss": loss.item(), "right": right.item(), "eyes_loss": eyes_loss.item(), "balance": balance.item()}
    if late and step % 2:
        small = small_path(rng, len(model.model.language_model.layers))
        taught = logits.detach().softmax(-1)
        with torch.autocast("cpu", torch.bfloat16), knobs(model, top_k=small.top_k, kept=small.kept):
            logits = answer(model, batch, shared[:, tokens_of(small.tier)])
            loss = F.cross_entropy(logits, taught) + OWN * F.cross_entropy(logits, truth)
            balance = routing.take()
        (loss + BALANCE * balance).backward()
        shown["small_loss"] = F.cross_entropy(logits.detach(), truth).item()
    torch.autograd.backward([AUXILIARY * eyes_loss, seen], [None, shared.grad])
    return shown


def _rate(step: int, schedule: Schedule) -> float:
    """Warm-up and cosine decay, once for the eyes and once for the whole."""
    first = step < schedule.eyes
    length, peak = (schedule.eyes, schedule.eyes_lr) if first else (schedule.whole, schedule.peak_lr)
    at = step if first else step - schedule.eyes
    return peak * min(1.0, (at + 1) / 50) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * at / length)))
