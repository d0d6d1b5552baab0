"""How long a transformer's forward pass takes on a device that is not here, from two spec sheets.

Williams et al. 2009, "Roofline": work is bound by memory or by arithmetic, whichever takes longer. A forward of n new
tokens after a context of c, in three parts,

    weights     max(their bytes / bandwidth,   2 n parameters / peak)
    attention   max(bytes of c + n keys and values / bandwidth,   4 n (c + n / 2) heads x head width x layers / peak)
    head        max(its bytes / bandwidth,   2 kept x width x vocabulary / peak)

plus kernels x launch overhead, plus, before the first token of a model that hears, its audio tower. Peaks are never
reached, so this is a lower bound; a measured factor (`calibrate`) closes the gap where there is one. What it does not
know: tasks, batches, several cards, caches of the processor, and activations, which matter at long prompts only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from suite.errors import ConfigError, UserError
from suite.hardware.profile import HardwareConfig

KERNELS_PER_LAYER = 12
"""Launches of a decoder layer with fused projections: 2 norms, qkv, rotary, 2 cache writes, attention, out, gate-up,
activation, down, residuals. An assumption; eager `transformers` launches about twice as many."""
DTYPE_BITS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """An audio encoder as Whisper's: two convolutions, transformer layers of plain attention."""

    layers: int
    width: int
    hidden: int
    bins: int
    out: int
    window: int
    """Frames that one pass of attention sees, before its convolutions halve them."""

    @property
    def parameters(self) -> int:
        """Weights, convolutions included."""
        layer = 4 * self.width**2 + 2 * self.width * self.hidden
        return self.layers * layer + 3 * self.width * (self.bins + self.width) + self.width * self.out

    def operations(self, frames: int) -> float:
        """Floating-point operations for a clip of so many mel frames."""
        positions = frames / 2
        seen = min(frames, self.window) / 2
        return 2 * positions * self.parameters + 4 * positions * seen * self.width * self.layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a roofline must know of a decoder-only transformer with gated feed-forward layers."""

    layers: int
    width: int
    hidden: int
    heads: int
    groups: int
    head_width: int
    vocab: int
    tied: bool
    tower: Tower | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From a `config.json`: of a text model, of a Qwen2.5-Omni thinker, or of a whole Qwen2.5-Omni.

        Raises:
            UserError: a size is missing.
        """
        thinker = config.get("thinker_config", config)
        text, audio = thinker.get("text_config", thinker), thinker.get("audio_config")
        try:
            heads, width = text["num_attention_heads"], text["hidden_size"]
            return cls(
                layers=text["num_hidden_layers"],
                width=width,
                hidden=text["intermediate_size"],
                heads=heads,
                groups=text.get("num_key_value_heads") or heads,
                head_width=text.get("head_dim") or width // heads,
                vocab=text["vocab_size"],
                tied=thinker.get("tie_word_embeddings", False),
                tower=audio
                and Tower(
                    layers=audio["encoder_layers"],
                    width=audio["d_model"],
                    hidden=audio["encoder_ffn_dim"],
                    bins=audio["num_mel_bins"],
                    out=audio["output_dim"],
                    window=2 * audio["n_window"],
                ),
            )
        except KeyError as error:
            raise UserError(f"The model's shape has no {error.args[0]}; give the fields of its config.json.") from error

    @property
    def body(self) -> int:
        """Weights that every token passes through, without embeddings and head."""
        inner = self.head_width * (2 * self.heads + 2 * self.groups)
        return self.layers * (self.width * inner + 3 * self.width * self.hidden)

    @property
    def parameters(self) -> int:
        """All weights, the tower's included; norms and biases are left out."""
        tower = self.tower.parameters if self.tower else 0
        return self.body + (1 if self.tied else 2) * self.vocab * self.width + tower


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """One model on one device.

    Attributes:
        shape: of the model.
        bandwidth: bytes a second.
        peak: operations a second.
        launch_s: of one kernel.
        weight_bits: of one weight as stored, its share of scales included.
        cache_bits: of one key or value.
        factor: measured over modelled time.
    """

    shape: Shape
    bandwidth: float
    peak: float
    launch_s: float
    weight_bits: float
    cache_bits: float
    factor: float = 1.0

    def forward_s(self, tokens: int, context: int, kept: int = 1) -> float:
        """Seconds for `tokens` new positions after `context` cached ones, with logits of the last `kept`."""
        s = self.shape
        head = s.vocab * s.width
        keys = 2 * s.layers * s.groups * s.head_width * (context + tokens)
        scores = 4 * tokens * (context + tokens / 2) * s.heads * s.head_width * s.layers
        total = (
            self._bound(s.body * self.weight_bits / 8, 2 * tokens * s.body)
            + self._bound(keys * self.cache_bits / 8, scores)
            + self._bound(head * self.weight_bits / 8, 2 * kept * head)
        )
        return self.factor * (total + (s.layers * KERNELS_PER_LAYER + 3) * self.launch_s)

    def tower_s(self, frames: int) -> float:
        """Seconds for the audio tower to hear so many mel frames; 0 where there is none or nothing to hear."""
        tower = self.shape.tower
        if tower is None or frames == 0:
            return 0.0
        total = self._bound(tower.parameters * self.weight_bits / 8, tower.operations(frames))
        return self.factor * (total + tower.layers * KERNELS_PER_LAYER * self.launch_s)

    @property
    def weights_gb(self) -> float:
        """Memory of the weights (GB = 1e9 bytes)."""
        return self.shape.parameters * self.weight_bits / 8e9

    def _bound(self, size: float, operations: float) -> float:
        return max(size / self.bandwidth, operations / self.peak)


