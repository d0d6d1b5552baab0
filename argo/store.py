"""Answers kept on disk by the hash of what was asked: no call is ever made twice, and the first answer is the answer.

One SQLite file in WAL mode. Readers never wait; a writer takes a lock beside the file for as long as it makes calls, so
that of two launches the second waits and then finds the answers of the first. A transaction is a batch: whatever kills
the process, at most the batch it was about to write is lost. What this does not know: what an answer means.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from suite.errors import UserError, WriteError

log = logging.getLogger(__name__)

APPLICATION = 0x4152474F
"""`ARGO` in the header of the file: no other SQLite file is taken for a store."""
BUSY_S = 60.0
REMIND_S = 60.0
KEYS_AT_ONCE = 10_000
DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


class CallStore:
    """The table `answers(key, kind, body)` of one file.

    Args:
        path: the file; it and its folder are made if missing.

    Raises:
        UserError: it is no store, it is damaged, or it cannot be opened or made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"The store {path} cannot be made ({error.strerror}); set task.store=FILE.") from error
        with self._told():
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            with self._told():
                self._prepare()
        except UserError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        """Make the table if the file is new, in one transaction; refuse what is another program's."""
        (mark,) = self._db.execute("PRAGMA application_id").fetchone()
        if mark != APPLICATION:
            self._db.execute("BEGIN IMMEDIATE")  # of two that make it at once the second finds the mark
            (mark,) = self._db.execute("PRAGMA application_id").fetchone()
            if mark != APPLICATION and self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise self._no_store("it is another program's")
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, kind TEXT, body TEXT) WITHOUT ROWID"
            )
            self._db.execute("COMMIT")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last batches, never the file

    def get(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The bodies that are there, by key, in no order.

        Raises:
            UserError: the file cannot be read.
        """
        wanted, found = list(keys), dict[str, dict[str, Any]]()
        with self._told():
            for first in range(0, len(wanted), KEYS_AT_ONCE):
                part = json.dumps(wanted[first : first + KEYS_AT_ONCE])
                rows = self._db.execute(
                    "SELECT key, body FROM answers WHERE key IN (SELECT value FROM json_each(?))", (part,)
                )
                found.update((key, json.loads(body)) for key, body in rows)
        return found

    def put(self, rows: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Keep (key, kind, body) of a batch, all or none; where a key has an answer already, that one stays.

        What counts is therefore what `get` says afterwards. Bodies are JSON data.

        Raises:
            UserError: the disk is full or read-only; what was stored before is still there.
        """
        compact = [(key, kind, json.dumps(body, ensure_ascii=False, separators=(",", ":"))) for key, kind, body in rows]
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", compact)
            self._db.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only launch that makes calls for this store; waits, and says for whom, while another one is.

        Raises:
            UserError: the lock's file cannot be made.
        """
        lock, holder = FileLock(f"{self.path}.lock"), Path(f"{self.path}.pid")
        try:
            wait_s = 0.0
            while True:
                try:
                    lock.acquire(timeout=wait_s)
                    break
                except Timeout:
                    pid = holder.read_text() if holder.exists() else "unknown"
                    log.warning("Waiting for the launch with process id %s, which is filling %s.", pid, self.path)
                    wait_s = REMIND_S
            holder.write_text(str(os.getpid()))
        except OSError as error:
            raise WriteError(
                f"The store {self.path} cannot be locked ({error.strerror}); set task.store=FILE."
            ) from error
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __enter__(self) -> CallStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors in a sentence; a transaction that was under way is undone."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED:
                raise self._no_store(str(error)) from error
            raise WriteError(
                f"The store {self.path} cannot be used ({error}); what is in it is safe: make room or give access, "
                "or set task.store=FILE."
            ) from error
        finally:
            if hasattr(self, "_db") and self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _no_store(self, reason: str) -> UserError:
        return UserError(
            f"{self.path} is no store of calls, or a damaged one ({reason}); set task.store to another file, or delete "
            "this one to start anew."
        )
