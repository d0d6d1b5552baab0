"""Distil the draft: the teacher's blocks `BLOCKS`, fine-tuned to name the teacher's next token.

The loss at a position is the cross-entropy against the teacher's top-8 probabilities, renormalised over the draft's
shortened vocabulary (Hinton et al. 2015, arXiv:1503.02531, at temperature 1). The teacher's embeddings serve as input
and output embeddings and stay frozen, so the draft's file holds its blocks alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger(__name__)

BLOCKS = (0, 1, 29)
HEAD_TOKENS = 6000
BATCH, EPOCHS, PEAK_LR, WARMUP = 16, 4, 1e-3, 200
PROMPT_WEIGHT = 0.1  # positions outside an answer are never drafted, but they teach the language


@dataclass(slots=True)
class Corpus:
    """All shards in memory: (rows, length[, top]) arrays as `teacher.write` made them."""

    tokens: np.ndarray
    written: np.ndarray
    ids: np.ndarray
    logprobs: np.ndarray
    answer: np.ndarray  # first position of the answer in each row

    def __len__(self) -> int:
        return len(self.tokens)


def read(shards: list[Path], bridge: list[int]) -> Corpus:
    """Load shards and find where each answer starts (the row's end where there is none)."""
    parts = [dict(np.load(path)) for path in shards]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tokens, written = joined["tokens"], joined["written"]
    windows = np.lib.stride_tricks.sliding_window_view(tokens, len(bridge), axis=1)
    hits = (windows == np.array(bridge, dtype=tokens.dtype)).all(-1)
    last = hits.shape[1] - 1 - hits[:, ::-1].argmax(1)
    answer = np.where(hits.any(1), last + len(bridge), written)
    return Corpus(tokens, written, joined["ids"], joined["logprobs"], answer)


def common_tokens(corpus: Corpus, special: list[int]) -> np.ndarray:
    """The HEAD_TOKENS tokens most frequent in answers, ascending; `special` ones always among them."""
    position = np.arange(corpus.tokens.shape[1])
    inside = (position >= corpus.answer[:, None]) & (position < corpus.written[:, None])
    count = np.bincount(corpus.tokens[inside], minlength=1 << 16)
    count[special] = count.max() + 1
    return np.sort(np.argsort(-count, kind="stable")[:HEAD_TOKENS])


def cut(teacher: nn.Module, blocks: tuple[int, ...]) -> nn.Module:
    """A float32 copy of the teacher with `blocks` alone, embeddings frozen."""
    config = type(teacher.config).from_dict(teacher.config.to_dict() | {"num_hidden_layers": len(blocks)})
    draft = type(teacher)(config).float()
    state = {name: value.float() for name, value in teacher.state_dict().items() if ".layers." not in name}
    for new, old in enumerate(blocks):
        for name, value in teacher.model.layers[old].state_dict().items():
            state[f"model.layers.{new}.{name}"] = value.float()
    draft.load_state_dict(state)
    draft.model.embed_tokens.weight.requires_grad_(False)
    return draft


class Distiller:
    """Loss and agreement of a draft on corpus rows; holds the frozen, shortened head."""

    def __init__(self, draft: nn.Module, head_ids: np.ndarray) -> None:
        self.draft = draft
        self.head = draft.model.embed_tokens.weight.detach()[torch.from_numpy(head_ids)]
        self.compact = torch.full((1 << 16,), -1)
        self.compact[torch.from_numpy(head_ids)] = torch.arange(len(head_ids))

    def __call__(self, corpus: Corpus, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Weighted distillation loss (scalar), and the share of answer positions where both argmaxes agree."""
        longest = int(corpus.written[rows].max())
        tokens = torch.from_numpy(corpus.tokens[rows, : longest - 1].astype(np.int64))
        ids = torch.from_numpy(corpus.ids[rows, : longest - 1].astype(np.int64))
        target = torch.from_numpy(corpus.logprobs[rows, : longest - 1]).float().exp()
        position = torch.arange(longest - 1)
        inside = position < torch.from_numpy(corpus.written[rows]).unsqueeze(1) - 1
        answer = inside & (position >= torch.from_numpy(corpus.answer[rows]).unsqueeze(1) - 1)
        compact = self.compact[ids]
        target = target * (compact >= 0)
        mass = target.sum(-1, keepdim=True)
        weight = (answer + PROMPT_WEIGHT * (inside & ~answer)) * (mass[..., 0] > 0)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.draft.model(input_ids=tokens).last_hidden_state
            logits = F.linear(hidden, self.head)
        # gather the eight targeted log-probabilities instead of forming a dense target: 750x less memory
        chosen = F.log_softmax(logits, dim=-1, dtype=torch.float32).gather(-1, compact.clamp(min=0))
        loss = -(target / mass.clamp(min=1e-9) * chosen).sum(-1)
        same = (logits.argmax(-1) == compact[..., 0]) & answer
        return (loss * weight).sum() / weight.sum(), same.sum() / answer.sum()


def batches(corpus: Corpus, epoch: int) -> Iterator[np.ndarray]:
    """Shuffled batches of rows of like length, so that little is computed on padding."""
    rng = np.random.default_rng(epoch)
    order = np.argsort(corpus.written + rng.random(len(corpus)) * 16, kind="stable")
    groups = [order[i : i + BATCH] for i in range(0, len(order) - BATCH + 1, BATCH)]
    return (groups[i] for i in rng.permutation(len(groups)))


def agreement(distiller: Distiller, corpus: Corpus) -> float:
    """Share of the held-out answers' positions where the draft's argmax is the teacher's."""
    with torch.inference_mode():
        groups = [np.arange(i, min(i + 32, len(corpus))) for i in range(0, len(corpus), 32)]
        return float(np.mean([float(distiller(corpus, rows)[1]) for rows in groups]))


def train(
    teacher: nn.Module, corpus: Corpus, held_out: Corpus, head_ids: np.ndarray, checkpoint: Path, epochs: int = EPOCHS
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train to the end, resuming from `checkpoint` when it exists; returns the draft and its learning curve."""
    draft = cut(teacher, BLOCKS)
    distiller = Distiller(draft, head_ids)
    trained = [p for p in draft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.01)
    steps = epochs * (len(corpus) // BATCH)
    step, curve = 0, []
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        draft.load_state_dict(saved["draft"])
        optimizer.load_state_dict(saved["optimizer"])
        step, curve = saved["step"], saved["curve"]
    per_epoch = len(corpus) // BATCH
    smooth = 0.0
    while step < steps:
        for i, rows in enumerate(batches(corpus, step // per_epoch)):
            if i < step % per_epoch:
                continue  # done before the interruption
            rate = PEAK_LR * min(1.0, (step + 1) / WARMUP) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, same = distiller(corpus, rows)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            smooth = float(same) if smooth == 0 else 0.98 * smooth + 0.02 * float(same)
            if step % 250 == 0 or step == steps:
                curve.append({"step": step, "train": round(smooth, 4), "held_out": agreement(distiller, held_out)})
                log.info("step %d of %d: %s", step, steps, curve[-1])
                state = {"draft": draft.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "curve": curve}
                torch.save(state, checkpoint.with_suffix(".part"))
                checkpoint.with_suffix(".part").replace(checkpoint)
            if step == steps:
                break
            if step % per_epoch == 0:
                break
    return draft.eval(), curve
