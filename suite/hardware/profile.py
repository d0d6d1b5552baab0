"""A hardware profile: what a device is said to do (spec sheet) and what this run may use of the machine (limits)."""

from __future__ import annotations

from dataclasses import dataclass, field

from suite.errors import ConfigError, check_choice, check_range

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")
_POSITIVE = (
    "card_memory_gb",
    "card_memory_cap_gb",
    "memory_bandwidth_gb_s",
    "peak_tflops_16bit",
    "peak_tflops_32bit",
    "power_w",
    "launch_overhead_us",
    "price_usd_per_h",
)


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """One YAML of the `hardware` group. Spec-sheet fields are None where the sheet does not say."""

    name: str = "local"
    """Profile name, as typed in `hardware=`."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU when there is one, else the CPU (and the record says which it was)."""
    dtype: str = "auto"
    """Precision of models whose own dtype is `auto`; `auto` here: bfloat16 where processor or GPU computes in it."""
    max_cpu_cores: int | None = None
    """Cores the job may run on (CPU affinity and torch threads); None: all."""
    max_memory_gb: float | None = None
    """Data memory the job may allocate (RLIMIT_DATA, GB = 1e9 bytes); None: no limit."""
    cards: int = 0
    """GPUs in the machine."""
    card_memory_gb: float | None = None
    """Memory of one GPU."""
    card_memory_cap_gb: float | None = None
    """What a run may use of one GPU's memory; None: all of it."""
    memory_bandwidth_gb_s: float | None = None
    """Peak memory bandwidth of one device."""
    peak_tflops_16bit: float | None = None
    """Dense 16-bit peak of one device, with 32-bit accumulation, without sparsity."""
    peak_tflops_32bit: float | None = None
    """32-bit peak of one device."""
    power_w: float | None = None
    """Board or package power."""
    launch_overhead_us: float | None = None
    """Time to start one kernel; an assumption unless `sources` says otherwise."""
    price_usd_per_h: float | None = None
    """Rent of one device; None where it is one's own or nobody rents it."""
    calibration: dict[str, float] = field(default_factory=dict, hash=False)
    """Measured over modelled time by model id, where this hardware was measured; any other model has factor 1."""
    sources: list[str] = field(default_factory=list, hash=False)
    """Where the figures come from, one sentence each."""

    def __post_init__(self) -> None:
        check_choice("hardware.device", self.device, DEVICES)
        check_choice("hardware.dtype", self.dtype, DTYPES)
        if self.max_cpu_cores is not None:
            check_range("hardware.max_cpu_cores", self.max_cpu_cores, 1)
        if self.max_memory_gb is not None:
            check_range("hardware.max_memory_gb", self.max_memory_gb, 0.5)
        check_range("hardware.cards", self.cards, 0)
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"hardware.{name}={value} must be above 0, or null where the sheet does not say.")
        for model, factor in self.calibration.items():
            if not factor > 0:
                raise ConfigError(f"hardware.calibration.{model}={factor} must be above 0: measured over modelled.")
        if self.card_memory_cap_gb is not None and self.card_memory_gb is not None:
            check_range("hardware.card_memory_cap_gb", self.card_memory_cap_gb, 0, self.card_memory_gb)

    @property
    def limited(self) -> bool:
        """Whether a job on this profile must run in a child process with limits."""
        return self.max_cpu_cores is not None or self.max_memory_gb is not None
