"""NVML, the driver's own meter: opened once, absent without fuss."""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any


@functools.cache
def load() -> Any | None:
    """The initialised `pynvml` module (from nvidia-ml-py), or None where there is no NVIDIA driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def cards(nvml: Any) -> list[Any]:
    """Handles of the cards that this process may use: CUDA_VISIBLE_DEVICES (indices or UUIDs), else all.

    CUDA and NVML number alike on a machine of identical cards; on a mixed one only with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    As in CUDA, the list ends at the first entry that names no card.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(nvml.nvmlDeviceGetCount())] if visible is None else visible.split(",")
    handles: list[Any] = []
    for name in (part.strip() for part in names):
        try:
            if name.isdigit():
                handles.append(nvml.nvmlDeviceGetHandleByIndex(int(name)))
            else:
                handles.append(nvml.nvmlDeviceGetHandleByUUID(name))
        except nvml.NVMLError:
            break
    return handles
