"""The decoder as training runs it: every row of a batch at its own setting of the knobs, in one graph of one shape.

What a row leaves out is masked here, so that any mixture of settings has the same shapes and a compiler can fuse the
graph (1.8 times as fast on a CPU). The numbers are those of controller/knobs.py, which really leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controller import crops
from zoo.molmoe_tiny.batches import ALL_TOKENS, Batch, mask, positions, tokens_of
from zoo.molmoe_tiny.model import TOP_KS

SMALL = TOP_KS[3:]
"""Top-k of smaller paths; a full path has the largest. What is trained at less too has nothing to lose there."""

JITTER = 1.0
"""Scale of Gumbel noise on the router's logits, which makes training's choice of experts almost random.

The routers are drawn once and never trained (Chen et al. 2023, "Sparse MoE as the new dropout", arXiv:2303.01610).
Trained ones find a token the one expert that does nearly all it needs, and choose it first: the other eleven are not
missed, however even the weights are. Chosen at random, experts share the work, and more of them do it better.
"""


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
    """Every block, the largest top-k, tiers drawn by their probabilities."""
    names = rng.choice(list(tiers), size=rows, p=list(tiers.values()))
    return _paths(names, np.full(rows, max(TOP_KS)), np.ones((blocks, rows), dtype=bool))


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


def jitter(rng: np.random.Generator, blocks: int, rows: int, length: int, experts: int) -> Tensor:
    """Noise for the choice of experts in every block, (blocks, rows x length, experts)."""
    return torch.from_numpy(JITTER * rng.gumbel(size=(blocks, rows * length, experts)).astype(np.float32))


def answer(
    model: Any, batch: Batch, seen: Tensor, paths: Paths, run: Callable[..., Tensor], noise: Tensor | None = None
) -> Tensor:
    """Logits (answer tokens, vocabulary) from the vision tokens of all grids, (images, 224, width).

    `run` is `decode`, or what a compiler made of it; `noise` is from `jitter`, None: the router alone chooses.
    """
    decoder = model.model.language_model
    embeds = torch.cat([seen, model.get_input_embeddings()(batch.ids).to(seen.dtype)], dim=1)
    turns = decoder.rotary_emb(embeds, positions(batch, paths.vision))
    if noise is None:
        noise = embeds.new_zeros(len(paths.kept), 1, 1, dtype=torch.float)
    hidden = run(decoder, embeds, mask(batch.segment, paths.vision), turns, paths.top_k, paths.kept, noise)
    logits: Tensor = model.lm_head(hidden[:, ALL_TOKENS:][batch.scored]).float()
    return logits


def decode(
    decoder: Any, hidden: Tensor, seen: Tensor, turns: tuple[Tensor, Tensor], top_k: Tensor, kept: Tensor, noise: Tensor
) -> Tensor:
    """The blocks one after another."""
    routed = (torch.arange(max(TOP_KS)) < top_k[:, None, None]).expand(-1, hidden.shape[1], -1).flatten(0, 1)
    for block, runs, heard in zip(decoder.layers, kept, noise, strict=True):
        inner = (
            hidden
            + block.self_attn(
                block.input_layernorm(hidden), attention_mask=seen, position_embeddings=turns, past_key_values=None
            )[0]
        )
        tokens = block.post_attention_layernorm(inner).flatten(0, 1)
        likely = block.mlp.gate(tokens)[0].float().log_softmax(-1)
        chosen = (likely + heard).topk(max(TOP_KS), dim=-1).indices
        weights = likely.gather(1, chosen).exp()
        out = inner + block.mlp.experts(tokens, chosen, weights * routed).view_as(inner)
        hidden = torch.where(runs[:, None, None], out, hidden)
    last: Tensor = decoder.norm(hidden)
    return last


def _paths(tiers: np.ndarray, top_k: np.ndarray, kept: np.ndarray) -> Paths:
    vision = torch.stack([tokens_of(str(tier)) for tier in tiers])
    return Paths(vision=vision, top_k=torch.from_numpy(top_k), kept=torch.from_numpy(kept))
