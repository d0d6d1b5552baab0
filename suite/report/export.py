"""The tidy table as files: one row a job, the same bytes from the same records."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suite.records.samples import writing
from suite.records.store import write_atomic
from suite.report.collect import Sweep, read_sweep

METRIC_FIELDS = ("value", "low", "high", "n", "unit", "origin")


def write_table(folder: Path) -> tuple[Path, Path]:
    """Write table.csv and table.parquet into a sweep's folder and return their paths.

    Raises:
        UserError: no records, or the folder cannot be written.
    """
    columns = tidy(read_sweep(folder))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_atomic(folder / "table.csv", text.getvalue())
    _write_parquet(folder / "table.parquet", columns)
    return folder / "table.csv", folder / "table.parquet"


def tidy(sweep: Sweep) -> dict[str, list[Any]]:
    """Columns of equal length, one entry a job.

    A metric `bleu` has the columns bleu, bleu_low, bleu_high (95 % interval), bleu_n, bleu_unit and bleu_origin; a
    cell is None where the job has no such metric or its meter was missing.
    """
    records = [job.record for job in sweep.jobs]
    columns: dict[str, list[Any]] = {
        "job": [job.label for job in sweep.jobs],
        "fingerprint": [record["fingerprint"] for record in records],
        "name": [record["name"] for record in records],
        "status": [record["status"] for record in records],
    }
    columns |= {name: _uniform(values) for name, values in sweep.settings.items()}
    columns["n"] = [record["samples"]["completed"] for record in records]
    columns["failed"] = [record["samples"]["failed"] for record in records]
    for name in sweep.metrics:
        cells = [_metric_cells(record["metrics"].get(name)) for record in records]
        for field, values in zip(METRIC_FIELDS, zip(*cells, strict=True), strict=True):
            columns[name if field == "value" else f"{name}_{field}"] = list(values)
    columns["error"] = [record["error"] for record in records]
    return columns


def _metric_cells(metric: dict[str, Any] | None) -> tuple[Any, ...]:
    if metric is None:
        return (None,) * len(METRIC_FIELDS)
    low, high = metric["ci95"] or (None, None)
    return _float(metric["value"]), _float(low), _float(high), metric["n"], metric["unit"], metric["origin"]


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)  # JSON writes 4.0 as 4 in some tools; a column has one type


def _uniform(values: Sequence[Any]) -> list[Any]:
    """The values as one type: as they are, as floats, or else as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return list(values)
    convert = float if kinds == {int, float} else str
    return [None if value is None else convert(value) for value in values]


def _write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    def array(name: str, values: list[Any]) -> Any:
        empty = all(value is None for value in values)
        number = name.endswith(("_low", "_high")) or name in numbers
        kind = (pyarrow.float64() if number else pyarrow.string()) if empty else None
        return pyarrow.array(values, type=kind)

    # a column without any value still needs a type, the same in every sweep
    numbers = {name for name in columns if f"{name}_origin" in columns}
    table = pyarrow.table({name: array(name, values) for name, values in columns.items()})
    partial = path.with_name(f".{path.name}.part")
    with writing(path):
        pyarrow.parquet.write_table(table, partial)
        partial.replace(path)
