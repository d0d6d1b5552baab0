"""C1, the latency estimator: what each part of a run takes, and what a configuration will take before it is run.

A small network predicts the logarithm of each part's time from the numbers that are known of a run; a run is vision +
projector + prefill + decode per token x (output tokens - 1), as prefill yields the first token. A controller decides
before the length of the answer is known, so `totals` counts the mean length that each configuration's answers had, and
gives beside it the p95 over the answers' lengths and the machine's noise (estimator_fit.py).
It knows nothing of the image but its number of tokens, and of the machine nothing but its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from controller.space import Space
from controller.table import Profile
from suite.errors import UserError
from suite.records.store import write_atomic

Floats = npt.NDArray[np.float64]
OUTPUTS = ("vision_encoder_ms", "projector_ms", "prefill_ms", "decode_per_token_ms")
"""What the network predicts, in this order."""
INPUTS = ("vision_tokens", "text_tokens", "tier", "top_k", "blocks", "output_tokens")
"""What it is told, in this order: the logarithm of 1 + each count, and the tier's place from 0 to 1."""
COMMAND = "python launch.py task=controller step=latency"
CARRY = f"{COMMAND} task.estimator=FOLDER task.recalibrate=N"


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Latency of every configuration for n samples, before any of them is run."""

    mean_ms: Floats
    """(n, c)."""
    p95_ms: Floats
    """(n, c): 95 of 100 runs take no longer."""


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """The network with all that it needs to be used; c configurations, r rows."""

    space: Space
    machine: str
    """Where the times were taken."""
    parts: nn.Sequential
    """Inputs (r, 6) to logarithms of ms (r, 4), both normalised."""
    input_mean: Floats
    input_std: Floats
    """(6,)."""
    log_mean: Floats
    log_std: Floats
    """(4,), of the logarithms of ms."""
    affine: Floats
    """(4, 2): offset and slope that turn a part's logarithm into this machine's."""
    margin: Floats
    """(c,): logarithm of the p95 of a run's total over the mean that `totals` tells."""
    vision_tokens: Floats
    output_tokens: Floats
    """(c,): means over samples."""

    def inputs(self, vision_tokens: Floats, text_tokens: Floats, output_tokens: Floats) -> Tensor:
        """Normalised inputs of n samples in every configuration, (n x c, 6), from (n, c), (n,) and (n, c)."""
        raw = raw_inputs(self.space, vision_tokens, text_tokens, output_tokens)
        return torch.from_numpy((raw - self.input_mean) / self.input_std).float()

    def part_ms(self, inputs: Tensor) -> Floats:
        """Times of the parts, (r, 4) in ms."""
        with torch.inference_mode():
            told = self.parts(inputs).double().numpy()
        return np.asarray(np.exp(self.affine[:, 0] + self.affine[:, 1] * (told * self.log_std + self.log_mean)))

    def predict(self, profile: Profile) -> dict[str, Floats]:
        """Each of `OUTPUTS`, and `total_ms`, of runs whose answers have these lengths; (n, c) in ms."""
        lengths = profile.output_tokens.astype(float)
        inputs = self.inputs(profile.vision_tokens.astype(float), profile.text_tokens.astype(float), lengths)
        times = self.part_ms(inputs).reshape(*lengths.shape, len(OUTPUTS))
        return with_total({name: times[..., place] for place, name in enumerate(OUTPUTS)}, lengths)

    def totals(self, text_tokens: npt.NDArray[np.int64]) -> Totals:
        """Mean and p95 latency of every configuration for questions of so many tokens, (n,)."""
        shape = (len(text_tokens), len(self.space))
        vision, lengths = (np.broadcast_to(mean, shape) for mean in (self.vision_tokens, self.output_tokens))
        times = self.part_ms(self.inputs(vision, text_tokens.astype(float), lengths)).reshape(*shape, len(OUTPUTS))
        mean = with_total({name: times[..., place] for place, name in enumerate(OUTPUTS)}, lengths)["total_ms"]
        return Totals(mean_ms=mean, p95_ms=mean * np.exp(self.margin))

    def check(self, *, space: Space, machine: str) -> None:
        """Refuse to speak of other knobs or of another machine.

        Raises:
            UserError: with the command that recalibrates.
        """
        if space != self.space:
            mine, asked = (json.dumps(asdict(one)) for one in (self.space, space))
            raise UserError(
                f"The latency estimator knows the knobs {mine}, not {asked}; fit one for these with `{COMMAND}`, "
                f"or keep its knobs and, on another machine, recalibrate it with `{CARRY}`."
            )
        if machine != self.machine:
            raise UserError(
                f"The latency estimator was fitted on {self.machine}, not on {machine}; recalibrate it from N timed "
                f"runs with `{CARRY}`."
            )

    def save(self, folder: Path) -> None:
        """Write `estimator.safetensors` and, last, `estimator.json`."""
        tensors = {name: torch.from_numpy(np.array(getattr(self, name))) for name in _ARRAYS}
        tensors |= {f"parts.{key}": value for key, value in self.parts.state_dict().items()}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "estimator.safetensors")
        facts = {"space": asdict(self.space), "machine": self.machine, "inputs": INPUTS, "outputs": OUTPUTS}
        write_atomic(folder / "estimator.json", json.dumps(facts, indent=1))


