"""Which number format a model computes in."""

from __future__ import annotations

from suite.hardware.machine import computes_bf16


def resolve(model_dtype: str, hardware_dtype: str, device: str) -> tuple[str, tuple[str, ...]]:
    """The precision to load in: the model's own, else the hardware profile's, else what the device is good at.

    Args:
        model_dtype: `auto`, `float32`, `bfloat16` or `float16`.
        hardware_dtype: likewise; asked when the model's is `auto`.
        device: "cpu" or "cuda:0".

    Returns:
        "float32", "bfloat16" or "float16", and notes on what was changed.
    """
    wanted = hardware_dtype if model_dtype == "auto" else model_dtype
    best = "bfloat16" if _has_bfloat16(device) else "float32"
    if wanted == "auto":
        return best, ()
    if wanted == "float16" and device == "cpu":
        return best, (f"float16 is slow and overflows on a CPU: loaded in {best} instead",)
    return wanted, ()


def _has_bfloat16(device: str) -> bool:
    """Whether `device` computes in bfloat16 rather than emulating it."""
    if device == "cpu":
        return computes_bf16()
    import torch

    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
