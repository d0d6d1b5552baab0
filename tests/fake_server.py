"""A server that speaks the chat protocol, and misbehaves as it is told."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STALL_S = 30.0


def completion(text: str | None, finish: str = "stop") -> dict[str, Any]:
    """What a server that is well answers."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


class FakeServer(ThreadingHTTPServer):
    """Behaves by the first word of a prompt; echoes the rest of it.

    Attributes:
        seen: (prompt, authorization header) of each request for a completion, in order.
        most: requests under way at once, at most so far.
        key: the key it wants, if any.
        greeting: how it behaves to the first call of an engine, as a first word of a prompt would say.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.under_way = self.most = 0
        self.key: str | None = None
        self.greeting = "say"
        self.lock, self.woken = threading.Lock(), threading.Event()

    @property
    def url(self) -> str:
        """What goes into task.server_url."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that gave up are part of the game."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: FakeServer

    def do_POST(self) -> None:
        """A completion, or what the prompt asks for instead."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["messages"][0]["content"]
        if prompt == "Hello":
            self._behave(f"{self.server.greeting} hello", body, 0)
            return
        with self.server.lock:
            self.server.seen.append((prompt, self.headers["authorization"]))
            self.server.bodies.append(body)
            before = sum(1 for earlier, _ in self.server.seen if earlier == prompt) - 1
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        try:
            self._behave(prompt, body, before)
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def _behave(self, prompt: str, body: dict[str, Any], before: int) -> None:
        how, _, text = prompt.partition(" ")
        if self.server.key is not None and self.headers["authorization"] != f"Bearer {self.server.key}":
            self._send(401, {"error": {"message": "this key is not known"}})
        elif body["model"] != "toy":
            self._send(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        elif how == "busy" and before < 2:
            self._send(429, {"error": {"message": "too many requests"}}, {"retry-after-ms": "10"})
        elif how == "broken" or (how == "shaky" and before < 1):
            self._send(500, {"error": {"message": "out of cards"}}, {"retry-after-ms": "10"})
        elif how == "long":
            self._send(400, {"error": {"message": "maximum context length is 10 tokens"}})
        elif how == "page":
            self._send(200, b"<html>It works!</html>", {"content-type": "text/html"})
        elif how == "cut":
            self._send(200, b'{"choices": [{"message": {"con')
        elif how == "choiceless":
            self._send(200, {"choices": [], "usage": {}})
        elif how == "number":
            self._send(200, b"17")
        elif how == "silent":
            self._send(200, completion(None))
        elif how == "stalls" or (how == "slow" and before < 1):
            self.server.woken.wait(STALL_S)
        elif how == "drops" or (how == "trips" and before < 1):
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            time.sleep(0.02)
            self._send(200, completion(f" {text} \nand more", finish="length" if how == "endless" else "stop"))

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    """One that runs in a thread."""
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.woken.set()
        server.shutdown()
        server.server_close()
        thread.join()
