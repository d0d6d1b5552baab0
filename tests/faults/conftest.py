"""The tiny studies, the process that forks launches, and the figures that the fault suite ends with."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import forked
from tests.faults.sweeps import AXIS, JOBS, Studies, Whole, final_table, finished, ids, make_studies
from tests.integration.conftest import pair
from tests.runs import TinyPair

__all__ = ["pair"]  # a fixture of the integration tests
FIGURES = pytest.StashKey[Counter[str]]()
SECRETS = {"HF_TOKEN": "hf_0123456789abcdefghij", "OPENAI_API_KEY": "not-to-be-told-0", "WANDB_API_KEY": 40 * "7"}


@pytest.fixture(scope="session")
def studies(pair: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> Studies:
    forked.prepare()
    return make_studies(tmp_path_factory.mktemp("studies"), pair)


@pytest.fixture(scope="session")
def whole(studies: Studies, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Run with secrets in its environment."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = [*studies.sweep(AXIS), "hydra.sweep.dir=sweep"]
    began_s = time.monotonic()
    code = forked.finish(forked.start(_with_secrets, folder, arguments, folder / "events"))
    assert code == 0, (folder / "out.txt").read_text()
    assert len(finished(folder / "sweep")) == JOBS
    return Whole(
        folder=folder,
        table=final_table(folder / "sweep"),
        ids=ids(folder / "sweep"),
        wall_s=time.monotonic() - began_s,
        events=(folder / "events").stat().st_size,
    )


def _with_secrets(arguments: list[str], events: Path) -> int:
    os.environ.update(SECRETS)
    return forked.launch_until_event(arguments, 0, events)


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Counter[str]:
    """Name -> figure; printed when all tests are done."""
    return pytestconfig.stash.setdefault(FIGURES, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if found := config.stash.get(FIGURES, None):
        terminalreporter.section("fault suite")
        for name, value in found.items():
            terminalreporter.write_line(f"{value:>10,} {name}")
