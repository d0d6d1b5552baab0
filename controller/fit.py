"""The training loop of every controller: shuffled batches, Adam, the best epoch kept, resumable.

Batches and draws depend on (seed, name, epoch) only, so a run that was killed goes on from its last checkpoint and
ends with the numbers of one that was not. A loss that is no number stops the training; the last good epoch stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from controller.schema import TrainConfig
from suite.errors import UserError
from suite.rng import generator

EVERY = 5
"""Epochs between checkpoints."""
Row = dict[str, Any]
"""What one epoch logs: numbers and lists of numbers."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """How a training went.

    Attributes:
        curve: what was logged, one row an epoch; `epoch` counts from 1 and `loss` is the epoch's mean.
        best_epoch: the one whose weights the network holds now.
    """

    curve: tuple[Row, ...]
    best_epoch: int


def fit(
    network: nn.Module,
    batch: Callable[[Tensor, int], Callable[[], Tensor]],
    score: Callable[[int], Mapping[str, Any]],
    *,
    name: str,
    config: TrainConfig,
    items: int,
    by: str,
    seed: int,
    checkpoint: Path | None,
    updates: int = 1,
) -> Fitted:
    """Train in place.

    Args:
        network: ends with the weights of its best epoch.
        batch: of the numbers (b,) of a batch's items and the epoch: what computes the batch's loss.
        score: what to log of the network after an epoch.
        name: of the training, in its draws and its errors; the options are `task.NAME.lr` and so on.
        config: rate, epochs and batch size.
        items: how many there are to draw batches from.
        by: the logged number whose highest value marks the best epoch; of equal ones the earliest.
        seed: of the order of the items.
        checkpoint: where a killed training goes on from; None: it takes seconds and starts over.
        updates: steps on the same batch.

    Raises:
        UserError: the loss is no number.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=config.lr)
    curve: list[Row] = []
    best: dict[str, Tensor] = {}
    best_epoch = 0
    if checkpoint is not None and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        curve, best, best_epoch = saved["curve"], saved["best"], saved["best_epoch"]

    def state() -> dict[str, Any]:
        """A copy: the optimiser works in place."""
        now = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        return {**_copy(now), "curve": list(curve), "best": best, "best_epoch": best_epoch}

    good = state()
    for epoch in range(len(curve) + 1, config.epochs + 1):
        order = torch.from_numpy(generator(seed, name, "order", epoch).permutation(items))
        losses: list[float] = []
        for rows in torch.split(order, config.batch_size):
            loss_of_batch = batch(rows, epoch)
            for _ in range(updates):
                loss = loss_of_batch()
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                losses.append(loss.item())
        mean = sum(losses) / len(losses)
        if not math.isfinite(mean) or not all(bool(values.isfinite().all()) for values in network.parameters()):
            _write(checkpoint, good)
            kept = f"the state after epoch {epoch - 1} is kept, " if checkpoint is not None else ""
            raise UserError(
                f"Training of {name} stopped: the loss of epoch {epoch} is not a number; {kept}"
                f"lower task.{name}.lr={config.lr:g} and run again."
            )
        curve.append({"epoch": epoch, "loss": mean, **score(epoch)})
        if not best or curve[-1][by] > curve[best_epoch - 1][by]:
            best, best_epoch = _copy(network.state_dict()), epoch
        good = state()
        if epoch % EVERY == 0 or epoch == config.epochs:
            _write(checkpoint, good)
    network.load_state_dict(best)
    return Fitted(curve=tuple(curve), best_epoch=best_epoch)


def _copy(tree: Any) -> Any:
    """Dicts and lists as they are, their tensors copied."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree


def _write(path: Path | None, state: dict[str, Any]) -> None:
    """All of it or nothing."""
    if path is None:
        return
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)
