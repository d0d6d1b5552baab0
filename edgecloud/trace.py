"""A trace: what an edge and a cloud said, greedy, after every output they have been asked about.

Greedy models are functions of the prefix. So a trace keeps, for each sample, a trie of output tokens; at a node stand
what the edge proposes there and what the cloud says of it. Any setting of any gate or verifier that walks inside the
trie decodes from it exactly what the models would have decoded (replay.py).

The file is JSON lines and only ever grows: the first line says what the trace was made of, every other line holds new
facts of one sample, by themselves readable. So a killed run leaves a readable file (its last line may be torn, and is
then dropped), and processes that share a trace lose nothing of each other's.

    {"edgecloud_trace": 1, "made_of": {...}, "about": {...}}
    {"id": "a1", "asked": "9f86...", "prompt": [1, 2], "facts": [...], "calls": {...}, "first": {...}, ...}

A fact is [shared, tokens, proposal, answer]: it holds after the first `shared` tokens of the fact before it and then
`tokens`; either of the other two is null where nobody asked.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from edgecloud.costs import Costs
from suite.errors import UserError
from suite.records.samples import writing
from suite.records.store import write_atomic

log = logging.getLogger(__name__)
VERSION = 1
MODELS = ("edge", "cloud")
Tokens = tuple[int, ...]
TEXT, TOKEN, NUMBER = (str,), (int,), (int, float)
PROPOSAL, ANSWER = (TOKEN, NUMBER, NUMBER, NUMBER), (TOKEN, TOKEN, NUMBER)
"""What JSON makes of the fields of `Proposal` and `Answer`."""


class Proposal(NamedTuple):
    """The edge's next token, and how sure it is of it; see `draft.Drafted`."""

    token: int
    entropy_nats: float
    confidence: float
    uncertainty: float


class Answer(NamedTuple):
    """The cloud's own next token, and what it thinks of the proposed one; see `verify.View`."""

    best: int
    rank: int
    surprise_nats: float


class Node:
    """After some output: what each model says next (None where it was not asked), and the outputs one token longer."""

    __slots__ = ("answer", "children", "proposal")

    def __init__(self) -> None:
        self.children: dict[int, Node] = {}
        self.proposal: Proposal | None = None
        self.answer: Answer | None = None

    def child(self, token: int) -> Node:
        """The node after `token`."""
        node = self.children.get(token)
        if node is None:
            node = self.children[token] = Node()
        return node


@dataclass(slots=True, kw_only=True)
class SampleTrace:
    """What is known of one sample.

    Attributes:
        id: of the sample.
        asked: digest of what was asked, clip included.
        prompt: its token ids.
        features_ms: file to log-mel features (measured); None for text.
        sound: mel bins and frames of its clip; None for text.
        root: the trie; its root is the empty output.
        first: model -> positions and seconds of its first call, which reads the prompt and hears the clip (measured).
        unsaved: output -> node, of facts that are not in the file yet.
        calls: model -> positions and seconds of later calls (measured) that are not in the file yet.
        known: whether the file has its prompt.
    """

    id: str
    asked: str
    prompt: list[int]
    features_ms: float | None = None
    sound: tuple[int, int] | None = None
    root: Node = field(default_factory=Node)
    first: dict[str, tuple[int, float]] = field(default_factory=dict)
    unsaved: dict[Tokens, Node] = field(default_factory=dict)
    calls: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: {name: [] for name in MODELS})
    known: bool = False


