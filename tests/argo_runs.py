"""ARGO through launch.py: a tiny chat model that reads bytes, questions with a corpus, a server, the stored answers."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.runs import read_record, read_rows, start

STORE = Path("outputs") / ".calls" / "calls.sqlite"
PLACES = ("alpha", "bravo", "carol", "delta", "ember", "fjord", "gamma", "haven")
START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A checkpoint, questions and passages; `arguments` makes launch.py use them."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "llm"

    @property
    def questions(self) -> Path:
        return self.folder / "questions.jsonl"

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus.jsonl"

    @property
    def data(self) -> list[str]:
        return ["dataset=questions", f"dataset.path={self.questions}", f"dataset.corpus={self.corpus}"]

    @property
    def arguments(self) -> list[str]:
        """With few steps to U = 1, and so few calls."""
        model = ["models.llm.source=path", f"models.llm.id={self.model}", "hardware.dtype=float32"]
        steps = ["task.mdp.delta_r=0.4", "task.mdp.delta_p=0.2", "task.max_new_tokens=6"]
        return [*self.data, *model, *steps, "task.retriever=bm25"]


def make_toy(folder: Path, *, questions: int = 4) -> Toy:
    """The whole of it."""
    toy = Toy(folder=folder)
    save_chat_model(toy.model)
    write_data(toy, questions)
    return toy


def save_chat_model(folder: Path, *, window: int = 8192) -> Path:
    """A random Llama with a chat template, as a hub would hold it; every byte is a token."""
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    from suite.models.quiet import quiet
    from tests import tiny

    letters = ["<|im_end|>", *sorted(ByteLevel.alphabet())]
    core = Tokenizer(BPE({letter: i for i, letter in enumerate(letters)}, []))
    core.pre_tokenizer, core.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=letters[0], chat_template=tiny.CHAT)
    with quiet():
        tiny.llama(3, vocab_size=len(letters), max_position_embeddings=window).save_pretrained(folder)
        words.save_pretrained(folder)
    return folder


def write_data(toy: Toy, questions: int, passages: int = 24) -> None:
    """Multiple-choice questions, and passages of which two support each."""
    rows = [
        {
            "id": f"q{i}",
            "question": f"Which unit of {PLACES[i % 8]} number {i} serves {PLACES[(3 * i + 1) % 8]}?",
            "options": [f"the {place} unit" for place in PLACES[i % 5 : i % 5 + 4]],
            "answer": i % 4,
            "difficulty": ("easy", "medium", "hard")[i % 3],
            "supporting": [f"p{i % passages}", f"p{(i + 5) % passages}"],
        }
        for i in range(questions)
    ]
    facts = [
        {
            "id": f"p{i}",
            "title": f"Unit {i}",
            "text": f"Number {i} of {PLACES[i % 8]} serves {PLACES[(3 * i + 1) % 8]}.",
        }
        for i in range(passages)
    ]
    write_jsonl(toy.questions, rows)
    write_jsonl(toy.corpus, facts)


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """A row a line; a text as it is, so that a line can be broken."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python launch.py ARGUMENTS` typed in `folder`, still running; killed at the end, as by kill -9."""
    running = start(folder, *arguments)
    try:
        yield running
    finally:
        running.kill()  # also one that was stopped
        running.wait()


def answers(store: Path) -> dict[str, str]:
    """Key -> body of the model's answers in a store, as another process sees them; empty where there is no store."""
    if not store.exists():
        return {}
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=60)) as db:
        try:
            return dict(db.execute("SELECT key, body FROM answers WHERE kind = 'reply'").fetchall())
        except sqlite3.OperationalError:  # the table is being made
            return {}


def made(folder: Path) -> int:
    """Model calls that a job made, by its record."""
    return int(read_record(folder)["facts"]["plan"]["made"])


def unlike_times(folder: Path) -> list[dict[str, Any]]:
    """Rows of a job without what a clock measured, and the scores, whose last digits vary from process to process."""
    return [_without_latency(row) for row in read_rows(folder)]


def cells(folder: Path) -> dict[tuple[str, float, str], dict[str, Any]]:
    """(strategy, cost ratio, question) -> metrics without times; of a job of `task=argo_graphs` or `task=argo`."""
    task = read_record(folder)["config"]["task"]
    found = {}
    for row in unlike_times(folder):
        here = row.get("cells") or [{**task, "metrics": row["metrics"]}]
        for one in here:
            found[one["strategy"], float(one["cost_ratio"]), row["id"]] = one["metrics"]
    return found


def _without_latency(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_latency(item) for key, item in value.items() if key not in ("latency_ms", "scores")}
    return [_without_latency(item) for item in value] if isinstance(value, list) else value


def free_port() -> int:
    """A port that no one listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def transformers_serve(model: Path, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`transformers serve MODEL --port PORT`, up and healthy; killed at the end if it still runs."""
    command = ["serve", str(model), "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with log.open("w") as out:
        child = subprocess.Popen(
            [sys.executable, "-c", "from transformers.cli.transformers import main; main()", *command],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_S
        while not _healthy(port):
            assert child.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield child
    finally:
        child.kill()
        child.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