_ARRAYS = ("input_mean", "input_std", "log_mean", "log_std", "affine", "margin", "vision_tokens", "output_tokens")


def load(folder: Path) -> Estimator:
    """What `save` wrote.

    Raises:
        UserError: there is nothing, or it is of another version of this study.
    """
    try:
        facts = json.loads((folder / "estimator.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "estimator.safetensors")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no latency estimator that can be read; fit one with `{COMMAND}`.") from error
    if (facts["inputs"], facts["outputs"]) != (list(INPUTS), list(OUTPUTS)):
        raise UserError(f"The latency estimator in {folder} predicts other parts; fit it again with `{COMMAND}`.")
    weights = {key.removeprefix("parts."): value for key, value in tensors.items() if key.startswith("parts.")}
    net = network(len(weights["0.weight"]))
    net.load_state_dict(weights)
    space = Space(**{name: tuple(settings) for name, settings in facts["space"].items()})
    arrays: dict[str, Any] = {name: tensors[name].numpy() for name in _ARRAYS}
    return Estimator(space=space, machine=facts["machine"], parts=net, **arrays)


def network(width: int) -> nn.Sequential:
    """Two hidden layers, `INPUTS` to `OUTPUTS`."""
    return nn.Sequential(
        nn.Linear(len(INPUTS), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, len(OUTPUTS))
    )


def raw_inputs(space: Space, vision_tokens: Floats, text_tokens: Floats, output_tokens: Floats) -> Floats:
    """`INPUTS` of n samples in every configuration, (n x c, 6), from (n, c), (n,) and (n, c).

    Times are near to products of powers of the counts, so their logarithms are near to linear in these.
    """
    shape = output_tokens.shape
    tier = space.places()[:, 0] / max(len(space.tiers) - 1, 1)
    top_k, blocks = np.log1p([[one.top_k, one.blocks] for one in space.configurations]).T
    columns = (np.log1p(vision_tokens), np.log1p(text_tokens)[:, None], tier, top_k, blocks, np.log1p(output_tokens))
    return np.stack([np.broadcast_to(column, shape).ravel() for column in columns], axis=1)


def with_total(parts: Mapping[str, Floats], output_tokens: Floats) -> dict[str, Floats]:
    """`OUTPUTS` in ms and the `total_ms` that they make for answers of so many tokens, all (n, c)."""
    vision, projector, prefill, per_token = (parts[name] for name in OUTPUTS)
    return {**parts, "total_ms": vision + projector + prefill + per_token * (output_tokens - 1)}


def measured(profile: Profile) -> dict[str, Floats]:
    """Each of `OUTPUTS`, and `total_ms`, medians of the runs, (n, c) in ms; NaN where there are none."""
    parts = {name: profile.per_token_ms if name == OUTPUTS[3] else profile.parts[name] for name in OUTPUTS}
    return {**parts, "total_ms": profile.total_ms}


def only(profile: Profile, rows: npt.NDArray[np.bool_]) -> Profile:
    """The same samples with the times of these rows (n, c) only, NaN elsewhere."""
    runs = {name: np.where(rows[..., None], values, np.nan) for name, values in profile.runs.items()}
    return replace(profile, runs=runs)
