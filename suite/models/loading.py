"""Load a model once and keep it warm for every job of a sweep that asks for the same one.

What this does not know: what the model is for. torch and transformers are imported when the first model is loaded.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from suite.errors import UserError
from suite.hardware.profile import HardwareConfig
from suite.models import precision, sources
from suite.models.plan import BYTES_PER_WEIGHT, CONTEXT_GB, CardMemory, GpuModeConfig, Placement, Plan, plan, shares
from suite.models.quiet import quiet
from suite.models.revision import revision
from suite.models.spec import ModelConfig

log = logging.getLogger(__name__)
THINKER = "Qwen2_5OmniThinkerForConditionalGeneration"
ARCHITECTURES = {
    "qwen2_5_omni": THINKER,
    "qwen2_5_omni_thinker": THINKER,
    "llava": "LlavaForConditionalGeneration",
    "molmo2": "Molmo2ForConditionalGeneration",
}
"""Class for a `model_type` that AutoModelForCausalLM does not know; of a whole Omni only the thinker is loaded."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to run, in evaluation mode and without gradients."""

    model: Any
    tokenizer: Any
    spec: ModelConfig
    revision: str
    dtype: str
    folder: Path
    """Where its files are."""
    device: str
    """Where the inputs go."""
    load_s: float
    """Seconds the load took, fetching included; a warm model keeps the figure of its first load."""
    parameters: int
    notes: tuple[str, ...] = ()
    """What was done differently from what was asked."""

    @property
    def pack_bits(self) -> int | None:
        """Bits a weight that whoever runs the model is to pack it into; None: it is as it is to be.

        On a GPU bitsandbytes has done so; on the CPU it is the engine's own work.
        """
        return {"none": None, "4bit": 4, "8bit": 8}[self.spec.quantization] if self.device == "cpu" else None


_warm: dict[tuple[Any, ...], Loaded] = {}
_plans: dict[tuple[Any, ...], Plan] = {}
_loads = 0


def loads() -> int:
    """How many models this process has really loaded."""
    return _loads


def keep_only(specs: Iterable[ModelConfig] = ()) -> None:
    """Drop the warm models of other specs, so that a sweep over models holds only those of its current job."""
    kept = set(specs)
    dropped = [key for key, loaded in _warm.items() if loaded.spec not in kept]
    for key in dropped:
        del _warm[key]
    for key in [key for key in _plans if key[0] not in kept]:
        del _plans[key]
    if any(loaded_key[2] != Placement() for loaded_key in dropped):
        import torch

        torch.cuda.empty_cache()


def place(spec: ModelConfig, *, hardware: HardwareConfig, gpu_mode: GpuModeConfig) -> Plan:
    """Where the model goes on this machine. Free memory is read once per model: load one before placing the next.

    Raises:
        UserError: the profile asks for a GPU and there is none, or the model does not fit.
    """
    key = (spec, hardware, repr(gpu_mode))
    if key not in _plans:
        cards = _cards(hardware, gpu_mode)
        _plans[key] = plan(_weights_gb(spec, hardware, cards), cards, gpu_mode)
        for note in _plans[key].notes:
            log.warning("%s", note)
    return _plans[key]


def place_copies(
    specs: Sequence[ModelConfig], *, hardware: HardwareConfig, gpu_mode: GpuModeConfig
) -> tuple[GpuModeConfig, ...]:
    """See `suite.models.plan.shares`: one mode for each process that holds a copy of all these models.

    Raises:
        UserError: as `place`.
    """
    cards = _cards(hardware, gpu_mode)
    return shares([_weights_gb(spec, hardware, cards) for spec in specs], cards, gpu_mode)


def _cards(hardware: HardwareConfig, gpu_mode: GpuModeConfig) -> list[CardMemory]:
    cards = [] if hardware.device == "cpu" else _visible_cards(gpu_mode.cards)
    if hardware.device == "cuda" and not cards:
        raise UserError("hardware.device=cuda but no GPU is visible; use hardware.device=auto or a CPU profile.")
    cap_gb = float("inf") if hardware.card_memory_cap_gb is None else hardware.card_memory_cap_gb + CONTEXT_GB
    return [replace(card, free_gb=min(card.free_gb, cap_gb)) for card in cards]


