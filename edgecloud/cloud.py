"""The cloud as a process of its own: `python -m edgecloud.cloud --port 50051 models=omni_tiny`.

It holds the cloud model and judges the drafts of edges that run elsewhere: `task.transport=grpc`, how-to in
docs/two_machines.md. One gRPC stream is one session (session.py): when the stream ends, for whatever reason, the
session's cache goes with it. What a client may do is bounded: how many sessions there are, how long one may be silent,
how large a message is.

What this does not know: encryption. Put a tunnel in front where the network is not yours.
"""

from __future__ import annotations

import argparse
import hmac
import ipaddress
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C library logs what we say in a sentence

import grpc
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

import edgecloud.schema
import suite.config
from edgecloud.lm import THINKER
from edgecloud.pair import end_tokens
from edgecloud.sampling import Sampling
from edgecloud.schema import SpecDecConfig
from edgecloud.session import Lease, Session, leases
from edgecloud.verify import LocalCloud, Verification, lossless
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
    pack,
    tokenizer_digest,
    unpack,
)
from suite.config import CONF, RunConfig
from suite.errors import UserError, check_range
from suite.models.loading import load, place

log = logging.getLogger("edgecloud.cloud")
SPARE = 8  # streams beyond the sessions, so that there is someone to say that the house is full
KEEPALIVE_MS = 20_000  # how often a silent client's machine is asked whether it still exists


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may take."""

    max_sessions: int = 8
    idle_s: float = 300.0
    """A session silent for longer is ended."""
    max_message_mb: float = 64.0
    """MB = 1e6 bytes; 64 drafted tokens with distributions over 120,000 ids."""

    def __post_init__(self) -> None:
        check_range("--max-sessions", self.max_sessions, 1, 1024)
        check_range("--idle-s", self.idle_s, 0.1)
        check_range("--max-message-mb", self.max_message_mb, 0.001, 2000)


@dataclass(slots=True, eq=False)
class Guest:
    """A session that is open."""

    context: Any
    session: Session | None = None
    busy: bool = False
    silent_since: float = field(default_factory=time.monotonic)


class CloudServer:
    """Serves one model.

    Attributes:
        guests: the sessions that are open now.
    """

    def __init__(self, card: Card, lease: Lease, limits: Limits, token: str | None) -> None:
        self.card, self.lease, self.limits, self.token = card, lease, limits, token
        self.guests: set[Guest] = set()
        self._lock, self._over = threading.Lock(), threading.Event()
        most, bytes_ = limits.max_sessions + SPARE, int(1e6 * limits.max_message_mb)
        self.server = grpc.server(
            ThreadPoolExecutor(most, thread_name_prefix="session"),
            maximum_concurrent_rpcs=most,
            options=(
                ("grpc.so_reuseport", 0),  # a second server on the port is an error, not half of the clients
                ("grpc.max_receive_message_length", bytes_),
                ("grpc.max_send_message_length", bytes_),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_MS // 2),
            ),
        )
        service, _, method = METHOD.strip("/").partition("/")
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))

    def start(self, host: str, port: int) -> int:
        """Listen; returns the port, chosen where `port` is 0.

        Raises:
            UserError: the address cannot be listened on.
        """
        try:
            bound = int(self.server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise UserError(f"Cannot listen on {host}:{port}; is it in use? Choose another --port, or 0 for any.")
        self.server.start()
        threading.Thread(target=self._end_the_silent, name="idle", daemon=True).start()
        return bound

    def stop(self, grace_s: float = 1.0) -> None:
        """Take no new sessions, let those that are computing answer, end all."""
        self._over.set()
        self.server.stop(grace_s).wait()

    def _serve(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """One stream, from its first message to its end. A refusal is one line of the log and the stream's status."""
        if self.token is not None and not self._knows_token(context):
            self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
        if (guest := self._admit(context)) is None:
            most = self.limits.max_sessions
            self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"all {most} sessions are taken; try later")
        log.info("%s began a session", context.peer())
        refusal: tuple[grpc.StatusCode, str] | None = None
        try:
            yield from self._talk(requests, guest)
        except BadMessage as error:
            refusal = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except grpc.RpcError:  # cancelled: the edge vanished or gave up, it was silent, or sent too large a message
            pass
        except Exception:
            log.exception("%s: the session broke", context.peer())
            refusal = grpc.StatusCode.INTERNAL, "the session broke; the cloud's log says why"
        finally:
            if guest.session is not None:
                guest.session.model.close()
            with self._lock:
                self.guests.discard(guest)
            log.info("%s ended its session", context.peer())
        if refusal is not None:
            self._refuse(context, *refusal)

    def _talk(self, requests: Iterator[bytes], guest: Guest) -> Iterator[bytes]:
        opened = unpack(next(requests, b""), Open)
        if opened.version != VERSION:
            raise BadMessage(
                f"the edge speaks version {opened.version} and the cloud {VERSION}; install the same release on both"
            )
        yield pack(self.card)
        session = guest.session = Session(self.lease())
        for data in requests:
            guest.busy = True
            answer = session.answer(unpack(data, Begin, Judge, Peek))
            if answer is not None:
                yield pack(answer)
            guest.busy, guest.silent_since = False, time.monotonic()

    def _admit(self, context: Any) -> Guest | None:
        """A place for a new session; None when there is none left."""
        with self._lock:
            if len(self.guests) >= self.limits.max_sessions:
                return None
            guest = Guest(context)
            self.guests.add(guest)
            return guest

    def _knows_token(self, context: Any) -> bool:
        given = dict(context.invocation_metadata()).get(TOKEN, "")
        assert self.token is not None
        return hmac.compare_digest(str(given).encode(), self.token.encode())

    @staticmethod
    def _refuse(context: Any, code: grpc.StatusCode, sentence: str) -> NoReturn:
        log.warning("%s refused: %s (%s)", context.peer(), sentence, code.name)
        context.abort(code, sentence)
        raise AssertionError  # abort raises

    def _end_the_silent(self) -> None:
        """Until the server stops, end sessions that have said nothing for too long."""
        while not self._over.wait(min(1.0, self.limits.idle_s / 4)):
            now = time.monotonic()
            with self._lock:
                silent = [g for g in self.guests if not g.busy and now - g.silent_since > self.limits.idle_s]
            for guest in silent:
                log.info("%s has been silent for %g s", guest.context.peer(), self.limits.idle_s)
                guest.context.cancel()


