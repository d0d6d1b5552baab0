"""One job on disk: its fingerprint, its folder, and the record that closes it.

An index beside the outputs maps a fingerprint to the folder that holds its samples. A job that starts looks there: a
finished record is reused, samples of an interrupted one are taken over, and a job that is running elsewhere is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.errors import UserError
from suite.records.samples import SampleLog, encode, read_samples, writing
from suite.records.shape import check_record
from suite.strict_json import parse

SCHEMA = 1
OWNER = ".fingerprint"


def fingerprint(config: dict[str, Any], models: dict[str, str], data_sha256: str) -> str:
    """SHA-256 (hex) of everything that can change a number: configuration, model revisions, data."""
    content = {"schema": SCHEMA, "config": config, "models": models, "data": data_sha256}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Write `path` whole or not at all, also when the process is killed meanwhile.

    Raises:
        UserError: the file system refused; the old file is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        with suppress(OSError):  # the disk's, which is told already
            partial.unlink(missing_ok=True)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a job folder; None when the job never finished.

    Raises:
        UserError: the file is not a record of this schema.
    """
    path = folder / "record.json"
    if not path.exists():
        return None
    try:
        record = parse(path.read_bytes())
        schema = record["schema"]
        if schema == SCHEMA:
            check_record(record)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a record ({error}); delete it and give the same command again.") from error
    if schema != SCHEMA:
        raise UserError(f"{path} has record schema {schema}, this version reads {SCHEMA}; run the job again.")
    return dict(record)


@dataclass(slots=True)
class Job:
    """A claimed job: its folder, and what an earlier run of the same fingerprint left."""

    folder: Path
    fingerprint: str
    record: dict[str, Any] | None
    """The earlier record when it needs no more work, else None."""

    def samples(self) -> SampleLog:
        """The job's log, with the samples already done."""
        return SampleLog(self.folder / "samples.jsonl")

    def finish(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write record.json, and return the record as a reader will see it."""
        record = {"schema": SCHEMA, "fingerprint": self.fingerprint, **record}
        write_atomic(self.folder / "record.json", json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False))
        return record


def home(index: Path, mark: str) -> Path | None:
    """The folder that holds the samples of the job with fingerprint `mark`; None where it never ran or is deleted."""
    try:
        folder = Path((index / mark[:32]).read_text(encoding="utf-8"))
        return folder if (folder / OWNER).read_text(encoding="utf-8") == mark else None
    except (OSError, ValueError):  # there is none, or what it says leads nowhere
        return None


@contextmanager
def claim(folder: Path, index: Path, mark: str, *, retry_failed: bool = False) -> Iterator[Job]:
    """Make `folder` the home of the job with fingerprint `mark` while the block runs.

    Args:
        folder: the new job folder (exists).
        index: folder of the index, shared by all jobs started from one place.
        mark: fingerprint.
        retry_failed: run a job again that failed, or of which samples failed in part or whole; the others are kept.

    Raises:
        UserError: the same job is running in another process, or `folder` is another job's.
    """
    entry = index / mark[:32]
    with writing(index):
        index.mkdir(parents=True, exist_ok=True)
        lock = (index / f"{mark[:32]}.lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            where = entry.read_text(errors="replace") if entry.exists() else "another folder"
            raise UserError(f"This very job is running already, in {where}; wait for it or stop it first.") from None
        _own(folder, mark)
        earlier = home(index, mark)
        record = _take_over(earlier, folder, retry_failed) if earlier else None
        write_atomic(entry, str(folder.resolve()))
        yield Job(folder, mark, record)


def _own(folder: Path, mark: str) -> None:
    """Note whose folder it is: samples of two configurations must never mix where the user names the folder."""
    path = folder / OWNER
    with writing(path), path.open("a+", encoding="utf-8", errors="replace") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        found = file.read()
        if not mark.startswith(found):
            raise UserError(f"{folder} holds the samples of another configuration; give this job a folder of its own.")
        file.write(mark[len(found) :])  # all of it, or what a kill cut off


def _take_over(earlier: Path, folder: Path, retry_failed: bool) -> dict[str, Any] | None:
    """Copy an earlier run's samples, and its record, plots and pages if all is done."""
    record = read_record(earlier)
    if record is not None and record["fingerprint"] != (earlier / OWNER).read_text(encoding="utf-8"):
        raise UserError(f"{earlier / 'record.json'} is of another job; delete it and give the same command again.")
    rows = read_samples(earlier / "samples.jsonl")
    good = [row for row in rows if not row["error"]]
    retry = record is not None and retry_failed and (record["status"] == "failed" or len(good) < len(rows))
    elsewhere = earlier.resolve() != folder.resolve()
    if elsewhere or retry:
        write_atomic(folder / "samples.jsonl", "".join(map(encode, good if retry else rows)))
    if record is None or retry:
        return None
    if elsewhere:
        write_atomic(folder / "record.json", (earlier / "record.json").read_text(encoding="utf-8"))
        for found in (*earlier.glob("plots"), *earlier.glob("*.html")):
            if found.is_dir():
                shutil.copytree(found, folder / found.name, dirs_exist_ok=True)
            else:
                shutil.copyfile(found, folder / found.name)
    return record
