"""The decoder as training runs it: every row of a batch at its own setting of the knobs, in one graph of one shape.

What a row leaves out is masked here, so that any mixture of settings has the same shapes and a compiler can fuse the
graph (1.8 times as fast on a CPU). The numbers are those of controller/knobs.py, which really leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controller import crops
from zoo.molmoe_tiny.batches import ALL_TOKENS, Batch, mask, positions, tokens_of
from zoo.molmoe_tiny.model import TOP_KS

LARGE = (8, max(TOP_KS))
"""Top-k of full paths: the reference's, and the largest."""
SMALL = TOP_KS[1:]
"""Top-k of smaller paths. The smallest of all is never trained: a model that was would lose nothing there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The knobs of every row."""

    vision: Tensor
    """(rows, 224): which vision tokens the row's tier has."""
    top_k: Tensor
    """(rows,): experts a token."""
    kept: Tensor
    """(blocks, rows): whether the block runs."""


def full(rng: np.random.Generator, rows: int, blocks: int, tiers: dict[str, float]) -> Paths:
    """Every block, a large top-k, tiers drawn by their probabilities."""
    names = rng.choice(list(tiers), size=rows, p=list(tiers.values()))
    return _paths(names, rng.choice(LARGE, size=rows), np.ones((blocks, rows), dtype=bool))


def small(rng: np.random.Generator, rows: int, blocks: int) -> Paths:
    """Any tier, a top-k of `SMALL`, up to a quarter of the blocks dropped, late ones rather than early ones."""
    kept = np.ones((blocks, rows), dtype=bool)
    rising = np.arange(1, blocks + 1, dtype=float)
    for row in range(rows):
        dropped = int(rng.integers(0, blocks // 4 + 1))
        kept[rng.choice(blocks, size=dropped, replace=False, p=rising / rising.sum()), row] = False
    return _paths(rng.choice(list(crops.TIERS), size=rows), rng.choice(SMALL, size=rows), kept)


def joined(first: Paths, second: Paths) -> Paths:
    """The rows of both."""
    return Paths(
        vision=torch.cat([first.vision, second.vision]),
        top_k=torch.cat([first.top_k, second.top_k]),
        kept=torch.cat([first.kept, second.kept], dim=1),
    )


def answer(
    model: Any, batch: Batch, seen: Tensor, paths: Paths, run: Callable[..., tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (answer tokens, vocabulary) from the vision tokens of all grids, (images, 224, width); balance; spread.

    `run` is `decode`, or what a compiler made of it. Balance is the mean over blocks of the load-balancing loss
    (Fedus et al. 2022, arXiv:2101.03961); 1 is even. Spread is how far the routing of a token is from all experts
    alike, the mean Kullback-Leibler divergence in nats: where few experts carry a token, its top-k changes nothing.
    """
    decoder = model.model.language_model
    embeds = torch.cat([seen, model.get_input_embeddings()(batch.ids).to(seen.dtype)], dim=1)
    turns = decoder.rotary_emb(embeds, positions(batch, paths.vision))
    there = torch.cat([paths.vision, batch.segment > 0], dim=1)
    seen_by = mask(batch.segment, paths.vision)
    hidden, balance, spread = run(decoder, embeds, seen_by, turns, there, paths.top_k, paths.kept)
    return model.lm_head(hidden[:, ALL_TOKENS:][batch.scored]).float(), balance, spread


def decode(
    decoder: Any, hidden: Tensor, seen: Tensor, turns: tuple[Tensor, Tensor], there: Tensor, top_k: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The blocks one after another; `there` are the tokens that count in the balance, (rows, length)."""
    rank = torch.arange(max(TOP_KS))
    routed = (rank < top_k[:, None, None]) & there[:, :, None]
    routed = routed.flatten(0, 1)
    counted = there.flatten().float()
    balance = spread = hidden.new_zeros((), dtype=torch.float)
    for block, runs in zip(decoder.layers, kept, strict=True):
        inner = (
            hidden
            + block.self_attn(
                block.input_layernorm(hidden), attention_mask=seen, position_embeddings=turns, past_key_values=None
            )[0]
        )
        tokens = block.post_attention_layernorm(inner).flatten(0, 1)
        logits, weights, chosen = block.mlp.gate(tokens)
        out = inner + block.mlp.experts(tokens, chosen, weights * routed).view_as(inner)
        load = torch.zeros(logits.shape).scatter(1, chosen, routed.float()).sum(0)
        likely = logits.float().log_softmax(-1)
        share = (likely.exp() * counted[:, None]).sum(0) / counted.sum()
        balance = balance + len(load) * (load / load.sum() * share).sum()
        spread = spread + math.log(len(load)) + ((likely.exp() * likely).sum(-1) * counted).sum() / counted.sum()
        hidden = torch.where(runs[:, None, None], out, hidden)
    return decoder.norm(hidden), balance / len(kept), spread / len(kept)


def _paths(tiers: np.ndarray, top_k: np.ndarray, kept: np.ndarray) -> Paths:
    vision = torch.stack([tokens_of(str(tier)) for tier in tiers])
    return Paths(vision=vision, top_k=torch.from_numpy(top_k), kept=torch.from_numpy(kept))
