"""A cloud that serves: in a thread of the test behind a real socket, or as the process a user would start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgecloud.cloud import CloudServer, Limits
from edgecloud.remote import Line, RemoteCloud
from edgecloud.session import leases
from edgecloud.verify import VERIFIERS
from edgecloud.wire import VERSION, Card
from tests.loop import Way

ROOT = Path(__file__).resolve().parents[1]
NAMES = {rule: name for name, rule in VERIFIERS.items()}


def card(vocab: int, **changes: Any) -> Card:
    facts: dict[str, Any] = {
        "version": VERSION,
        "model": "toy",
        "revision": "r",
        "dtype": "float32",
        "device": "cpu",
        "engine": "lean",
        "hardware": "local",
        "parameters": 1,
        "vocab": vocab,
        "tokenizer": "t",
        "eos": (),
        "hears": False,
    }
    return Card(**facts | changes)


@contextmanager
def serving(
    model: Any,
    vocab: int,
    *,
    token: str | None = None,
    kind: type[CloudServer] = CloudServer,
    engine: str = "lean",
    **limits: Any,
) -> Iterator[tuple[CloudServer, str]]:
    """A server of this process, and its address."""
    bounds = Limits(**limits)
    lease = leases(model, vocab=vocab, engine=engine, most=bounds.max_sessions)
    server = kind(card(vocab), lease, bounds, token)
    port = server.start("127.0.0.1", 0)
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        server.stop(0)


def line_to(address: str, *, token: str | None = None, timeout_s: float = 60.0) -> Line:
    """A line that takes any cloud."""
    return Line(address, token=token, timeout_s=timeout_s, check=lambda _: None)


def remote(line: Line, way: Way, *, fall_back: bool = True) -> RemoteCloud:
    return RemoteCloud(line, NAMES[way.verifier], way.how, fall_back=fall_back)


@contextmanager
def process(*arguments: str, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m edgecloud.cloud --port 0 ARGUMENTS`, and its address; killed at the end if it still runs."""
    with log.open("w") as err:
        child = subprocess.Popen(
            [sys.executable, "-m", "edgecloud.cloud", "--port", "0", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
    try:
        assert child.stdout is not None
        said = child.stdout.readline()
        assert "serving" in said, log.read_text()
        yield child, said.split()[-1]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def until(condition: Any) -> None:
    """Wait for what another process or thread does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
