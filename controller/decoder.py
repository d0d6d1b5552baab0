"""A decoder run block by block, for whoever shares work between configurations of the knobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Decoder:
    """The blocks of one model by their numbers in the whole; the knobs do not change them."""

    def __init__(self, model: Any) -> None:
        self._stack, self._head = model.model.language_model, model.lm_head
        self._blocks = list(self._stack.layers)
        self._rope_types: list[str] | None = getattr(self._stack, "rope_types", None)

    def rope(self, hidden: Tensor, positions: Tensor) -> Any:
        """Rotary embeddings for `block`, of hidden states (n, length, width) at positions (n, length)."""
        scaled = self._stack.rotary_emb(hidden, position_ids=positions)
        if self._rope_types is None:
            return scaled
        return {"scaled": scaled, "unscaled": self._stack.rotary_emb_unscaled(hidden, position_ids=positions)}

    def block(self, number: int, hidden: Tensor, *, rope: Any, mask: Tensor | None, cache: Any = None) -> Tensor:
        """Hidden states (n, length, width) after one block.

        Args:
            number: of the block in the whole model.
            hidden: what goes in.
            rope: from `rope`.
            mask: who attends to whom, bool (n, 1, length, keys); None: causal.
            cache: a transformers cache that the block reads and writes at its `layer_idx`; None: none.
        """
        out: Tensor = self._blocks[number](
            hidden,
            position_embeddings=rope if self._rope_types is None else rope[self._rope_types[number]],
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return out

    @contextmanager
    def only(self, number: int, places: Tensor) -> Iterator[None]:
        """Within this, `block` computes a block's keys and values whole, but its feed-forward half at one place a row.

        Args:
            number: of the block in the whole model.
            places: (n,), where what comes out is right; elsewhere it is not.
        """
        mlp = self._blocks[number].mlp
        whole = mlp.forward

        def at_places(hidden: Tensor) -> Tensor:
            rows = torch.arange(len(hidden), device=hidden.device)
            out = torch.zeros_like(hidden)
            out[rows, places] = whole(hidden[rows, places][:, None])[:, 0]
            return out

        mlp.forward = at_places
        try:
            yield
        finally:
            mlp.forward = whole  # which need not be the class's own: accelerate puts one in its place

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary) of what the last block gave."""
        out: Tensor = self._head(self._stack.norm(hidden))
        return out
