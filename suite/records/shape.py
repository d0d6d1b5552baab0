"""What records and samples look like on disk; whatever looks otherwise is refused before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

NUMBER = (int, float)
_RECORD: dict[str, tuple[type, ...]] = {
    "fingerprint": (str,),
    "status": (str,),
    "task": (str,),
    "name": (str,),
    "config": (dict,),
    "overrides": (list,),
    "seed": (int,),
    "models": (dict,),
    "data_sha256": (str, NoneType),
    "metrics": (dict,),
    "facts": (dict,),
    "samples": (dict,),
    "error": (str, NoneType),
    "provenance": (dict,),
    "started_at": (str,),
    "wall_time_s": (*NUMBER, NoneType),
}
_METRIC: dict[str, tuple[type, ...]] = {
    "value": (*NUMBER, NoneType),
    "unit": (str,),
    "n": (int,),
    "ci95": (list, NoneType),
    "origin": (str,),
    "note": (str,),
}
_PROVENANCE: dict[str, tuple[type, ...]] = {
    "git_sha": (str, NoneType),
    "git_dirty": (bool, NoneType),
    "packages": (dict,),
    "python": (str,),
    "machine": (dict,),
    "command": (list,),
}
_MACHINE: dict[str, tuple[type, ...]] = {"cpu": (str,), "cores": (dict,), "memory_gb": NUMBER, "gpus": (list,)}
_TABLE: dict[str, tuple[type, ...]] = {"title": (str,), "header": (list,), "rows": (list,)}
_COUNTS: dict[str, tuple[type, ...]] = {"completed": (int,), "failed": (int,)}
_ROW: dict[str, tuple[type, ...]] = {"id": (str,), "status": (str,), "error": (str, NoneType)}


def check_record(record: Any) -> None:
    """Raise `ValueError`, naming the field, unless a report can be made of the record."""
    _check(record, _RECORD, "")
    _check(record["samples"], _COUNTS, "samples.")
    _check_list(record["overrides"], (str,), "overrides")
    source = record["provenance"]
    _check_known(source, _PROVENANCE, "provenance.")
    _check_known(source.get("machine", {}), _MACHINE, "provenance.machine.")
    _check_list(source.get("command", []), (str,), "provenance.command")
    for name, metric in record["metrics"].items():
        _check(metric, _METRIC, f"metrics.{name}.")
        if metric["ci95"] is not None:
            _check_list(metric["ci95"], NUMBER, f"metrics.{name}.ci95", length=2)
    _check_list(record["facts"].get("headline", []), (str,), "facts.headline")
    _check_list(record["facts"].get("tables", []), (dict,), "facts.tables")
    for table in record["facts"].get("tables", []):
        _check(table, _TABLE, "facts.tables.")
        _check_list(table["header"], (str,), "facts.tables.header")
        _check_list(table["rows"], (list,), "facts.tables.rows")
        for row in table["rows"]:
            _check_list(row, (str,), "facts.tables.rows", length=len(table["header"]))


def check_row(row: Any) -> None:
    """Raise `ValueError`, naming the field, unless it is a sample: done with its numbers, or failed with a reason."""
    _check(row, _ROW, "")
    if row["status"] not in ("ok", "failed"):
        raise ValueError(f"status {row['status']!r}")
    metrics = row.get("metrics", {})
    _check({"metrics": metrics}, {"metrics": (dict,)}, "")
    _check(metrics, dict.fromkeys(metrics, (*NUMBER, bool, NoneType)), "metrics.")


def _check(found: Any, fields: Mapping[str, tuple[type, ...]], where: str) -> None:
    """Exact types, as JSON makes them: True is no count."""
    if not isinstance(found, dict):
        raise ValueError(f"{where.rstrip('.') or 'it'} is no object")
    for name, kinds in fields.items():
        if name not in found:
            raise ValueError(f"no {where}{name}")
        if type(found[name]) not in kinds:
            raise ValueError(f"{where}{name} is of the wrong type")


def _check_known(found: dict[str, Any], fields: Mapping[str, tuple[type, ...]], where: str) -> None:
    """As `_check`, of those fields that are there."""
    _check(found, {name: kinds for name, kinds in fields.items() if name in found}, where)


def _check_list(found: Any, kinds: tuple[type, ...], where: str, length: int | None = None) -> None:
    if not isinstance(found, list) or any(type(one) not in kinds for one in found) or length not in (None, len(found)):
        raise ValueError(f"{where} is of the wrong type")
