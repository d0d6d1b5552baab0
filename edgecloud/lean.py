"""The Llama forward pass with nothing else in it: fused projections, one preallocated cache, no module calls.

At one token a step the weights' memory traffic is the floor and everything else is overhead; `transformers` spends a
third of a 135M model's time there on two cores. Same weights, same arithmetic: in float32 the logits differ from
`LlamaForCausalLM`'s by rounding alone (tests/unit/test_lean.py). Of a Qwen2.5-Omni thinker it runs the text decoder:
without pictures the three rows of positions are equal, and the multimodal rotary embedding is the plain one. On a
CPU it can pack the weights (packed.py). What it does not know: batches (batch.py), biases beyond qkv, scaled rotary
embeddings, sliding windows, weights that others quantised; `lean_supports` says no to those.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecloud.packed import BLOCK, Matrix, Packed, Reordered, linear
from suite.errors import UserError

FIRST_LENGTH = 512  # cache positions allocated at first; doubled when full
PROJECTIONS = ["self_attn." + x for x in ("q_proj", "k_proj", "v_proj", "o_proj")]
PROJECTIONS += ["mlp." + x for x in ("gate_proj", "up_proj", "down_proj")]

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q (n, heads, dim), k, v (n, groups, dim)) -> (n, heads x dim): caches k and v, and attends."""


class Sound(NamedTuple):
    """What is heard among the tokens fed: `embeddings` (m, width), instead of those of the tokens at indices `at`."""

    at: list[int]
    embeddings: Tensor


def _decoder(model: Any) -> Any:
    """The stack of layers: of an audio model, its part that reads text."""
    body = getattr(model, "model", None)
    return getattr(body, "language_model", body)


def lean_supports(model: Any) -> bool:
    """Whether `LeanLlama` computes what `model` computes."""
    cfg = model.config.get_text_config(decoder=True)
    rope = getattr(cfg, "rope_parameters", None) or {}
    layers = getattr(_decoder(model), "layers", None)
    return (
        getattr(cfg, "model_type", "") in ("llama", "qwen2", "short_head_llama", "qwen2_5_omni_text")
        and layers is not None
        and rope.get("rope_type", "default") == "default"
        and rope.get("partial_rotary_factor", 1.0) == 1.0
        and cfg.hidden_act == "silu"
        and not getattr(cfg, "mlp_bias", False)
        and not getattr(cfg, "use_sliding_window", False)
        # an adapter or a quantised weight may sit on any one of them
        and all(type(layer.get_submodule(name)) is torch.nn.Linear for layer in layers for name in PROJECTIONS)
        and (type(model.lm_head) is torch.nn.Linear or hasattr(model, "compact_head"))
        and layers[0].self_attn.o_proj.bias is None
        and len({p.device for p in model.parameters()}) == 1
    )


class Layer(NamedTuple):
    """The weights of one layer, projections of the same input joined: one matrix product instead of three or two."""

    norm1: Tensor
    qkv: Matrix
    bias: Tensor | None
    out: Matrix
    norm2: Tensor
    gate_up: Matrix
    down: Matrix


_held: WeakKeyDictionary[Any, dict[int | None, tuple[list[Layer], Matrix]]] = WeakKeyDictionary()
"""By model and bits: neither packing, which rounds, nor a copy is to be made again for every job of a sweep."""
COPY_UP_TO = 4e9
"""Bytes of a model that may be held twice, once reordered."""


