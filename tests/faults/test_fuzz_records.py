"""Records and what lies beside them, broken in every way: a sentence, or exactly the numbers of the file."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import strategies as st
from rich.console import Console

from suite.errors import UserError
from suite.records import claim
from suite.records.store import OWNER, read_record
from suite.report.collect import read_sweep
from suite.report.export import tidy, write_table
from suite.report.html import page
from suite.report.reference import reference_view
from suite.report.table import show_sweep
from tests.faults.fuzzing import broken_bytes, broken_json, broken_lines, fuzz, many
from tests.unit.test_report import make_record, make_samples, write_job

TABLE = {"title": "A table", "header": ["", "x"], "rows": [["a", "1"], ["b", "2"]]}
RECORD = make_record(k=2, facts={"headline": ["bleu"], "tables": [TABLE], "models": {"edge": {"load_s": 0.5}}})
SAMPLES = make_samples({"s1": 0.1, "s2": 0.25, "s3": None})


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two jobs that are compared; the second one will be broken."""
    folder = tmp_path / "sweep"
    write_job(folder / "0", make_record(k=1), SAMPLES)
    write_job(folder / "1", RECORD, SAMPLES)
    return folder


def shown(folder: Path) -> str:
    """The sweep as the terminal shows it."""
    out = io.StringIO()
    show_sweep(folder, Console(file=out, width=200, color_system=None))
    return out.getvalue()


@many(3000)
def test_records(inputs: int, sweep: Path, figures: Counter[str]) -> None:
    path = sweep / "1" / "record.json"

    def check(text: bytes) -> None:
        path.write_bytes(text)
        found = read_sweep(sweep)
        columns, told = tidy(found), json.loads(path.read_bytes())
        row = [job.folder.name for job in found.jobs].index("1") if len(found.jobs) > 1 else None
        if row is not None:
            for name, metric in told["metrics"].items():
                assert columns[name][row] == metric["value"] and columns[f"{name}_n"][row] == metric["n"]
        shown(sweep)
        json.dumps(reference_view(told, SAMPLES), allow_nan=False)

    ends = fuzz(inputs, figures, broken_json(RECORD), check)
    assert ends["answers"] and ends["sentences"]


@many(300)
def test_pages_and_files_of_records(inputs: int, sweep: Path, figures: Counter[str]) -> None:
    path = sweep / "1" / "record.json"

    def check(text: bytes) -> None:
        path.write_bytes(text)
        page(read_sweep(sweep)).encode()
        write_table(sweep)

    assert fuzz(inputs, figures, broken_json(RECORD, edits=2), check)["answers"]


@many(2000)
def test_samples(inputs: int, sweep: Path, tmp_path: Path, figures: Counter[str]) -> None:
    path, index = sweep / "1" / "samples.jsonl", tmp_path / "index"
    mark = RECORD["fingerprint"]
    (sweep / "1" / "record.json").unlink()  # it was killed
    (sweep / "1" / OWNER).write_text(mark)
    config = {"task": {"name": "specdec", "method": "specdec"}, "output_name": None, "seed": 1}
    (sweep / "1" / ".hydra" / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    (sweep / "1" / ".hydra" / "overrides.yaml").write_text('["task.k=2"]')

    def check(text: bytes) -> None:
        path.write_bytes(text)
        shown(sweep)
        with claim(sweep / "1", index, mark) as job, closing(job.samples()) as log:
            kept = [row["id"] for row in log]
            log.append({"id": "new", "status": "ok", "error": None, "metrics": {"bleu": 0.5}})
        assert "new" not in kept
        lines = [json.loads(line)["id"] for line in path.read_text().splitlines()]
        assert lines == [*kept, "new"] and len(set(lines)) == len(lines)

    ends = fuzz(inputs, figures, broken_lines(SAMPLES), check)
    assert ends["answers"] and ends["sentences"]


@many(600)
@pytest.mark.parametrize("file", [OWNER, ".hydra/config.yaml", ".hydra/overrides.yaml", "index"])
def test_what_else_a_killed_job_leaves(file: str, inputs: int, tmp_path: Path, figures: Counter[str]) -> None:
    mark, job, index = "a" * 64, tmp_path / "0", tmp_path / "index"
    config = {"task": {"name": "specdec", "method": "specdec"}, "output_name": None, "seed": 1}

    def leave() -> None:
        shutil.rmtree(job, ignore_errors=True)
        (job / ".hydra").mkdir(parents=True)
        (job / ".hydra" / "config.yaml").write_text(json.dumps(config))
        (job / ".hydra" / "overrides.yaml").write_text('["task.k=2"]')
        with claim(job, index, mark) as one, closing(one.samples()) as log:
            for row in SAMPLES:
                log.append(row)

    leave()
    path = index / mark[:32] if file == "index" else job / file
    whole = path.read_bytes()

    def check(text: bytes) -> None:
        leave()
        path.write_bytes(text)
        assert "0" in shown(tmp_path)
        with claim(job, index, mark) as one, closing(one.samples()) as log:
            assert len(log) in (0, len(SAMPLES))  # all of them, or none where nobody can tell whose they are
            if text == whole:
                assert len(log) == len(SAMPLES)

    fuzz(inputs, figures, st.one_of(broken_bytes(whole), st.binary(max_size=30), st.just(whole)), check)


@pytest.mark.parametrize("cut", [0, 1, 40, 63])
def test_a_kill_inside_the_fingerprint_does_not_cost_the_folder(cut: int, tmp_path: Path) -> None:
    mark = "a1" * 32
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / OWNER).write_text(mark[:cut])
    with claim(tmp_path / "job", tmp_path / "index", mark):
        assert (tmp_path / "job" / OWNER).read_text() == mark


def test_a_record_of_another_job_is_not_taken_for_this_ones(sweep: Path, tmp_path: Path) -> None:
    mark = "b" * 64
    (tmp_path / "job").mkdir()
    with claim(tmp_path / "job", tmp_path / "index", mark) as job:
        assert job.record is None
    shutil.copyfile(sweep / "1" / "record.json", tmp_path / "job" / "record.json")
    with pytest.raises(UserError, match=r"record\.json is of another job"), claim(job.folder, tmp_path / "index", mark):
        pass
    assert read_record(job.folder) is not None
