"""Records on disk: what survives a kill, a full disk and a wrong folder, and what makes two jobs the same job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import launch
from suite.config import CONF, identity
from suite.errors import UserError
from suite.records import Job, SampleLog, claim, fingerprint
from suite.records.samples import read_samples
from suite.records.store import SCHEMA, read_record, write_atomic
from tests.unit.test_report import make_record

ROOT = Path(launch.__file__).parent
MARK = "a" * 64
RECORD = {key: value for key, value in make_record(metrics={}).items() if key not in ("schema", "fingerprint")}


def row(name: str, status: str = "ok") -> dict[str, Any]:
    return {"id": name, "status": status, "error": None if status == "ok" else "it broke", "text": "naïve “text”"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- samples.jsonl ----


@pytest.mark.parametrize("torn", ['{"id": "b"', '{"id": "b"}', '{"id": "naï'.encode()[:-1], b"\0\0\0"], ids=range(4))
def test_a_torn_last_line_is_forgiven_and_dropped_before_the_next_append(tmp_path: Path, torn: str | bytes) -> None:
    path = tmp_path / "samples.jsonl"
    whole = f"{json.dumps(row('a'))}\n".encode()
    path.write_bytes(whole + (torn if isinstance(torn, bytes) else torn.encode()))
    assert [sample["id"] for sample in read_samples(path)] == ["a"]
    log = SampleLog(path)
    assert "a" in log and "b" not in log
    log.append(row("c"))
    log.close()
    assert lines(path) == [row("a"), row("c")]


@pytest.mark.parametrize(
    "broken",
    [
        b'{"id": "b"',
        b"[1]",
        b'{"status": "ok", "error": null}',
        b'{"id": "\xff", "status": "ok", "error": null}',
        b'{"id": "b", "error": null}',
        b'{"id": "b", "status": "ok", "error": null, "metrics": {"x": NaN}}',
        b'{"id": "a", "status": "ok", "error": null}',
    ],
)
def test_any_other_broken_line_names_file_and_line(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "samples.jsonl"
    first, last = (json.dumps(row(name)).encode() for name in "ac")
    whole = first + b"\n" + broken + b"\n" + last + b"\n"
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"samples\.jsonl, line 2 is not a sample .*; delete that line"):
        SampleLog(path)
    assert path.read_bytes() == whole


def test_a_sample_survives_a_kill_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    log = SampleLog(tmp_path / "samples.jsonl")
    log.append(row("a"))
    assert lines(log.path) == [row("a")]  # not closed
    log.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_does_not_know_is_refused_and_leaves_no_trace(tmp_path: Path, value: float) -> None:
    log = SampleLog(tmp_path / "samples.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"id": "a", "metrics": {"x": value}})
    log.append(row("b"))
    log.close()
    assert list(log.rows) == ["b"]
    assert lines(log.path) == [row("b")]


FULL = """
import resource, sys
from pathlib import Path
from suite.errors import UserError
from suite.records import SampleLog
from suite.records.store import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
log = SampleLog(Path("samples.jsonl"))
try:
    for i in range(99):
        log.append({"id": str(i), "status": "ok", "error": None})
except UserError as error:
    print(len(log), error)
try:
    write_atomic(Path("record.json"), 200 * "x")
except UserError as error:
    print(error)
