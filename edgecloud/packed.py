"""Weights as a CPU likes to read them: at a few tokens a step it waits for memory, and there are two ways to wait less.

`Reordered`: bfloat16 in the order in which oneDNN's kernels read it. Nothing is rounded.

`Packed`: blocks of 32, a quarter of the bytes.

4 bits: a block's smallest and largest value and 14 steps between (the Q4_1 of GGUF files, from which weights unpacked
by the suite are packed again as they were). 8 bits: 127 steps either side of zero (Q8_0), held as two 4-bit halves,
16 high + low, so that one kernel of torch serves both. The scales are rounded to the activations' format, which is
what each weight is in bfloat16.

What it costs SmolLM2-135M (1285 positions of its own text, against float32): 4 bits in float32 6e-5 nats of KL, same
best token in 99.6 %; in bfloat16 0.0017 nats and 97.8 %, where bfloat16 unpacked has 0.0009 and 97.8 %.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 32  # weights that share a scale; of the widths that torch's kernel knows the smallest
ROWS = 16  # the kernel wants a multiple of so many
NARROW = 8  # rows of input up to which packed weights are the faster ones; above, arithmetic is the limit


class Packed:
    """The matrix (out, width) of a linear map, as `bits` a weight; `weight` is rounded in place to what they hold.

    Attributes:
        weight: the rounded matrix, for wide inputs.
        halves: 2 where a weight is two 4-bit halves, else 1.
    """

    @torch.no_grad()
    def __init__(self, weight: Tensor, bits: int) -> None:
        blocks = weight.float().view(len(weight), -1, BLOCK)
        if bits == 4:
            low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
            scale = ((high - low) / 15).to(weight.dtype).float()
            steps = ((blocks - low) / scale.where(scale > 0, 1)).round().clamp(0, 15)
            zero = (low + 8 * scale).to(weight.dtype).float()  # the kernel's steps are counted from the eighth
            held = (steps - 8) * scale + zero
            parts = [(steps, scale, zero)]
        else:
            scale = (blocks.abs().amax(-1, keepdim=True) / 127).to(weight.dtype).float()
            signed = (blocks / scale.where(scale > 0, 1)).round().clamp(-128, 127)
            held = signed * scale
            high, low = (signed / 16).floor(), signed % 16
            parts = [(high + 8, 16 * scale, 0 * scale), (low, scale, 8 * scale)]
        weight.copy_(held.flatten(1))
        self.weight, self.halves, self.out = weight, len(parts), len(weight)
        pad = (0, 0, 0, -len(weight) % ROWS)
        steps = F.pad(torch.cat([part.flatten(1) for part, _, _ in parts], 1), pad).int()
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps, 1)
        by_block = [torch.cat([part[i].squeeze(-1) for part in parts], 1) for i in (1, 2)]  # (out, blocks) each
        self.scales = F.pad(torch.stack(by_block, -1), (0, 0, *pad)).transpose(0, 1).to(weight.dtype).contiguous()

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """X (n, width) -> (n, out)."""
        if len(x) > NARROW:
            return F.linear(x, self.weight, bias)
        x = x if self.halves == 1 else x.repeat(1, 2)
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, BLOCK, self.scales)
        y = y[:, : self.out]
        return y if bias is None else y + bias


class Reordered:
    """The bfloat16 matrix (out, width) of a linear map, copied into the order in which oneDNN's kernels read it.

    The product is that of the plain matrix, but for the order of summing: on a Xeon with AMX the same bits for up to 17
    rows of input, others for 64.
    """

    ROWS = 1  # the input that the order is best for; any other is as right

    @torch.no_grad()
    def __init__(self, weight: Tensor) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, self.ROWS)

    @staticmethod
    def pays(weight: Tensor) -> bool:
        """Whether `weight` can be reordered, and this machine is the faster for it."""
        return (
            weight.device.type == "cpu"
            and weight.dtype == torch.bfloat16
            and torch._C._has_mkldnn
            and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """X (n, width) -> (n, out)."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, bias, "none", [], "")
        return y


Matrix = Tensor | Packed | Reordered


def linear(x: Tensor, weight: Matrix, bias: Tensor | None = None) -> Tensor:
    """X (n, width) -> (n, out)."""
    return F.linear(x, weight, bias) if isinstance(weight, Tensor) else weight(x, bias)
