"""One sweep over all three studies, in miniature, and what of it two runs must agree on."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tests import argo_runs, controller_runs
from tests.runs import MEASURED, TinyPair, read_record, settled, settled_rows

STUDIES = ("specdec", "argo", "controller")
AXIS = "seed=1,2"
JOBS = 6
"""Of the sweep along `AXIS`."""


@dataclass(frozen=True, kw_only=True)
class Studies:
    """A folder of Hydra experiments, `fault_specdec` and so on: tiny models, a few samples, everything on one core."""

    folder: Path

    def sweep(self, *axes: str, studies: tuple[str, ...] = STUDIES) -> list[str]:
        """Arguments of launch.py."""
        chosen = ",".join(f"fault_{study}" for study in studies)
        return ["-m", "--config-dir", str(self.folder), f"experiment={chosen}", *axes]

    def job(self, study: str) -> list[str]:
        """Arguments of launch.py for one job."""
        return ["--config-dir", str(self.folder), f"experiment=fault_{study}"]


def make_studies(folder: Path, pair: TinyPair) -> Studies:
    """The whole of it."""
    argo = argo_runs.make_toy(folder / "argo", questions=3)
    controller = controller_runs.make_toy(folder / "controller")
    models = {name: {"source": "path", "id": str(pair.folder / name)} for name in ("edge", "cloud")}
    text = {
        "models": models,
        "dataset": {"path": str(pair.prompts), "max_samples": 3},
        "hardware": {"dtype": "float32"},
        "task": {"max_new_tokens": 12, "cloud_hardware": {"dtype": "float32"}},
    }
    _experiment(folder, "specdec", {"task": "specdec", "models": "omni_tiny", "dataset": "prompts"}, text)
    groups, values = _parted([*argo.arguments, "task=argo"])
    _experiment(folder, "argo", groups, values)
    groups, values = _parted([*controller.arguments, "task.profile_samples=3", "step=importance"])
    _experiment(folder, "controller", groups, values)
    return Studies(folder=folder)


def _parted(arguments: list[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Choices of groups, and values; the last one of a key counts."""
    pairs = [argument.split("=", 1) for argument in arguments]
    groups = {key: value for key, value in pairs if "." not in key}
    values = OmegaConf.from_dotlist([f"{key}={value}" for key, value in pairs if "." in key])
    return groups, dict(OmegaConf.to_container(values))  # type: ignore[arg-type]


def _experiment(folder: Path, study: str, groups: dict[str, str], values: dict[str, Any]) -> None:
    path = folder / "experiment" / f"fault_{study}.yaml"
    path.parent.mkdir(exist_ok=True)
    order = sorted(groups, key=lambda group: group != "task")
    defaults = [{f"override /{group}": groups[group]} for group in order]
    path.write_text(f"# @package _global_\n{OmegaConf.to_yaml({'defaults': defaults, **values})}")


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The sweep along `AXIS` when nobody interrupts it."""

    folder: Path
    """Of the launch."""
    table: bytes
    ids: dict[str, list[str]]
    wall_s: float
    events: int
    """How often it changed the file system."""


def final_table(sweep: Path) -> bytes:
    """table.csv without what a clock or a meter measured, which no two runs agree on."""
    header, *rows = csv.reader(io.StringIO((sweep / "table.csv").read_text(encoding="utf-8")))
    units = {name.removesuffix("_unit"): {row[i] for row in rows} for i, name in enumerate(header) if "_unit" in name}
    measured = {name for name, found in units.items() if found & MEASURED}
    dropped = {f"{name}{end}" for name in measured for end in ("", "_low", "_high")}
    kept = [i for i, name in enumerate(header) if name not in dropped]
    return "\n".join(",".join(row[i] for i in kept) for row in (header, *rows)).encode()


def kept_lines(folder: Path) -> dict[str, list[bytes]]:
    """Fingerprint -> the most whole lines that any samples.jsonl of that job below `folder` holds.

    What the controller's steps log as they go counts too, under the names of their files.
    """
    found: dict[str, list[bytes]] = {}
    for path in folder.rglob("*.jsonl"):
        owner = path.with_name(".fingerprint")
        mark = owner.read_text() if owner.exists() else f"{path.parent.name}/{path.name}"
        found[mark] = max(found.get(mark, []), path.read_bytes().split(b"\n")[:-1], key=len)
    return found


def finished(folder: Path) -> dict[str, bytes]:
    """Fingerprint -> record.json of every job that is done."""
    return {read_record(path.parent)["fingerprint"]: path.read_bytes() for path in folder.rglob("record.json")}


def results(sweep: Path) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Fingerprint -> record and samples of every job that is done, without what a clock or a meter measured."""
    folders = [path.parent for path in sweep.rglob("record.json")]
    return {(record := settled(read_record(f)))["fingerprint"]: (record, settled_rows(f)) for f in folders}


def ids(folder: Path) -> dict[str, list[str]]:
    """Fingerprint -> ids of the samples of a sweep, in their order, as often as they are there."""
    return {mark: [json.loads(line)["id"] for line in lines] for mark, lines in kept_lines(folder).items()}