class Trace:
    """A trace file in memory.

    Attributes:
        path: the file; it need not exist yet.
        made_of: what the facts depend on: models, precision, data, what is asked.
        about: the models as a record describes them, the tokens that end an output; None until `begin`.
        samples: by id.
        costs: by model, from the calls measured while recording.
    """

    def __init__(self, path: Path, made_of: dict[str, Any]) -> None:
        """Read `path` if it exists.

        Raises:
            UserError: it is no trace, one of something else, or broken.
        """
        self.path, self.made_of = path, made_of
        self.about: dict[str, Any] | None = None
        self.samples: dict[str, SampleTrace] = {}
        self.costs = {name: Costs() for name in MODELS}
        self._offset, self._line, self._warned = 0, 0, False
        self.refresh()

    def refresh(self) -> None:
        """Read what was added to the file, by this or another process, since it was last read.

        Raises:
            UserError: as on opening.
        """
        try:
            size = self.path.stat().st_size
            if size == self._offset:
                return
            with self.path.open("rb") as file:
                file.seek(self._offset)
                *lines, torn = file.read().split(b"\n")
        except FileNotFoundError:
            if self._offset:
                raise UserError(f"The trace {self.path} was deleted while it was in use; start again.") from None
            return
        except OSError as error:
            raise UserError(f"The trace {self.path} cannot be read ({error.strerror}); give another file.") from error
        if size < self._offset:
            raise UserError(f"The trace {self.path} became shorter while it was in use; start again.")
        for line in lines:
            self._line += 1
            self._take(line)
            self._offset += len(line) + 1
        if torn and self.about is None:
            self._take_header(torn)  # no trace at all, or one that ends in its first line
            raise UserError(f"The trace {self.path} is cut off in its first line; delete it and record again.")
        if torn and not self._warned:
            self._warned = True
            log.warning("the trace %s is cut off in its last line, which is dropped", self.path)

    def grows(self) -> bool:
        """Whether the file is still the one that was read, with or without more lines."""
        return self.path.stat().st_size >= self._offset if self.path.exists() else self._offset == 0

    def begin(self, about: dict[str, Any]) -> None:
        """Write the first line, unless another process has just done it."""
        with self._alone():
            if self.about is None:
                header = {"edgecloud_trace": VERSION, "made_of": self.made_of, "about": about}
                write_atomic(self.path, json.dumps(header, ensure_ascii=False) + "\n")
                self.refresh()

    def add(self, sample: SampleTrace) -> SampleTrace:
        """A sample that is not in the trace yet; the file has it from the first `save` on."""
        self.samples[sample.id] = sample
        return sample

    def save(self, sample: SampleTrace) -> None:
        """Append what was learnt of a sample.

        Raises:
            UserError: the file cannot be written.
        """
        if not sample.unsaved:
            return
        row: dict[str, Any] = {"id": sample.id}
        if not sample.known:
            row |= {"asked": sample.asked, "prompt": sample.prompt}
            row |= {"features_ms": sample.features_ms, "sound": sample.sound}
        row["facts"] = list(_facts(sample.unsaved))
        row["calls"] = {name: [[n, round(s, 9)] for n, s in calls] for name, calls in sample.calls.items()}
        row["first"] = sample.first
        with self._alone():
            self._append(json.dumps(row))
        sample.unsaved = {}
        for calls in sample.calls.values():
            calls.clear()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the file while appending to it; what others appended is read first, a torn tail cut off."""
        from filelock import FileLock  # a slow import that a covered replay never needs

        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f"{self.path.name}.lock")):
                self.refresh()
                if self.path.exists() and self.path.stat().st_size > self._offset:
                    os.truncate(self.path, self._offset)
                yield

    def _append(self, line: str) -> None:
        with self.path.open("ab") as file:
            file.write(f"{line}\n".encode())
        self.refresh()

    def _take(self, line: bytes) -> None:
        if self.about is None:
            self._take_header(line)
            return
        try:
            self._take_row(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"The trace {self.path}, line {self._line} is broken ({error}); delete that line, and what it held is "
                "recorded again."
            ) from error

    def _take_header(self, line: bytes) -> None:
        try:
            header = json.loads(line)
            version, made_of, about = header["edgecloud_trace"], header["made_of"], header["about"]
            if not isinstance(made_of, dict) or not isinstance(about, dict):
                raise ValueError("no objects")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if b'{"edgecloud_trace": '.startswith(line[:20]):
                return  # torn; the caller says so
            raise UserError(f"{self.path} is not a trace; give another file in task.trace, or none.") from error
        if version != VERSION:
            raise UserError(f"The trace {self.path} has version {version}, this one reads {VERSION}; record it again.")
        differs = sorted(key for key in {*made_of, *self.made_of} if made_of.get(key) != self.made_of.get(key))
        if differs:
            told = ", ".join(
                f"{_short(key)} {_short(made_of.get(key))} and not {_short(self.made_of.get(key))}" for key in differs
            )
            raise UserError(f"The trace {self.path} is of other models or data ({told}); give another task.trace.")
        self.about = about

    def _take_row(self, row: dict[str, Any]) -> None:
        sample = self.samples.get(row["id"])
        if sample is None:
            name, asked = _typed([row["id"], row["asked"]], TEXT, TEXT)
            sample = self.add(
                SampleTrace(
                    id=name,
                    asked=asked,
                    prompt=_all(row["prompt"], TOKEN),
                    features_ms=None if row["features_ms"] is None else _typed([row["features_ms"]], NUMBER)[0],
                    sound=_typed(row["sound"], TOKEN, TOKEN) if row["sound"] else None,
                )
            )
        sample.known = True
        path: list[Node] = [sample.root]
        for shared, tokens, proposal, answer in row["facts"]:
            if shared not in range(len(path)):
                raise ValueError(f"a fact begins after {shared} tokens of one that has {len(path) - 1}")
            del path[shared + 1 :]
            for token in _all(tokens, TOKEN):
                path.append(path[-1].child(token))
            node = path[-1]
            node.proposal = node.proposal or (Proposal(*_typed(proposal, *PROPOSAL)) if proposal else None)
            node.answer = node.answer or (Answer(*_typed(answer, *ANSWER)) if answer else None)
        for name, call in row["first"].items():
            sample.first.setdefault(name, _call(call))
        for name, calls in row["calls"].items():
            for call in calls:
                self.costs[name].add(*_call(call))


def _all(values: list[Any], kinds: tuple[type, ...]) -> list[Any]:
    """The values, every one of these kinds."""
    return [*_typed(values, *[kinds] * len(values))]


def _call(values: list[Any]) -> tuple[int, float]:
    """Positions and seconds of a measured call."""
    positions, seconds = _typed(values, TOKEN, NUMBER)
    if positions < 0 or not 0 <= seconds < math.inf:
        raise ValueError(f"{_short(values)} is no call of so many positions and seconds")
    return positions, seconds


def _typed(values: list[Any], *kinds: tuple[type, ...]) -> tuple[Any, ...]:
    """The values, each of its kinds; raises `ValueError` where one is not. True is no number."""
    if not all(type(value) in kind for value, kind in zip(values, kinds, strict=True)):
        raise ValueError(f"{_short(values)} is of the wrong type")
    return tuple(values)


def _facts(nodes: dict[Tokens, Node]) -> Iterable[list[Any]]:
    """Facts in the order of their outputs, each told from where it leaves the one before."""
    before: Tokens = ()
    for output in sorted(nodes):
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, output, strict=False)))
        node = nodes[output]
        yield [shared, output[shared:], node.proposal, node.answer]
        before = output


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value)
    return f"{text[:12]}..." if len(text) > 40 else text


_warm: dict[tuple[Path, str], Trace] = {}


def open_trace(path: Path, made_of: dict[str, Any]) -> Trace:
    """The trace, from memory when an earlier job of this process had it open; see `Trace`."""
    key = (path.absolute(), json.dumps(made_of, sort_keys=True))
    trace = _warm.get(key)
    if trace is None or not trace.grows():
        trace = _warm[key] = Trace(path, made_of)
    else:
        trace.refresh()
    return trace


def read_trace(path: Path) -> Trace | None:
    """The trace in a file, whatever it was made of; None where there is no file.

    Raises:
        UserError: it is no trace, or broken.
    """
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        try:
            made_of = json.loads(file.readline())["made_of"]
        except (ValueError, KeyError, TypeError, RecursionError):
            made_of = {}  # reading it says what is wrong
    return open_trace(path, made_of)
