"""Which cards a model goes on, and how many copies. Arithmetic over card sizes, so it is tested without a GPU.

A model needs its weights plus a tenth for the KV cache, activations and the last layer that does not split evenly.
GB are 1e9 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from suite.errors import ConfigError, UserError, check_choice, check_range

MODES = ("single", "data_parallel", "accelerate", "auto")
HEADROOM = 1.1
BYTES_PER_WEIGHT = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "8bit": 1.0, "4bit": 0.6}  # 4bit with its scales
CONTEXT_GB = 1.0
"""What the CUDA context, workspaces and fragmentation take from each card."""


@dataclass(frozen=True, kw_only=True)
class GpuModeConfig:
    """One YAML of the `gpu_mode` group."""

    name: str = "single"
    """`single`: one card. `data_parallel`: a replica on each smallest group of cards that holds the model, two at
    least. `accelerate`: one copy over the smallest such group, its layers split. `auto`: as many replicas as fit,
    one at least. Without a GPU each of them is one copy on the CPU, unless `replicas` asks for more."""
    replicas: int | None = None
    """Most copies of `data_parallel` and `auto`; None: all that the cards hold, and one on a CPU."""
    cards: list[int] = field(default_factory=list)
    """Cards that may be used; empty: all that are visible."""
    max_card_gb: float | None = None
    """Use no more than this of each card; None: what is free, less 1 GB."""
    cpu_gb: float = 0.0
    """`accelerate` may leave this much of the model in main memory when the cards are too small (slow)."""

    def __post_init__(self) -> None:
        check_choice("gpu_mode.name", self.name, MODES)
        check_range("gpu_mode.cpu_gb", self.cpu_gb, 0)
        if self.replicas is not None:
            check_range("gpu_mode.replicas", self.replicas, 2 if self.name == "data_parallel" else 1)
            if self.name not in ("data_parallel", "auto"):
                raise ConfigError(
                    f"gpu_mode={self.name} is one copy of each model, so gpu_mode.replicas={self.replicas} says "
                    "nothing; choose gpu_mode=data_parallel or auto."
                )
        if self.max_card_gb is not None:
            check_range("gpu_mode.max_card_gb", self.max_card_gb, 0.1)
        if any(card < 0 for card in self.cards) or len(set(self.cards)) < len(self.cards):
            raise ConfigError(f"gpu_mode.cards={self.cards} must be different card numbers, each at least 0.")


@dataclass(frozen=True, kw_only=True)
class CardMemory:
    """One visible GPU."""

    index: int
    free_gb: float


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where one copy of a model goes."""

    device: str = "cpu"
    """Where the inputs go, and the whole model unless `card_gb` splits it."""
    card_gb: tuple[tuple[int, float], ...] = ()
    """(card, most GB it may hold) of a model split over several cards; empty: not split."""
    cpu_gb: float = 0.0
    """Most GB of a split model that may stay in main memory."""

    def __str__(self) -> str:
        return "+".join(f"cuda:{card}" for card, _ in self.card_gb) or self.device


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One placement per replica (at least one), and what a reader of the result should know."""

    replicas: tuple[Placement, ...]
    notes: tuple[str, ...] = ()


def plan(model_gb: float, cards: Sequence[CardMemory], mode: GpuModeConfig) -> Plan:
    """Place a model whose weights take `model_gb`.

    Args:
        model_gb: size of the weights in the precision they are loaded in.
        cards: the visible cards; empty on a machine without a GPU, or when the profile says CPU.
        mode: the user's choice.

    Raises:
        UserError: it does not fit the way the mode asks.
        ConfigError: the mode names a card that is not there.
    """
    if not cards:
        copies = mode.replicas or 1
        missed = mode.name == "accelerate" or (mode.name == "data_parallel" and copies == 1)
        more = " (gpu_mode.replicas=2 makes two)" * (mode.name == "data_parallel")
        notes = (f"gpu_mode={mode.name} has no GPU to use: one copy on the CPU{more}",) * missed
        return Plan(replicas=(Placement(),) * copies, notes=notes)
    need = model_gb * HEADROOM
    usable = _usable(cards, mode)
    groups: list[tuple[int, ...]] = []
    left = sorted(usable, key=lambda card: -usable[card])  # roomiest first; the sort keeps card order among equals
    while left and (group := _smallest_group(need, left, usable)):
        groups.append(group)
        left = [card for card in left if card not in group]
    whole = f"the model needs {need:.1f} GB with its cache and the cards have {sum(usable.values()):.1f} GB free"
    ways_out = "use a smaller model or models.*.quantization=4bit"
    if mode.name == "single":
        if not groups or len(groups[0]) > 1:
            room = max(usable.values())
            raise UserError(
                f"gpu_mode=single: the model needs {need:.1f} GB with its cache and the roomiest card has "
                f"{room:.1f} GB free; use gpu_mode=auto to split it, or {ways_out}."
            )
        return Plan(replicas=(_placement(groups[0], usable),))
    if mode.name == "accelerate" and not groups and need <= sum(usable.values()) + mode.cpu_gb:
        everywhere = _placement(tuple(sorted(usable)), usable, cpu_gb=mode.cpu_gb)
        return Plan(replicas=(everywhere,))
    if not groups:
        more = ", or allow main memory with gpu_mode=accelerate gpu_mode.cpu_gb=GB" if mode.cpu_gb == 0 else ""
        raise UserError(f"gpu_mode={mode.name}: {whole}; {ways_out}{more}.")
    if mode.name == "data_parallel" and len(groups) < 2:
        raise UserError(f"gpu_mode=data_parallel: {whole}, enough for one replica only; use gpu_mode=auto.")
    chosen = groups[:1] if mode.name == "accelerate" else groups[: mode.replicas]
    return Plan(replicas=tuple(_placement(group, usable) for group in chosen))


def shares(models_gb: Sequence[float], cards: Sequence[CardMemory], mode: GpuModeConfig) -> tuple[GpuModeConfig, ...]:
    """How each process of a job places its models, where every process holds a copy of all of them.

    Args:
        models_gb: size of each model's weights.
        cards: as for `plan`.
        mode: the user's choice; `single` and `accelerate` are one process.

    Returns:
        `mode` itself where one process does; else for each one the mode that keeps to its own cards.

    Raises:
        UserError: the models do not fit together the way the mode asks.
        ConfigError: the mode names a card that is not there.
    """
    if mode.name not in ("data_parallel", "auto"):
        return (mode,)
    between = CONTEXT_GB * (len(models_gb) - 1)  # each model after the first is placed by what is free then, less 1 GB
    left = [replace(card, free_gb=card.free_gb - between) for card in cards]
    copies = plan(sum(models_gb), left, mode).replicas
    if len(copies) == 1:
        return (mode,)
    return tuple(
        GpuModeConfig(name="accelerate" if copy.card_gb else "single", cards=_cards(copy), max_card_gb=mode.max_card_gb)
        for copy in copies
    )


def _cards(placement: Placement) -> list[int]:
    split = [card for card, _ in placement.card_gb]
    return split or [int(card) for kind, _, card in [placement.device.partition(":")] if kind == "cuda"]


def _usable(cards: Sequence[CardMemory], mode: GpuModeConfig) -> dict[int, float]:
    """GB that may be used, by card."""
    free = {card.index: card.free_gb - CONTEXT_GB for card in cards}
    if missing := sorted(set(mode.cards) - set(free)):
        raise ConfigError(f"gpu_mode.cards={mode.cards}: card {missing[0]} is not visible, only {sorted(free)} are.")
    cap = mode.max_card_gb if mode.max_card_gb is not None else float("inf")
    return {card: max(0.0, min(gb, cap)) for card, gb in free.items() if not mode.cards or card in mode.cards}


def _smallest_group(need: float, cards: Sequence[int], usable: dict[int, float]) -> tuple[int, ...]:
    """The fewest of `cards` (roomiest first) that together hold `need` GB, in card order; empty if all do not."""
    room = 0.0
    for n, card in enumerate(cards, start=1):
        room += usable[card]
        if room >= need:
            return tuple(sorted(cards[:n]))
    return ()


def _placement(group: tuple[int, ...], usable: dict[int, float], cpu_gb: float = 0.0) -> Placement:
    device = f"cuda:{group[0]}"
    if len(group) == 1 and not cpu_gb:
        return Placement(device=device)
    return Placement(device=device, card_gb=tuple((card, usable[card]) for card in group), cpu_gb=cpu_gb)
