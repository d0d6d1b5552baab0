"""Set the knobs of a decoder, and run its experts as one dense product where many tokens are computed at once.

Dense masked experts compute every expert for every token and multiply what was not routed by zero: the numbers of the
sparse loop, wasted products included, and many times faster on a CPU for a batch. A single answer runs its experts one
by one (`eager`), which takes longer with every expert more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

DENSE = "dense_masked"
"""Name of the dense experts; `eager` are the sparse ones."""


def dense_masked(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Output (tokens, width) of the experts of one block; the routed are (tokens, top_k)."""
    gate_weight, up_weight = experts.gate_up_proj.chunk(2, dim=1)
    # one flat product each and no strided view between them: twice as fast on a CPU
    gate = hidden @ gate_weight.flatten(0, 1).T
    up = hidden @ up_weight.flatten(0, 1).T
    weights = gate.new_zeros(len(hidden), experts.num_experts)
    weights = weights.scatter(1, top_k_index, top_k_weights.to(gate.dtype))
    inner = experts.act_fn(gate) * up * weights.repeat_interleave(experts.intermediate_dim, dim=1)
    out: Tensor = inner @ experts.down_proj.transpose(1, 2).flatten(0, 1)
    return out


ALL_EXPERTS_FUNCTIONS.register(DENSE, dense_masked)


@contextmanager
def knobs(
    model: Any, *, top_k: int | None = None, kept: Sequence[int] | None = None, mode: str = "native"
) -> Iterator[None]:
    """Within this block the decoder routes to `top_k` experts and has only the blocks `kept`, numbered anew.

    What is left out is not computed, and a cache holds one layer for each block that is kept. Afterwards the model is
    as it was.

    Args:
        model: a vision-language model whose decoder is `model.model.language_model`.
        top_k: experts a token; None: the model's own. A decoder without experts has no such knob.
        kept: numbers of the blocks that run; None: all.
        mode: weights of the chosen experts: `native`, `renorm` or `mass` (schema.py).
    """
    decoder = model.model.language_model
    blocks = decoder.layers
    numbers = range(len(blocks)) if kept is None else sorted(kept)
    chosen = [blocks[number] for number in numbers]
    gates = [gate for gate in map(gate_of, chosen) if gate is not None]
    own = [gate.top_k for gate in gates]
    rope_types = getattr(decoder, "rope_types", None)  # Molmo2's: the kind of rotary embedding of each block
    hooks = []
    try:
        decoder.layers = nn.ModuleList(chosen)
        if rope_types is not None:
            decoder.rope_types = [rope_types[number] for number in numbers]
        for place, block in enumerate(chosen):
            block.self_attn.layer_idx = place
        for gate in gates:
            if mode != "native":
                hooks.append(gate.register_forward_hook(_scaled(gate, mode)))
            gate.top_k = top_k or gate.top_k
        yield
    finally:
        decoder.layers = blocks
        if rope_types is not None:
            decoder.rope_types = rope_types
        for number, block in enumerate(blocks):
            block.self_attn.layer_idx = number
        for gate, k in zip(gates, own, strict=True):
            gate.top_k = k
        for hook in hooks:
            hook.remove()


def gate_of(block: Any) -> Any:
    """The router of a block's experts; None: it has none."""
    gate = getattr(block.mlp, "gate", None)
    return gate if hasattr(gate, "top_k") else None


def _scaled(gate: Any, mode: str) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Hook that scales the weights of a token's experts: to 1, or to what the model's own top-k sums to."""
    own = gate.top_k
    to_one = mode == "renorm" or gate.norm_topk_prob

    def scale(gate: Any, args: Any, outputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        logits, weights, chosen = outputs
        weights = weights / weights.sum(-1, keepdim=True)
        if not to_one:
            weights = weights * logits.float().softmax(-1).topk(own).values.sum(-1, keepdim=True).to(weights.dtype)
        return logits, weights, chosen

    return scale
