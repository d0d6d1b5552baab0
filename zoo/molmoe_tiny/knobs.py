"""Set the knobs of the decoder, and run its experts as one dense product while it trains.

Dense masked experts compute every expert for every token and multiply what was not routed by zero: the numbers of the
sparse loop, wasted products included, and many times faster backwards on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

DENSE = "dense_masked"
TOP_KS = (4, 6, 8, 10, 12)
DEPTHS = (8, 10, 12, 14, 16)


def dense_masked(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Output (tokens, width) of the experts of one block; the routed are (tokens, top_k)."""
    gate_weight, up_weight = experts.gate_up_proj.chunk(2, dim=1)
    # one flat product each and no strided view between them: twice as fast on a CPU
    gate = hidden @ gate_weight.flatten(0, 1).T
    up = hidden @ up_weight.flatten(0, 1).T
    weights = gate.new_zeros(len(hidden), experts.num_experts)
    weights = weights.scatter(1, top_k_index, top_k_weights.to(gate.dtype))
    inner = experts.act_fn(gate) * up * weights.repeat_interleave(experts.intermediate_dim, dim=1)
    return inner @ experts.down_proj.transpose(1, 2).flatten(0, 1)


ALL_EXPERTS_FUNCTIONS.register(DENSE, dense_masked)


@contextmanager
def knobs(model: Any, *, top_k: int | None = None, kept: Sequence[int] | None = None) -> Iterator[None]:
    """Within this block the decoder routes to `top_k` experts and has only the blocks `kept`, numbered anew."""
    decoder = model.model.language_model
    blocks = list(decoder.layers)
    before = [block.mlp.gate.top_k for block in blocks]
    chosen = [blocks[i] for i in (range(len(blocks)) if kept is None else sorted(kept))]
    decoder.layers = nn.ModuleList(chosen)
    for place, block in enumerate(chosen):
        block.self_attn.layer_idx = place
        block.mlp.gate.top_k = top_k or block.mlp.gate.top_k
    try:
        yield
    finally:
        decoder.layers = nn.ModuleList(blocks)
        for place, (block, k) in enumerate(zip(blocks, before, strict=True)):
            block.self_attn.layer_idx = place
            block.mlp.gate.top_k = k


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
