"""`wandb sync` of an offline sweep, against a server that takes down what it is told."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb

from tests.integration.test_wandb_offline import one_job


class FakeWandbServer(ThreadingHTTPServer):
    """Accepts every run and every line of it; refuses artifacts, without which a run is still whole."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, int] = {}
        self.exits: dict[str, int] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeWandbServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        if not self.path.endswith("/graphql"):
            self._stream(self._body())
            return
        asked = json.loads(self._body())
        operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        values = asked.get("variables") or {}
        self._reply(self._answer(operation[1] if operation else "", values))

    def _answer(self, operation: str, values: dict[str, Any]) -> Any:
        if operation == "RunResumeStatus":
            return {"data": {"model": None}}
        if operation == "UpsertBucket":
            told = self.server.runs.setdefault(values["name"], {})
            told.update({key: value for key, value in values.items() if value is not None})
            project = {"id": "p", "name": "suite", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "x", "name": values["name"], "displayName": "", "historyLineCount": 0, "project": project}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        return {"data": None, "errors": [{"message": "not here"}]}

    def _stream(self, body: bytes) -> None:
        if "/file_stream" in self.path:
            told, run = json.loads(body), self.path.split("/")[-2]
            history = told.get("files", {}).get("wandb-history.jsonl")
            if history:
                self.server.lines[run] = history["offset"] + len(history["content"])
            if told.get("complete"):
                self.server.exits[run] = told["exitcode"]
        self._reply({})


@pytest.fixture
def server() -> Iterator[FakeWandbServer]:
    with FakeWandbServer() as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening
        listening.shutdown()


@pytest.mark.slow
def test_an_offline_sweep_syncs_as_it_stands(server: FakeWandbServer, tmp_path: Path) -> None:
    one_job(tmp_path, k=3)
    one_job(tmp_path, k=5, samples=1)  # stopped
    one_job(tmp_path, k=5)  # and resumed
    wandb.teardown()
    address = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "a" * 40}
    command = [sys.executable, "-m", "wandb", "sync", "--yes"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **address}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert {run["displayName"] for run in server.runs.values()} == {"edge k=3", "edge k=5"}
    assert {run["groupName"] for run in server.runs.values()} == {"2026-01-01/10-00-00"}
    assert len(server.runs) == 2  # the resumed job is one run
    assert set(server.exits.values()) == {0}
    assert set(server.lines.values()) == {3}  # two samples and the end, whether stopped or not
