"""This suite against its peers, side by side in one run."""

from __future__ import annotations

from suite.hardware.machine import cpu_model
from suite.records.provenance import packages


def here() -> str:
    """What a benchmark ran on, for its first line: processor, threads of torch, versions."""
    import torch

    found = packages()
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers") if name in found)
    return f"{cpu_model()}, {torch.get_num_threads()} threads, {versions}"