def open_server(config: RunConfig, limits: Limits, token: str | None) -> CloudServer:
    """The server for `models.cloud` of a configuration, loaded on `task.cloud_hardware`; not listening yet.

    Raises:
        UserError: the model cannot be had, or cannot verify.
    """
    task: SpecDecConfig = config.task
    if "cloud" not in config.models:
        raise UserError("models.cloud is not configured; choose a pair with models=.")
    spec, hardware = config.models["cloud"], task.cloud_hardware
    placement = place(spec, hardware=hardware, gpu_mode=config.gpu_mode).replicas[0]
    loaded = load(spec, placement=placement, hardware=hardware)
    text = loaded.model.config.get_text_config(decoder=True)
    vocab = min(len(loaded.tokenizer), text.vocab_size)
    lease = leases(loaded.model, vocab=vocab, engine=task.engine, most=limits.max_sessions)
    first = lease()
    LocalCloud(first, lossless, Verification(sampling=Sampling()))  # says so now if it cannot verify
    first.close()
    card = Card(
        version=VERSION,
        model=spec.id,
        revision=loaded.revision,
        dtype=loaded.dtype,
        device=loaded.device,
        engine=first.engine_name,
        hardware=hardware.name,
        parameters=loaded.parameters,
        vocab=vocab,
        tokenizer=tokenizer_digest(loaded.tokenizer),
        eos=tuple(sorted(end_tokens(loaded))),
        hears=loaded.model.config.model_type == THINKER,
    )
    return CloudServer(card, lease, limits, token)


def composed(overrides: Sequence[str]) -> RunConfig:
    """The configuration that `launch.py` would compose of the same overrides.

    Raises:
        UserError, HydraException, OmegaConfBaseException: it cannot be.
    """
    for module in (suite.config, edgecloud.schema):
        module.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return suite.config.typed(compose("config", overrides=list(overrides)))


def read_token(name: str) -> str | None:
    """The shared secret in environment variable `name`; None where it is unset or empty."""
    return os.environ.get(name) or None


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m edgecloud.cloud",
        description="Judge the drafts of edges that run elsewhere (launch.py task.transport=grpc).",
    )
    limits = Limits()
    parser.add_argument("--port", type=int, default=50051, help="0: choose one and print it")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but loopback needs a token")
    parser.add_argument("--token-env", default="EDGECLOUD_TOKEN", help="environment variable with the shared secret")
    parser.add_argument("--max-sessions", type=int, default=limits.max_sessions, help="edges served at once")
    parser.add_argument("--idle-s", type=float, default=limits.idle_s, help="end a session that is silent for longer")
    parser.add_argument("--max-message-mb", type=float, default=limits.max_message_mb, help="refuse larger messages")
    parser.add_argument("overrides", nargs="*", help="as for launch.py: models=omni_tiny task.cloud_hardware.dtype=...")
    return parser.parse_args(argv)


def serve(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        UserError, HydraException, OmegaConfBaseException: bad input.
    """
    check_range("--port", args.port, 0, 65535)
    limits = Limits(max_sessions=args.max_sessions, idle_s=args.idle_s, max_message_mb=args.max_message_mb)
    token = read_token(args.token_env)
    if token is None and not _is_loopback(args.host):
        raise UserError(
            f"--host {args.host} lets others in; set a secret in {args.token_env}, here and for each edge, "
            "or listen on 127.0.0.1."
        )
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    server = open_server(composed(args.overrides), limits, token)
    port, card = server.start(args.host, args.port), server.card
    print(f"serving {card.model} ({card.dtype}, {card.engine}, {card.device}) on {args.host}:{port}", flush=True)
    over.wait()
    server.stop()
    log.info("stopped")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 stopped by a signal, 2 it cannot serve."""
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(levelname)s] %(message)s")
    try:
        serve(_arguments(argv))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(suite.config.explain(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
