"""Set the knobs of a decoder, and run its experts in one of two ways, with the numbers of transformers' own loop.

`SPARSE` computes what is routed and no more than that, save for padding that is cheaper than leaving it out, so it
takes longer with every expert more.
`DENSE` computes every expert for every token and multiplies what was not routed by zero: wasted products, yet faster
for a batch, and far faster backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

SPARSE, DENSE = "sparse_experts", "dense_masked"
"""Names of the two, for `set_experts_implementation`."""
FEW = 400
"""Up to so many rows, tokens times top-k, each expert's are padded to the most that one has. Of 16 experts on a CPU
that takes 16 to 32 % off a prompt of 28 tokens; one of 180 tokens it would make 8 to 53 % slower."""
SLICE = 1024
"""Tokens that a dense product takes at once: what lies between its two halves stays in the cache."""


def sparse_experts(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Output (tokens, width) of the experts of one block; the routed are (tokens, top_k).

    One token takes the batched product of transformers, which for many would copy an expert's weights for each.
    """
    if len(hidden) == 1:
        out: Tensor = ALL_EXPERTS_FUNCTIONS["batched_mm"](experts, hidden, top_k_index, top_k_weights)
        return out
    way = _padded if top_k_index.numel() <= FEW else _sorted
    return way(experts, hidden, top_k_index, top_k_weights)


def _padded(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """One product of all experts, each with as many rows as the busiest; the rows beyond its own are not read."""
    tokens, k = top_k_index.shape
    chosen = top_k_index.new_zeros(tokens, experts.num_experts).scatter(1, top_k_index, 1)
    rank = chosen.cumsum(0)
    most = int(rank[-1].max())
    place = (top_k_index * most + rank.gather(1, top_k_index) - 1).flatten()
    token = place.new_zeros(experts.num_experts * most)
    token[place] = torch.arange(tokens, device=token.device).repeat_interleave(k)
    rows = hidden[token].view(experts.num_experts, most, -1)
    gate, up = torch.bmm(rows, experts.gate_up_proj.transpose(1, 2)).chunk(2, dim=-1)
    told = torch.bmm(experts.act_fn(gate) * up, experts.down_proj.transpose(1, 2)).flatten(0, 1)
    out: Tensor = torch.bmm(top_k_weights[:, None].to(hidden.dtype), told[place].view(tokens, k, -1))[:, 0]
    return out


def _sorted(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Slice by slice of the rows sorted by expert, without the loop's searches through all tokens."""
    tokens, k = top_k_index.shape
    order = top_k_index.flatten().argsort(stable=True)
    counts = top_k_index.flatten().bincount(minlength=experts.num_experts).tolist()
    routed = hidden[order // k]
    inner = routed.new_empty(len(routed), 2 * experts.intermediate_dim)
    _by_slices(experts.gate_up_proj, routed, counts, out=inner)
    gate, up = inner.chunk(2, dim=-1)
    inner = experts.act_fn(gate) * up * top_k_weights.flatten()[order, None].to(hidden.dtype)
    _by_slices(experts.down_proj, inner, counts, out=routed)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return routed[place].view(tokens, k, -1).sum(1)


def _by_slices(weights: Tensor, rows: Tensor, counts: list[int], *, out: Tensor) -> None:
    """The first `counts[0]` rows by the first of the weights (experts, out, in), and so on."""
    for weight, taken, told in zip(weights, torch.split(rows, counts), torch.split(out, counts), strict=True):
        if len(taken):
            torch.mm(taken, weight.T, out=told)


def dense_masked(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Output (tokens, width) of the experts of one block; the routed are (tokens, top_k)."""
    # one flat product each, without strided views: twice as fast on a CPU
    gate, up = (weights.flatten(0, 1).T for weights in experts.gate_up_proj.chunk(2, dim=1))
    down = experts.down_proj.transpose(1, 2).flatten(0, 1)
    shares = hidden.new_zeros(len(hidden), experts.num_experts).scatter(1, top_k_index, top_k_weights.to(hidden.dtype))
    told = []
    for rows, share in zip(torch.split(hidden, SLICE), torch.split(shares, SLICE), strict=True):
        inner = experts.act_fn(rows @ gate) * (rows @ up)
        told.append((inner.unflatten(1, (experts.num_experts, -1)) * share[:, :, None]).flatten(1) @ down)
    return torch.cat(told)


ALL_EXPERTS_FUNCTIONS.register(SPARSE, sparse_experts)
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
