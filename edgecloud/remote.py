"""The edge's side of `task.transport=grpc`: a `Cloud` that is another process (cloud.py), and what if it is lost.

The edge loads no cloud model. What it must be sure of before the first sample (same tokenizer, the weights and the
precision that were asked for) the cloud's card tells, and again whenever the connection is made anew.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C library logs what we say in a sentence

import grpc

from edgecloud.counters import SOURCES
from edgecloud.draft import Drafted
from edgecloud.gates import Gate, oracle
from edgecloud.lm import Prompt
from edgecloud.sampling import Luck
from edgecloud.session import needs_q
from edgecloud.verify import Verdict, Verification
from edgecloud.wire import (
    METHOD,
    TOKEN,
    VERSION,
    BadMessage,
    Begin,
    Card,
    Judge,
    Open,
    Peek,
    Refused,
    Surprises,
    Verdicts,
    pack,
    packed_audio,
    packed_q,
    tokenizer_digest,
    unpack,
)
from suite.errors import UserError
from suite.models.revision import revision
from suite.models.spec import ModelConfig

OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # the address is the cloud's own
    ("grpc.use_local_subchannel_pool", 1),  # else a new connection inherits the waiting time of a failed one
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
Answer = TypeVar("Answer", Verdicts, Surprises)
Check = Callable[[Card], None]


class CloudLost(UserError):
    """The cloud cannot be reached, or has stopped answering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """When in a sample the cloud was lost, and how.

    Attributes:
        at_token: tokens emitted by then; all after them are the edge's own.
        sentence: what happened.
    """

    at_token: int
    sentence: str


class Line:
    """The connection to one cloud process.

    Attributes:
        card: what the cloud said it is, when last connected.
        loss: how the cloud was lost in the current sample; None: it was not.
        waited_s: time the current sample waited for the cloud beyond its model's own (measured): network, queue,
            packing.
    """

    card: Card

    def __init__(self, address: str, *, token: str | None, timeout_s: float, check: Check) -> None:
        """Connect.

        Args:
            address: `host:port`.
            token: the shared secret, where the cloud wants one.
            timeout_s: longest wait for any answer.
            check: raises a `UserError` for a card that will not do.

        Raises:
            UserError: there is no such cloud, or it is another one than was asked for.
        """
        self.address, self.token, self.timeout_s, self.check = address, token, timeout_s, check
        self.loss: Loss | None = None
        self.waited_s = 0.0
        self._up = False
        self._channel: Any = None
        self.dial()

    def dial(self) -> None:
        """Connect, unless connected.

        Raises:
            UserError: as the constructor.
        """
        if self._up:
            return
        self.close()
        self._channel = grpc.insecure_channel(self.address, OPTIONS)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[bytes | grpc.RpcError] = queue.SimpleQueue()
        call = self._channel.stream_stream(METHOD)(
            iter(self._outbox.get, None), metadata=((TOKEN, self.token),) if self.token else ()
        )
        self._up = True
        threading.Thread(target=self._read, args=(call, self._inbox), name="cloud", daemon=True).start()
        try:
            self.card = self.ask(Open(version=VERSION), Card)
            self.check(self.card)
        except UserError:
            self.close()
            raise

    def _read(self, call: Any, inbox: queue.SimpleQueue[bytes | grpc.RpcError]) -> None:
        """Take in what comes, until the stream ends: a thread of its own, so that an answer can be waited for."""
        try:
            for data in call:
                inbox.put(data)
            end = grpc.RpcError("it ended the session")
        except grpc.RpcError as error:
            end = error
        if inbox is self._inbox:
            self._up = False
        inbox.put(end)

    def say(self, message: Open | Begin | Judge | Peek) -> None:
        """Send without waiting."""
        self._outbox.put(pack(message))

    def ask(self, message: Open | Judge | Peek, *answers: type[Any]) -> Any:
        """Send, and wait for the answer, which must be one of `answers`.

        Raises:
            CloudLost: none came, or none that could be understood.
        """
        self.say(message)
        try:
            found = self._inbox.get(timeout=self.timeout_s)
            if isinstance(found, bytes):
                return unpack(found, *answers)
            reason = _reason(found)
        except queue.Empty:
            reason = f"no answer within task.cloud_timeout_s={self.timeout_s:g}"
        except BadMessage as error:
            reason = f"its answer makes no sense ({error})"
        self.close()
        raise CloudLost(f"The cloud at {self.address} is lost: {reason}.")

    def gate(self, rule: Gate) -> Gate:
        """`rule`, until the cloud is lost; from then on the edge is sure of everything. The oracle peeks for itself."""
        return rule if rule is oracle else lambda drafted, threshold: not self.loss and rule(drafted, threshold)

    def costs(self) -> dict[str, Any]:
        """What the connection did to the current sample, as `metrics.per_sample` wants it."""
        return {"waited_s": self.waited_s, "lost_at": self.loss and self.loss.at_token}

    def close(self) -> None:
        """End the session, if there is one."""
        self._up = False
        if self._channel is not None:
            self._outbox.put(None)
            self._channel.close()
            self._channel = None


