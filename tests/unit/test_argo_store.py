"""The store of calls: what is in it stays, whatever happens to whoever writes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from argo import store as module
from argo.store import CallStore
from suite.errors import UserError
from tests.served import ROOT, until

WRITER = """
import sys
from pathlib import Path
from argo.store import CallStore
store, name, batches = CallStore(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
for batch in range(batches):
    store.put((f"{batch}-{i}", "answer", {"by": name, "batch": batch}) for i in range(200))
    print(batch, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "calls.sqlite"


def writer(path: Path, name: str, batches: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(batches)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_gives_back_what_was_put(path: Path) -> None:
    body = {"text": "ein „Satz“\n", "scores": [-1.25, float("-inf")], "latency_ms": None}
    with CallStore(path) as store:
        store.put([("a", "answer", body), ("b", "search", {"hits": []})])
        assert store.get(["a", "b", "c"]) == {"a": body, "b": {"hits": []}}
    with CallStore(path) as again:
        assert again.get(["a"]) == {"a": body}


def test_the_first_answer_is_canonical(path: Path) -> None:
    with CallStore(path) as store, CallStore(path) as other:
        store.put([("a", "answer", {"text": "first"})])
        other.put([("a", "answer", {"text": "second"}), ("b", "answer", {"text": "new"})])
        assert store.get(["a", "b"]) == {"a": {"text": "first"}, "b": {"text": "new"}}


def test_a_hundred_thousand_keys(path: Path) -> None:
    with CallStore(path) as store:
        store.put((f"{i:040x}", "answer", {"n": i}) for i in range(100_000))
        found = store.get(f"{i:040x}" for i in range(100_000, -1, -1))
    assert len(found) == 100_000 and found[f"{99_999:040x}"] == {"n": 99_999}


def test_a_batch_is_kept_whole_or_not_at_all(path: Path) -> None:
    with CallStore(path) as store:
        with pytest.raises(TypeError):
            store.put([("a", "answer", {}), ("b", "answer", {"no": object()})])
        with pytest.raises(UserError, match="cannot be used"):
            store.put([("a", "answer", {}), (["no text"], "answer", {})])  # type: ignore[list-item]
        assert store.get(["a", "b"]) == {}
        store.put([("a", "answer", {})])  # and the store still works
        assert store.get(["a"]) == {"a": {}}


def test_a_killed_writer_loses_its_last_batch_at_most(path: Path) -> None:
    CallStore(path).close()
    child = writer(path, "killed", 100_000)
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(20)]
    os.kill(child.pid, signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().split()]
    child.wait()
    child.stdout.close()
    with CallStore(path) as store:
        sizes = [len(store.get(f"{batch}-{i}" for i in range(200))) for batch in range(len(said) + 1)]
    assert said == list(range(len(said)))
    assert sizes[:-1] == [200] * len(said) and sizes[-1] in (0, 200)


def test_two_processes_that_write_at_once(path: Path) -> None:
    children = [writer(path, name, 60) for name in ("one", "two")]
    assert [child.wait() for child in children] == [0, 0]
    for child in children:
        assert child.stdout is not None
        child.stdout.close()
    with CallStore(path) as store:
        found = store.get(f"{batch}-{i}" for batch in range(60) for i in range(200))
    assert len(found) == 60 * 200
    for batch in range(60):  # a batch is one transaction, so it is one writer's
        assert len({found[f"{batch}-{i}"]["by"] for i in range(200)}) == 1
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _hold(path: Path, locked: Any, release: Any) -> None:
    with CallStore(path).writing():
        locked.set()
        release.wait(60)


def test_a_second_launch_waits_and_says_for_whom(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMIND_S", 0.2)
    context = multiprocessing.get_context("spawn")
    locked, release, done = context.Event(), context.Event(), threading.Event()
    child = context.Process(target=_hold, args=(path, locked, release))
    child.start()
    assert locked.wait(60)

    def second() -> None:
        with CallStore(path) as store, store.writing():
            done.set()

    with caplog.at_level(logging.WARNING), CallStore(path) as reader:
        thread = threading.Thread(target=second)
        thread.start()
        until(lambda: len(caplog.messages) >= 2)
        assert not done.is_set() and reader.get(["a"]) == {}  # readers do not wait
        release.set()
        thread.join(60)
    child.join(60)
    assert done.is_set() and f"process id {child.pid}" in caplog.messages[0]
    assert not Path(f"{path}.pid").exists()


def test_a_killed_holder_holds_nothing(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    locked, never = context.Event(), context.Event()
    child = context.Process(target=_hold, args=(path, locked, never))
    child.start()
    assert locked.wait(60)
    child.kill()
    child.join()
    with CallStore(path) as store, store.writing():
        store.put([("a", "answer", {})])


def _text(path: Path) -> None:
    path.write_text("this is a text file, and has been one for long\n" * 100)


def _truncated(path: Path) -> None:
    with CallStore(path) as store:
        store.put((f"{i}", "answer", {"text": "x" * 500}) for i in range(2000))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _garbled(path: Path) -> None:
    with CallStore(path) as store:
        store.put((f"{i}", "answer", {"text": "x" * 500}) for i in range(2000))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def _foreign(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE letters (body TEXT)")
    db.commit()
    db.close()


@pytest.mark.parametrize("spoil", [_text, _truncated, _garbled, _foreign])
def test_a_file_that_is_no_store_is_refused_and_left_alone(path: Path, spoil: Any) -> None:
    path.parent.mkdir()
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"calls\.sqlite is no store of calls, or a damaged one .*task\.store"):
        CallStore(path).get(["1"])
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"task\.store=FILE"):
        CallStore(tmp_path / "file" / "calls.sqlite")
    with pytest.raises(UserError, match=r"task\.store=FILE"):
        CallStore(tmp_path)  # a folder where the file should be


@pytest.mark.parametrize("limit", ["max_page_count = 8", "query_only = 1"])
def test_a_full_or_read_only_disk_keeps_what_was_stored(path: Path, limit: str) -> None:
    with CallStore(path) as store:
        store.put([("a", "answer", {"text": "kept"})])
        store._db.execute(f"PRAGMA {limit}")  # SQLite's own error for it, without filling a disk
        with pytest.raises(UserError, match="what is in it is safe"):
            store.put((f"{i}", "answer", {"text": "x" * 500}) for i in range(2000))
        assert store.get(["a", "0"]) == {"a": {"text": "kept"}}
    with CallStore(path) as again:
        again.put([("b", "answer", {})])
        assert set(again.get(["a", "b"])) == {"a", "b"}
