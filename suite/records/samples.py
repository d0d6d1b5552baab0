"""samples.jsonl: one finished sample a line, flushed as it comes, so that a killed job goes on at the next sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from suite.errors import UserError, WriteError
from suite.records.shape import check_row
from suite.strict_json import parse


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Rows of a samples.jsonl. A torn last line (the process died while writing it) is left out.

    Raises:
        UserError: any other line is broken; it names the file and the line.
    """
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        complete = number < len(lines)
        if not line:
            continue
        try:
            row = parse(line)
            check_row(row)
            if complete and row["id"] in seen:
                raise ValueError(f"the sample {row['id']!r} is there twice")
        except ValueError as error:
            if not complete:
                break
            raise UserError(
                f"{path}, line {number} is not a sample ({error}); delete that line to compute the sample again."
            ) from error
        if complete:
            seen.add(row["id"])
            rows.append(row)
    return rows


class SampleLog:
    """Append-only log of one job's samples; knows which ids are done."""

    def __init__(self, path: Path) -> None:
        """Open `path`, keeping the samples in it."""
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {row["id"]: row for row in read_samples(path)}
        # rewriting what is whole drops a torn tail, so the next append starts on a line of its own
        partial = path.with_suffix(".part")
        with writing(path):
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(encode(row) for row in self.rows.values())
            partial.replace(path)
            self._file = path.open("ab", buffering=0)  # a buffer would hold on to what a full disk refused

    def __contains__(self, sample_id: str) -> bool:
        return sample_id in self.rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows.values())

    def append(self, row: dict[str, Any]) -> None:
        """Keep one finished sample; it survives a kill from here on."""
        line = memoryview(encode(row).encode())
        with writing(self.path):
            while line:
                line = line[self._file.write(line) :]
        self.rows[row["id"]] = row

    def close(self) -> None:
        """Close the file; the rows stay readable."""
        self._file.close()


def encode(row: dict[str, Any]) -> str:
    """One JSON line. NaN and infinity are refused: a record holds null where there is no number."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write into a sentence that names the file and says that nothing is lost."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"Cannot write {path} ({error.strerror}); what was computed is kept: make room or choose another folder, "
            "then give the same command again."
        ) from error