log.close()
"""


def test_a_full_disk_costs_a_sentence_and_no_sample(tmp_path: Path) -> None:
    """A size limit stands in for the disk: the write that crosses it is cut short, then refused, as on a full one."""
    (tmp_path / "record.json").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", FULL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    samples, record = done.stdout.splitlines()
    assert samples.startswith("2 Cannot write samples.jsonl (File too large); what was computed is kept: make room")
    assert record.startswith("Cannot write record.json (File too large)")
    assert (tmp_path / "record.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["record.json", "samples.jsonl"]
    log = SampleLog(tmp_path / "samples.jsonl")  # with room again
    log.append(row("next"))
    log.close()
    assert [sample["id"] for sample in lines(log.path)] == ["0", "1", "next"]


# ---- record.json ----


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
def test_a_kill_while_writing_leaves_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "record.json"
    write_atomic(path, "old")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moment, die)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not a record"),
        ("[]", "is not a record"),
        ("{}", "is not a record"),
        (
            json.dumps({"schema": SCHEMA + 1}),
            f"has record schema {SCHEMA + 1}, this version reads {SCHEMA}; run the job",
        ),
    ],
)
def test_a_record_that_is_none_says_so(tmp_path: Path, text: str, sentence: str) -> None:
    assert read_record(tmp_path) is None
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_record(tmp_path)


def test_a_record_never_holds_nan(job_folder: Path, index: Path) -> None:
    with claim(job_folder, index, MARK) as job, pytest.raises(ValueError, match="not JSON compliant"):
        job.finish({"status": "completed", "metrics": {"x": float("nan")}})
    assert read_record(job_folder) is None


# ---- fingerprint ----


@pytest.fixture(scope="module")
def compose() -> Iterator[Any]:
    from hydra import compose, initialize_config_dir

    for module in launch.SCHEMAS:
        module.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *overrides: compose("config", list(overrides))


MODELS, DATA = {"edge": "1" * 40, "cloud": "2" * 40}, "3" * 64


def test_whatever_can_change_a_number_changes_the_fingerprint(compose: Any) -> None:
    changes = [
        "seed=43",
        "task.k=4",
        "task.entropy_threshold=1.6",
        "task.entropy_threshold=inf",
        "task.stop=[x]",
        "task.cloud_hardware.dtype=float32",
        "models.cloud.dtype=float32",
        "models.edge.revision=v1",
        "dataset.max_samples=7",
        "dataset.language=english",
        "dataset.caption_type=audio_only",
        "hardware=h100",
        "hardware.max_cpu_cores=1",
        "gpu_mode=single",
        "models.edge.quantization=8bit",
    ]
    marks = [fingerprint(identity(compose(*change)), MODELS, DATA) for change in [[], *([one] for one in changes)]]
    marks += [fingerprint(identity(compose()), {**MODELS, "edge": "4" * 40}, DATA)]
    marks += [fingerprint(identity(compose()), {"edge": MODELS["edge"]}, DATA)]
    marks += [fingerprint(identity(compose()), MODELS, "5" * 64)]
    assert len(set(marks)) == len(changes) + 4
    assert marks[0] == fingerprint(identity(compose("task.k=3")), dict(reversed(MODELS.items())), DATA)


@pytest.mark.parametrize(
    "change", ["tracker=wandb", "verbose=true", "output_name=mine", "strict=true", "retry_failed=true"]
)
def test_what_changes_no_number_does_not(compose: Any, change: str) -> None:
    assert fingerprint(identity(compose(change)), MODELS, DATA) == fingerprint(identity(compose()), MODELS, DATA)


# ---- the index: one job, wherever it ran ----


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / ".index"


def folder(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    return made


@pytest.fixture
def job_folder(tmp_path: Path) -> Path:
    return folder(tmp_path, "first")


def kept(job: Job) -> list[str]:
    """Ids of the samples that a run of this job need not compute."""
    with closing(job.samples()) as log:
        return list(log.rows)


def leave(where: Path, index: Path, status: str | None, *rows: dict[str, Any]) -> None:
    """A job as a run leaves it: finished with `status`, or killed (None)."""
    with claim(where, index, MARK) as job:
        assert job.record is None
        with closing(job.samples()) as log:
            for one in rows:
                log.append(one)
        if status:
            job.finish({**RECORD, "status": status})


def test_a_finished_job_is_reused_with_its_samples(tmp_path: Path, job_folder: Path, index: Path) -> None:
    leave(job_folder, index, "completed", row("a"))
    second = folder(tmp_path, "second")
    with claim(second, index, MARK) as job:
        assert job.record == read_record(job_folder)
    assert (second / "record.json").read_bytes() == (job_folder / "record.json").read_bytes()
    assert lines(second / "samples.jsonl") == [row("a")]
    shutil.rmtree(job_folder)  # the copy stands on its own
    with claim(folder(tmp_path, "third"), index, MARK) as job:
        assert job.record is not None


def test_an_interrupted_jobs_samples_are_taken_over(tmp_path: Path, job_folder: Path, index: Path) -> None:
    leave(job_folder, index, None, row("a"), row("b", "failed"))
    with claim(folder(tmp_path, "second"), index, MARK) as job:
        assert job.record is None
        with closing(job.samples()) as log:
            assert [sample["id"] for sample in log] == ["a", "b"]
            log.append(row("c"))
    with claim(folder(tmp_path, "third"), index, MARK) as job:
        assert kept(job) == ["a", "b", "c"]


def test_a_failed_job_is_not_rerun_unless_asked(tmp_path: Path, job_folder: Path, index: Path) -> None:
    leave(job_folder, index, "failed", row("a"), row("b", "failed"))
    with claim(folder(tmp_path, "second"), index, MARK) as job:
        assert job.record is not None and job.record["status"] == "failed"
    with claim(folder(tmp_path, "third"), index, MARK, retry_failed=True) as job:
        assert job.record is None
        assert kept(job) == ["a"]  # what failed is what is to be tried again


def test_of_a_completed_job_the_samples_that_failed_are_retried_if_asked(
    tmp_path: Path, job_folder: Path, index: Path
) -> None:
    leave(job_folder, index, "completed", row("a"), row("b", "failed"))
    with claim(folder(tmp_path, "second"), index, MARK) as job:
        assert job.record is not None
        assert kept(job) == ["a", "b"]
    with claim(folder(tmp_path, "third"), index, MARK, retry_failed=True) as job:
        assert job.record is None
        assert kept(job) == ["a"]


def test_a_completed_job_without_failures_is_not_retried(tmp_path: Path, job_folder: Path, index: Path) -> None:
    leave(job_folder, index, "completed", row("a"), row("b"))
    with claim(folder(tmp_path, "second"), index, MARK, retry_failed=True) as job:
        assert job.record is not None
        assert kept(job) == ["a", "b"]


@pytest.mark.parametrize("retry", [False, True])
def test_the_same_folder_again(job_folder: Path, index: Path, retry: bool) -> None:
    leave(job_folder, index, "failed", row("a"), row("b", "failed"))
    with claim(job_folder, index, MARK, retry_failed=retry) as job:
        assert (job.record is None) == retry
        assert kept(job) == (["a"] if retry else ["a", "b"])


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_folder_that_is_gone_is_no_earlier_run(tmp_path: Path, job_folder: Path, index: Path, how: str) -> None:
    leave(job_folder, index, "completed" if how == "moved" else None, row("a"))
    shutil.move(job_folder, tmp_path / "elsewhere")
    if how == "deleted":
        shutil.rmtree(tmp_path / "elsewhere")
    if how == "replaced":  # by the interrupted run of another configuration
        job_folder.mkdir()
        with claim(job_folder, index, "b" * 64) as other, closing(other.samples()) as log:
            log.append(row("from another configuration"))
    with claim(folder(tmp_path, "second"), index, MARK) as job:
        assert job.record is None
        assert kept(job) == []


def test_two_configurations_never_share_a_folder(job_folder: Path, index: Path) -> None:
    leave(job_folder, index, None, row("a"))
    with (
        pytest.raises(UserError, match="first holds the samples of another configuration"),
        claim(job_folder, index, "b" * 64),
    ):
        pass
    assert lines(job_folder / "samples.jsonl") == [row("a")]


HOLD = """
import sys
from pathlib import Path
from suite.records import claim
with claim(Path("first"), Path("outputs/.index"), "a" * 64):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_job_that_runs_in_another_process_is_refused_until_that_ends(
    tmp_path: Path, job_folder: Path, index: Path
) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "claimed\n"
    second = folder(tmp_path, "second")
    with pytest.raises(UserError, match=r"is running already, in .*first; wait for it"), claim(second, index, MARK):
        pass
    with claim(folder(tmp_path, "third"), index, "b" * 64):  # another job is free to run
        pass
    other.kill()  # even so the lock is gone
    other.communicate()
    with claim(second, index, MARK) as job:
        assert job.record is None