def expecting(spec: ModelConfig, dtype: str, tokenizer: Any, *, vocab: int, hears: bool) -> Check:
    """What the edge holds a cloud's card against.

    Args:
        spec: `models.cloud` of the edge's configuration; files it names need not be here if it is from a hub.
        dtype: of `task.cloud_hardware`; both left at `auto`, any will do.
        tokenizer: the edge's.
        vocab: token ids that count for the edge.
        hears: whether the edge does.
    """
    digest, wanted = tokenizer_digest(tokenizer), revision(spec)
    precision = dtype if spec.dtype == "auto" else spec.dtype

    def check(card: Card) -> None:
        facts = (
            (card.tokenizer == digest, f"its tokenizer ({card.model}) is another one than the edge's"),
            (card.vocab == vocab, f"it has {card.vocab} tokens, the edge {vocab}"),
            (card.hears or not hears, f"its model ({card.model}) hears no audio, and the edge's does"),
            (
                "unresolved" in (wanted, card.revision) or card.revision == wanted,
                f"it serves other weights ({card.model}, revision {card.revision[:12]}) than models.cloud "
                f"({spec.id}, {wanted[:12]})",
            ),
            (precision == "auto" or precision in card.dtype, f"it computes in {card.dtype}, not in {precision}"),
        )
        for holds, complaint in facts:
            if not holds:
                raise UserError(f"The cloud will not do: {complaint}; start it with the edge's own models= and dtype.")

    return check


def _reason(error: grpc.RpcError) -> str:
    """What ended a stream, in words."""
    if not isinstance(error, grpc.Call):
        return str(error)
    details = (error.details() or "").rstrip(".")
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return f"nobody answers ({details.rsplit(': ', 1)[-1]}); see that `python -m edgecloud.cloud` runs there"
    return f"{details} ({error.code().name})"


class RemoteCloud:
    """A `verify.Cloud` at the other end of a line.

    Attributes:
        seconds: see `Cloud`; measured where the cloud is.
        computed: see `Cloud`.
    """

    def __init__(self, line: Line, verification: str, how: Verification, *, fall_back: bool) -> None:
        """Judge by `verification` (a key of `VERIFIERS`).

        Args:
            line: a connected one.
            verification: the rule, by name.
            how: its settings.
            fall_back: when the cloud is lost, let the edge finish the sample alone; else the sample fails. The gate
                of the loop must then be `line.gate(...)`, and its drafter one that always proposes something.
        """
        self.line, self.verification, self.how, self.fall_back = line, verification, how, fall_back
        self.sends_q = needs_q(verification, how.sampling)
        self.seconds, self.computed = 0.0, 0

    def reset(self, prompt: Prompt, luck: Luck) -> None:
        """See `Cloud`. Reconnects if need be.

        Raises:
            UserError: the cloud is lost, and `fall_back` is off.
        """
        self.seconds, self.computed, self.known = 0.0, 0, 0
        self.line.loss, self.line.waited_s = None, 0.0
        begin = Begin(
            seed=luck.seed,
            sample=luck.sample,
            verification=self.verification,
            temperature=self.how.sampling.temperature,
            top_p=self.how.sampling.top_p,
            rank_threshold=self.how.rank_threshold,
            surprise_threshold_nats=self.how.surprise_threshold_nats,
            cloud_weight=self.how.cloud_weight,
            tokens=tuple(prompt.tokens),
            **packed_audio(prompt),
        )
        try:
            self.line.dial()
            self.line.say(begin)
        except UserError as error:  # a cloud that came back as another model is as good as none
            self._lose(error, 0)

    def judge(self, emitted: list[int], drafted: list[Drafted], unsure: list[bool], room: int) -> list[Verdict]:
        """See `Cloud`. In the call in which the cloud is lost, the draft stands on the edge's word.

        Raises:
            UserError: the cloud refuses the sample; or it is lost, and `fall_back` is off.
        """
        message = Judge(
            known=self.known,
            new=tuple(emitted[self.known :]),
            drafted=tuple(d.token for d in drafted),
            unsure=tuple(unsure),
            room=room,
            q=tuple(packed_q(d.q) for d, u in zip(drafted, unsure, strict=True) if u and d.q is not None)
            if self.sends_q
            else (),
        )
        found = self._ask(message, Verdicts, len(emitted))
        if found is None:
            return [Verdict(d.token, "edge") for d in drafted]
        return [Verdict(token, SOURCES[source]) for token, source in zip(found.tokens, found.sources, strict=True)]

    def peek(self, emitted: list[int], drafted: list[Drafted]) -> list[float]:
        """See `Cloud`. A cloud that is lost minds nothing.

        Raises:
            UserError: as `judge`.
        """
        message = Peek(known=self.known, new=tuple(emitted[self.known :]), drafted=tuple(d.token for d in drafted))
        found = None if self.line.loss else self._ask(message, Surprises, len(emitted))
        return [0.0] * len(drafted) if found is None else list(found.nats)

    def _ask(self, message: Judge | Peek, answer: type[Answer], at_token: int) -> Answer | None:
        """The answer; None when the cloud was lost and the edge is to go on alone."""
        start, before_s = time.perf_counter(), self.seconds
        try:
            found: Answer | Refused = self.line.ask(message, answer, Refused)
        except CloudLost as error:
            self._lose(error, at_token)
            return None
        finally:
            waited_s = time.perf_counter() - start
            self.line.waited_s += waited_s
        if isinstance(found, Refused):
            raise UserError(found.sentence)
        self.known = at_token
        self.seconds, self.computed = found.seconds, found.computed
        self.line.waited_s -= self.seconds - before_s
        return found

    def _lose(self, error: UserError, at_token: int) -> None:
        if not self.fall_back:
            raise error
        self.line.loss = Loss(at_token=at_token, sentence=str(error))
