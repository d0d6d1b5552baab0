"""docs/extending.md: its files, taken from the page, add a gate, a strategy, a tier and a study; all of them run."""

from __future__ import annotations

import copy
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import argo.schema
import edgecloud.schema
from tests import argo_runs, controller_runs, runs
from tests.runs import ROOT, Answer, Here, TinyPair, read_record, read_rows, records

FILES = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
MINE = ("launch", "my_gate", "my_strategy", "my_tier", "patience", "patience.schema", "patience.task")


class Mine(Here):
    """mine.py in this process, typed in the folder where it is."""

    def __call__(self, *arguments: str) -> Answer:
        self.capture.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["mine.py", *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path("mine.py", run_name="__main__")
        out, err = self.capture.readouterr()
        return Answer(code=int(end.value.code or 0), out=out, err=err)


def write_files(folder: Path) -> None:
    """Every file of the page."""
    for name, text in FILES.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "patience" / "__init__.py").touch()


@pytest.fixture
def mine(here: Here, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mine]:
    """The page's files; what they add to the suite is gone afterwards."""
    from argo import strategies
    from controller import crops
    from edgecloud import gates

    tables = [
        gates.GATES, edgecloud.schema.GATES, edgecloud.schema.SENDS_ALL, strategies.STRATEGIES, argo.schema.STRATEGIES,
        crops.TIERS,
    ]  # fmt: skip
    before = copy.deepcopy(tables)
    write_files(here.folder)
    monkeypatch.chdir(here.folder)
    monkeypatch.syspath_prepend(str(here.folder))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    yield Mine(here.folder, here.capture, monkeypatch)
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.extend(content) if isinstance(table, list) else table.update(content)  # type: ignore[arg-type]
    for name in MINE:
        sys.modules.pop(name, None)


def test_a_gate(mine: Mine, pair: TinyPair) -> None:
    calls = {}
    for gate in ("entropy", "torn", "always"):
        job = mine.job(*pair.arguments, f"task.gate={gate}", "task.entropy_threshold=3.3")
        record = read_record(job)
        assert record["config"]["task"]["gate"] == gate
        calls[gate] = record["metrics"]["cloud_call_rate"]["value"]
    assert calls["entropy"] < calls["torn"] <= calls["always"]
    refused = mine(*pair.arguments, "task.gate=tron")
    assert refused.code == 1 and "Did you mean 'torn'?" in " ".join((refused.out + refused.err).split())


def test_a_strategy(mine: Mine, tmp_path_factory: pytest.TempPathFactory) -> None:
    toy = argo_runs.make_toy(tmp_path_factory.mktemp("toy"))
    answer = mine("-m", "task=argo", *toy.arguments, "task.strategy=look_once,always_reason")
    assert answer.code == 0, answer
    ours, theirs = records(mine.folder)
    assert read_record(ours)["config"]["task"]["strategy"] == "look_once"
    for job, looked in ((ours, 1), (theirs, 0)):
        assert {row["metrics"]["retrievals"] for row in read_rows(job)} == {looked}
    (page,) = mine.folder.glob("multirun/*/*/trajectories.html")
    assert "look_once" in page.read_text()


def test_a_setting_of_a_knob(mine: Mine, tmp_path_factory: pytest.TempPathFactory) -> None:
    toy = controller_runs.make_toy(tmp_path_factory.mktemp("toy"))
    job = mine.job(*toy.arguments, "step=profile", "task.tiers=[low,pyramid]")
    assert read_record(job)["status"] == "completed"
    found = controller_runs.step_folder(mine.folder, "profile")
    from controller import table

    profile = table.read(found / "profile.parquet")
    assert profile.space.tiers == ("low", "pyramid")
    assert profile.vision_tokens[:, -1].tolist() == [14 * profile.vision_tokens[0, 0]] * len(profile.ids)


def test_a_study(mine: Mine) -> None:
    sweep = ["--config-dir", "conf", "-m", "task=patience", "task.readings=1,4,16"]
    answer = mine(*sweep)
    assert answer.code == 0, answer
    jobs = records(mine.folder)
    errors, costs = ([read_record(job)["metrics"][name]["value"] for job in jobs] for name in ("error", "cost"))
    assert errors == sorted(errors, reverse=True) and costs == [1.0, 4.0, 16.0]
    assert all(read_record(job)["metrics"]["error"]["n"] == 50 for job in jobs)
    assert "on the same samples" in answer.out  # paired by gauge
    again = mine(*sweep)
    assert "3 of 3 jobs were finished before" in again.out
    refused = mine("--config-dir", "conf", "task=patience", "task.readings=0")
    assert refused.code == 1 and "task.readings=0 must be between 1 and 10000" in refused.out + refused.err


@pytest.mark.slow
def test_the_processes_that_the_suite_starts_know_it_too(pair: TinyPair, tmp_path: Path) -> None:
    write_files(tmp_path)
    arguments = [*pair.arguments, "task.gate=torn", "hardware=iphone15_cpu"]
    done = subprocess.run(
        [sys.executable, "mine.py", *arguments], cwd=tmp_path, env={**runs.environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    (job,) = records(tmp_path)
    assert read_record(job)["limits"] is not None