def roofline(
    shape: Shape, hardware: HardwareConfig, model: str, *, dtype: str = "auto", weight_bits: float | None = None
) -> Roofline:
    """A model of this shape on a profile.

    Args:
        shape: of the model.
        hardware: whose sheet is used.
        model: id, for the profile's calibration.
        dtype: precision of the arithmetic and of the cache; `auto`: the profile's own.
        weight_bits: of one stored weight; None: those of `dtype`.

    Raises:
        ConfigError: the profile lacks a figure.
    """
    dtype = hardware.dtype if dtype == "auto" else dtype
    dtype = "float32" if dtype == "auto" else dtype
    name = "peak_tflops_32bit" if dtype == "float32" else "peak_tflops_16bit"
    figures = {field: getattr(hardware, field) for field in ("memory_bandwidth_gb_s", name)}
    if missing := [field for field, value in figures.items() if value is None]:
        raise ConfigError(
            f"The hardware profile {hardware.name} has no {' and no '.join(missing)}, so its times cannot be modelled; "
            "give the figure, choose another profile, or set task.clock=measured."
        )
    bits = DTYPE_BITS[dtype]
    return Roofline(
        shape=shape,
        bandwidth=1e9 * figures["memory_bandwidth_gb_s"],
        peak=1e12 * figures[name],
        launch_s=1e-6 * (hardware.launch_overhead_us or 0.0),
        weight_bits=bits if weight_bits is None else weight_bits,
        cache_bits=min(bits, 16.0) if weight_bits is not None else bits,
        factor=hardware.calibration.get(model, 1.0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How a model of time compares with measurements.

    Attributes:
        factor: median of measured over modelled.
        error_percent: median distance of the measurements from the modelled times after the factor.
        n: measurements.
    """

    factor: float
    error_percent: float
    n: int


def calibrate(modelled_s: Sequence[float], measured_s: Sequence[float]) -> Calibration | None:
    """The factor that brings modelled times to measured ones; None without measurements."""
    ratios = [m / t for t, m in zip(modelled_s, measured_s, strict=True) if t > 0 and m > 0]
    if not ratios:
        return None
    factor = median(ratios)
    return Calibration(factor=factor, error_percent=100 * median(abs(1 - factor / r) for r in ratios), n=len(ratios))
