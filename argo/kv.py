"""The keys and values of a batch of sequences, written in place: no copy per token, and rows come and go.

transformers' own `DynamicCache` copies all of it at every token, and fills all rows at once.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RowsLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's `keys` and `values` (rows, heads, room, dim).

    Attributes:
        rows: those the next pass writes and sees.
        filled: columns before those it writes.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, rows: int, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size, self.rows, self.filled = (rows, room), slice(0, rows), 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Zeros, for a column that is masked is still multiplied, and must not hold a NaN."""
        rows, room = self.size
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        self.keys, self.values = (
            states.new_zeros(rows, states.shape[1], room, states.shape[3]) for states in (key_states, value_states)
        )

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write (rows, heads, n, dim) after the filled columns; views of all that these rows hold now."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        keys, values = self.keys[self.rows], self.values[self.rows]
        keys[:, :, start : self.filled] = key_states
        values[:, :, start : self.filled] = value_states
        return keys[:, :, : self.filled], values[:, :, : self.filled]

    def get_seq_length(self) -> int:
        """Columns filled."""
        return self.filled


class Rows(Cache):
    """A cache for `rows` sequences of at most `room` columns in a model of `layers` layers."""

    layers: list[RowsLayer]  # type: ignore[assignment]

    def __init__(self, layers: int, rows: int, room: int) -> None:
        super().__init__(layers=[RowsLayer(rows, room) for _ in range(layers)])

    def at(self, column: int, rows: slice) -> None:
        """The next pass is over `rows`, and writes from `column` on."""
        for layer in self.layers:
            layer.filled, layer.rows = column, rows

    def copy(self, other: Rows, source: int, columns: slice, row: int, column: int) -> None:
        """Put `columns` of row `source` of another cache into `row`, from `column` on."""
        end = column + columns.stop - columns.start
        for mine, its in zip(self.layers, other.layers, strict=True):
            if not its.is_initialized:  # a layer that uses another's keys
                continue
            if not mine.is_initialized:
                mine.lazy_initialization(its.keys, its.values)
            mine.keys[row, :, column:end] = its.keys[source, :, columns]
            mine.values[row, :, column:end] = its.values[source, :, columns]

    def move(self, column: int, to: int) -> None:
        """Have what stands before `column` stand before `to`; what has no place any more is lost."""
        if column == to:
            return
        width = min(column, to)
        for layer in self.layers:
            if layer.is_initialized:
                for part in (layer.keys, layer.values):
                    part[:, :, to - width : to] = part[:, :, column - width : column].clone()

    def keep(self, rows: Tensor) -> None:
        """Let go of all rows but these, indices (n)."""
        for layer in self.layers:
            if layer.is_initialized:
                index = rows.to(layer.device)
                layer.keys, layer.values = layer.keys[index], layer.values[index]
