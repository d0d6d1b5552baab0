"""The controllers' network: from what is known of a sample and a budget to a distribution over settings of the knobs.

One network serves every experiment; they differ in what goes in and which knobs come out:

    C2 supervised   budget                                -> tier, top_k, blocks
    C3 stage 1      language, budget                      -> tier
    C4 stage 2      language, vision of the tier, budget  -> top_k, blocks
    C5 end to end   language, vision of tier low, budget  -> tier, top_k, blocks

Each knob has a head of its own. The logit of an action, that is of one setting for every knob, is the sum of its
heads' logits, so without a mask the knobs are independent given the state, and cross-entropy on the action is the sum
of the heads' cross-entropies. A mask takes actions out before the softmax. A state is one (sample, budget); n samples
by m budgets make arrays (n, m, ...). Actions are numbered like `Space.configurations`, the last knob fastest.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from controller.space import Space
from suite.errors import UserError
from suite.rng import generator

Array = npt.NDArray[Any]
Settings = Mapping[str, Sequence[str | int]]
"""Names of knobs and their settings, cheap to dear."""


def settings(space: Space, *names: str) -> dict[str, tuple[str | int, ...]]:
    """Settings of the named knobs of a space (`tier`, `top_k`, `blocks`), or of all three."""
    every: dict[str, tuple[str | int, ...]] = {"tier": space.tiers, "top_k": space.top_ks, "blocks": space.depths}
    return {name: every[name] for name in names or every}


def joined(*parts: Array) -> Tensor:
    """A float32 vector for every state, (n, m, sum of d), from features (n or 1, m or 1, d) of samples and budgets."""
    shape = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
    wide = [np.broadcast_to(part, (*shape, part.shape[-1])) for part in parts]
    return torch.from_numpy(np.concatenate(wide, axis=-1).astype(np.float32))


def feasible(latency_ms: Array, budgets_ms: Array) -> npt.NDArray[np.bool_]:
    """Which actions of latency (..., a), best the estimate's p95, fit their state's budget (...).

    The first action is the cheapest and always allowed: something must run, and is counted as missed if it is late.
    """
    fits: npt.NDArray[np.bool_] = latency_ms <= budgets_ms[..., None]
    fits[..., 0] = True
    return fits


class Policy(nn.Module):
    """Two hidden layers and one head a knob; the features' mean and spread are stored with the weights."""

    mean: Tensor
    spread: Tensor

    def __init__(self, knobs: Settings, *, features: int, width: int, seed: int) -> None:
        """Start at the uniform distribution.

        Args:
            knobs: what is decided.
            features: length of a state's vector.
            width: units of a hidden layer.
            seed: of the hidden layers; the heads start at 0.
        """
        super().__init__()
        self.knobs = {name: tuple(values) for name, values in knobs.items()}
        sizes = [len(values) for values in self.knobs.values()]
        self.actions = math.prod(sizes)
        self.hidden = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.heads = nn.Linear(width, sum(sizes))
        # Row by row the heads' logits that an action adds up.
        ends = np.cumsum([0, *sizes[:-1]])
        places = np.array(list(itertools.product(*(range(size) for size in sizes)))) + ends
        self.register_buffer("sums", nn.functional.one_hot(torch.from_numpy(places), sum(sizes)).sum(1).float(), False)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        draws = torch.Generator().manual_seed(int(generator(seed, "policy", "weights").integers(2**62)))
        with torch.no_grad():
            for layer in (self.hidden[0], self.hidden[2]):
                assert isinstance(layer, nn.Linear)
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=draws)
                layer.bias.zero_()
            self.heads.weight.zero_()
            self.heads.bias.zero_()

    def normalise(self, inputs: Tensor) -> None:
        """Take mean and spread of the features from states (..., f); a feature that never moves is only centred."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        self.mean.copy_(rows.mean(dim=0))
        spread = rows.std(dim=0, correction=0)
        self.spread.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def joint(self) -> tuple[Tensor, Tensor]:
        """Weight (a, width) and bias (a,) that give the actions' logits at once."""
        sums = self.get_buffer("sums")
        return sums @ self.heads.weight, sums @ self.heads.bias

    def log_probabilities(self, inputs: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Log-probability of each action, (..., a), of states (..., f); -inf where not `allowed` (..., a)."""
        hidden = self.hidden((inputs - self.mean) / self.spread)
        logits = nn.functional.linear(hidden, *self.joint())
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        return logits.log_softmax(dim=-1)

    @torch.no_grad()
    def best(self, inputs: Tensor, allowed: Tensor | None = None) -> npt.NDArray[np.int64]:
        """Number of the most probable action (...) of states (..., f)."""
        chosen: npt.NDArray[np.int64] = self.log_probabilities(inputs, allowed).argmax(dim=-1).numpy()
        return chosen

    def places(self, actions: Array) -> dict[str, npt.NDArray[np.int64]]:
        """Number of each knob's setting, the shape of `actions`, by the knob's name."""
        sizes = tuple(len(values) for values in self.knobs.values())
        return dict(zip(self.knobs, np.unravel_index(actions, sizes), strict=True))

    def save(self, path: Path) -> None:
        """Store weights and knobs as safetensors."""
        told = {"knobs": json.dumps(self.knobs), "features": str(len(self.mean)), "width": str(self.heads.in_features)}
        save_file(self.state_dict(), path, metadata=told)

    @classmethod
    def load(cls, path: Path, knobs: Settings) -> Policy:
        """A stored policy.

        Raises:
            UserError: it decides other knobs, or has other settings of them.
        """
        with safe_open(path, framework="pt") as file:
            told = file.metadata()
        stored = {name: tuple(values) for name, values in json.loads(told["knobs"]).items()}
        if stored != {name: tuple(values) for name, values in knobs.items()}:
            raise UserError(
                f"{path} decides {_words(stored)}, but this run has {_words(knobs)}; train the controller again."
            )
        policy = cls(stored, features=int(told["features"]), width=int(told["width"]), seed=0)
        policy.load_state_dict(load_file(path))
        return policy


def _words(knobs: Settings) -> str:
    return ", ".join(f"{name} {'/'.join(map(str, values))}" for name, values in knobs.items())