def _weights_gb(spec: ModelConfig, hardware: HardwareConfig, cards: Sequence[CardMemory]) -> float:
    """Size of the weights as they are loaded; 0 without a card, where nobody asks."""
    if not cards:
        return 0.0
    dtype, _ = precision.resolve(spec.dtype, hardware.dtype, f"cuda:{cards[0].index}")
    weight = BYTES_PER_WEIGHT[dtype if spec.quantization == "none" else spec.quantization]
    return sources.weights_gb(sources.folder(spec), weight)


def load(
    spec: ModelConfig,
    *,
    placement: Placement,
    hardware: HardwareConfig,
    architecture: str | None = None,
) -> Loaded:
    """The model, from memory when this process has loaded the same spec, precision and placement before.

    Args:
        spec: which model.
        placement: one replica of `place(...)`.
        hardware: gives the precision when the spec leaves it open.
        architecture: class of transformers that makes the model; None: the one that writes text, by its config.json.

    Raises:
        UserError: it cannot be found, fetched or run here.
    """
    dtype, notes = precision.resolve(spec.dtype, hardware.dtype, placement.device)
    key = (spec, dtype, placement, architecture)
    if key not in _warm:
        _warm[key] = _load(spec, dtype, notes, placement, architecture)
    return _warm[key]


def _load(
    spec: ModelConfig, dtype: str, notes: tuple[str, ...], placement: Placement, architecture: str | None
) -> Loaded:
    global _loads
    start = time.perf_counter()
    quantized = _quantization(spec, dtype, placement)
    folder = sources.folder(spec)
    if architecture is None:
        architecture = ARCHITECTURES.get(sources.read_config(folder).get("model_type", ""), "AutoModelForCausalLM")

    import torch
    import transformers

    import suite.models.short_head  # noqa: F401  registers its architecture

    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": spec.trust_remote_code}
    try:
        with quiet():
            model, info = getattr(transformers, architecture).from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                output_loading_info=True,
                **common,
                **quantized,
                **_device_map(placement),
            )
            words = sources.tokenizer_folder(folder)
            tokenizer = transformers.AutoTokenizer.from_pretrained(words, **common)
            if tokenizer.chat_template is None:
                tokenizer.chat_template = sources.chat_template(words)
    except (ValueError, OSError) as error:  # an unknown architecture, or code that the user has not allowed
        reason = " ".join(str(error).split())
        raise UserError(f"models.*.id={spec.id}: transformers cannot load it ({reason}).") from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"models.*.id={spec.id} is no {type(model).__name__}: its file lacks {len(missing)} weights, "
            f"such as {missing[0]}; choose a model of that architecture."
        )
    model.eval().requires_grad_(False)
    if placement.card_gb:
        notes = (*notes, f"split over {placement}")
    if offloaded := {"cpu", "disk"} & {str(where) for where in getattr(model, "hf_device_map", {}).values()}:
        notes = (*notes, f"some layers stay on {' and '.join(sorted(offloaded))}, which is slow")
    _loads += 1
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        spec=spec,
        revision=revision(spec),
        dtype=dtype if spec.quantization == "none" else f"{spec.quantization} ({dtype})",
        folder=folder,
        device=placement.device,
        load_s=time.perf_counter() - start,
        parameters=model.num_parameters(),
        notes=notes,
    )


def _quantization(spec: ModelConfig, dtype: str, placement: Placement) -> dict[str, Any]:
    if spec.quantization == "none" or placement.device == "cpu":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"models.*.quantization={spec.quantization} of {spec.id} needs bitsandbytes, which is not installed "
            "(pip install bitsandbytes); or set it to none."
        )
    from transformers import BitsAndBytesConfig

    config: Any = BitsAndBytesConfig
    if spec.quantization == "8bit":
        return {"quantization_config": config(load_in_8bit=True)}
    four = config(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": four}


def _device_map(placement: Placement) -> dict[str, Any]:
    if placement.card_gb:
        most: dict[int | str, int] = {card: int(gb * 1e9) for card, gb in placement.card_gb}
        return {"device_map": "auto", "max_memory": {**most, "cpu": int(placement.cpu_gb * 1e9)}}
    # the default already is the CPU, and naming it would need accelerate
    return {} if placement.device == "cpu" else {"device_map": {"": placement.device}}


def _visible_cards(wanted: Sequence[int]) -> list[CardMemory]:
    """Those of the wanted cards that are there, or all: asking a card what is free costs memory on it."""
    import torch

    there = range(torch.cuda.device_count())
    asked = [card for card in there if card in wanted] or there
    return [CardMemory(index=card, free_gb=torch.cuda.mem_get_info(card)[0] / 1e9) for card in asked]
