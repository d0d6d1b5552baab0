"""The shape of the code: who imports whom, what starts without torch, how long a file may be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for top in ("launch.py", "suite", "edgecloud", "argo", "controller", "zoo", "bench", "hydra_plugins", "tests")
    for path in ([ROOT / top] if top.endswith(".py") else sorted((ROOT / top).rglob("*.py")))
]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_imports_run_one_way(tmp_path: Path) -> None:
    done = run(str(Path(sys.executable).with_name("lint-imports")), "--cache-dir", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_nothing_imports_the_launcher() -> None:
    """It is a module, which import-linter does not follow."""
    importing = re.compile(r"^\s*(import|from) launch\b", re.MULTILINE)
    packages = ("suite", "edgecloud", "argo", "controller", "zoo", "hydra_plugins")
    inside = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in packages]
    assert [path for path in inside if importing.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "modules",
    [
        "launch, suite.job, suite.report.table, hydra_plugins.checked_sweeper, edgecloud.task",
        "suite.__main__, suite.report.collect, suite.report.export, suite.report.html, suite.report.reference",
        "argo.task, argo.graphs, argo.calibration, argo.engines, argo.frontier, argo.retrieve, argo.analysis",
        "controller.task, controller.schema, controller.space",
    ],
    ids=[
        "a job that is finished already",
        "the report",
        "a grid whose answers are stored",
        "the controller before its first step",
    ],
)
def test_starts_without_torch(modules: str) -> None:
    heavy = "{'torch', 'transformers', 'wandb', 'matplotlib'}"
    done = run(sys.executable, "-c", f"import sys, {modules}; print({heavy} & sys.modules.keys() or 'light')")
    assert done.stdout == "light\n", done.stdout + done.stderr


def test_no_file_is_long() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES
    }
    assert len(lengths) > 80
    assert {name: n for name, n in lengths.items() if n > 650} == {}
    code = sorted(n for name, n in lengths.items() if not name.startswith("tests/"))
    assert code[int(0.9 * len(code))] < 460