class LeanWeights:
    """The fused weights of a Llama, Qwen2 or Qwen2.5-Omni thinker, and the pass through their layers.

    It shares the model's memory, but for a second copy of the matrices where the order pays (`packed.Reordered`).
    Whoever holds the cache (`LeanLlama`, `LeanBatch`) brings the attention.
    """

    def __init__(self, model: Any, bits: int | None = None) -> None:
        """Fuse the weights of `model`; with `bits`, 4 or 8, pack them (the head in 8), which rounds the model's own.

        Raises:
            UserError: they cannot be packed.
        """
        cfg, body = model.config.get_text_config(decoder=True), _decoder(model)
        self.heads, self.groups = cfg.num_attention_heads, cfg.num_key_value_heads
        self.dim: int = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
        self.eps, self.width = cfg.rms_norm_eps, (cfg.hidden_size,)
        self.embed: Tensor = body.embed_tokens.weight
        self.norm: Tensor = body.norm.weight
        self.layers, self.head = _matrices(model, bits)
        self.rotary = body.rotary_emb

    def rotations(self, length: int) -> None:
        """Prepare the rotary embedding of positions 0 to `length`: `cos` and `sin`, (length, 1, dim)."""
        cos, sin = self.rotary(self.embed, torch.arange(length, device=self.embed.device).unsqueeze(0))
        sin = sin[0].clone()
        sin[:, : self.dim // 2].neg_()  # rotate_half(x) * sin = roll(x, half) * signed sin
        self.cos, self.sin = cos[0].unsqueeze(1), sin.unsqueeze(1)

    def embedded(self, tokens: list[int]) -> Tensor:
        """Embeddings (n, width) of `tokens` (n)."""
        return self.embed[torch.tensor(tokens, device=self.embed.device)]

    def through_layers(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """From embeddings x (n, width) to the last hidden states (n, width); `cos`, `sin` are those of each row."""
        n, rotated = len(x), self.heads + self.groups
        for i, (norm1, qkv, bias, out, norm2, gate_up, down) in enumerate(self.layers):
            h = linear(F.rms_norm(x, self.width, norm1, self.eps), qkv, bias).view(n, -1, self.dim)
            qk = h[:, :rotated]
            qk = qk * cos + qk.roll(self.dim // 2, -1) * sin
            x = x + linear(attend(i, qk[:, : self.heads], qk[:, self.heads :], h[:, rotated:]), out)
            gate, up = linear(F.rms_norm(x, self.width, norm2, self.eps), gate_up).chunk(2, -1)
            x = x + linear(F.silu(gate) * up, down)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (n, columns) of hidden states (n, width)."""
        return linear(F.rms_norm(hidden, self.width, self.norm, self.eps), self.head)


class LeanLlama(LeanWeights):
    """An `edgecloud.lm.Engine`: one sequence, one cache."""

    name = "lean"

    def __init__(self, model: Any, bits: int | None = None) -> None:
        super().__init__(model, bits)
        self.length = 0
        self.cache = self.embed.new_zeros(len(self.layers), 2, self.groups, 0, self.dim)
        self._allocate(FIRST_LENGTH)

    def _allocate(self, length: int) -> None:
        """Make room for `length` positions, keeping what is cached."""
        cache = self.embed.new_zeros(len(self.layers), 2, self.groups, length, self.dim)
        cache[..., : self.length, :] = self.cache[..., : self.length, :]
        self.cache = cache
        self.rotations(length)

    def rollback(self, length: int) -> None:
        """Drop all positions from `length` on; the memory stays and is overwritten."""
        self.length = length

    def feed(self, tokens: list[int], keep: int, sound: Sound | None = None) -> Tensor:
        """Append `tokens` (n), some of them replaced by `sound`; logits (keep, columns) after the last `keep`."""
        n, start = len(tokens), self.length
        end = start + n
        while end > self.cache.shape[3]:
            self._allocate(2 * self.cache.shape[3])
        x = self.embedded(tokens)
        if sound is not None:
            x[sound.at] = sound.embeddings.to(x)
        mask = torch.ones(n, end, dtype=torch.bool, device=x.device).tril(start) if n > 1 else None

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.cache[layer]
            keys[:, start:end] = k.transpose(0, 1)
            values[:, start:end] = v.transpose(0, 1)
            return self._attend(q, keys[None, :, :end], values[None, :, :end], mask)

        hidden = self.through_layers(x, self.cos[start:end], self.sin[start:end], attend)
        self.length = end
        return self.logits(hidden[-keep:])

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Grouped-query attention of q (n, heads, dim) over keys, values (1, groups, positions, dim) -> (n, width)."""
        if mask is None:  # one token: the heads of a group are its queries, no mask and no repeated keys
            y = F.scaled_dot_product_attention(q.view(1, self.groups, -1, self.dim), keys, values)
            return y.reshape(1, -1)
        y = F.scaled_dot_product_attention(q.transpose(0, 1)[None], keys, values, attn_mask=mask, enable_gqa=True)
        return y[0].transpose(0, 1).reshape(len(q), -1)


def _matrices(model: Any, bits: int | None) -> tuple[list[Layer], Matrix]:
    """Layers and head: packed, reordered where that pays, or as they are."""
    layers = _decoder(model).layers
    # a shortened head (suite.models.short_head) keeps its rows apart; a plain head is the lm_head's weight
    head: Tensor = model.compact_head if hasattr(model, "compact_head") else model.lm_head.weight
    copied = Reordered.pays(head) and model.num_parameters() * head.itemsize <= COPY_UP_TO
    if bits is None and not copied:
        return [_fuse(layer) for layer in layers], head
    held = _held.setdefault(model, {})
    if bits not in held:
        if bits is None:
            held[bits] = [_each(_fuse(layer), Reordered) for layer in layers], Reordered(head)
        else:
            _check_packable(model.config.get_text_config(decoder=True), head)
            held[bits] = [_each(_fuse(layer), partial(Packed, bits=bits)) for layer in layers], Packed(head, 8)
    return held[bits]


def _fuse(layer: Any) -> Layer:
    att, mlp = layer.self_attn, layer.mlp
    qkv = (att.q_proj, att.k_proj, att.v_proj)
    return Layer(
        layer.input_layernorm.weight,
        _joined(qkv),
        torch.cat([p.bias for p in qkv]) if qkv[0].bias is not None else None,
        att.o_proj.weight,
        layer.post_attention_layernorm.weight,
        _joined((mlp.gate_proj, mlp.up_proj)),
        mlp.down_proj.weight,
    )


def _joined(projections: tuple[Any, ...]) -> Tensor:
    """Their weights stacked; the modules keep views of it, so that a 7B model is not held twice."""
    joined = torch.cat([p.weight for p in projections]).detach()
    parts = torch.split(joined, [len(p.weight) for p in projections])
    for p, part in zip(projections, parts, strict=True):
        p.weight.data = part
    return joined


def _check_packable(cfg: Any, head: Tensor) -> None:
    widths = (cfg.hidden_size, cfg.intermediate_size)
    if head.device.type != "cpu" or any(width % BLOCK for width in widths):
        raise UserError(
            f"models.*.quantization packs matrices on a CPU whose widths are multiples of {BLOCK}, and this model's "
            f"are {' and '.join(map(str, widths))} on {head.device}; set it to none."
        )


def _each(layer: Layer, make: Callable[[Any], Matrix]) -> Layer:
    """The same with its matrices made into something else."""
    return layer._replace(qkv=make(layer.qkv), out=make(layer.out), gate_up=make(layer.gate_up), down=make(layer.down))
