"""A network on a virtual clock: how long a message takes, without anything ever waiting for it. No torch here.

A message of b bytes one way takes

    transmission   8 (b + h ceil(b / MTU)) / bandwidth                           bytes on the wire
    flight         RTT / 2, spread by the jitter                                 propagation, queues, radio scheduling
    recovery       RTO (2^n - 1), after n attempts in a row that lost a packet   RFC 6298

Flights are log-normal: positive, skewed to the right as measured ones are, of mean RTT / 2, and of a deviation that
makes `jitter_ms` the standard deviation of a round trip. An attempt fails with probability 1 - (1 - loss)^packets at
first, then with that of the packets still missing. What it does not know: congestion control (a transfer runs at full
bandwidth at once), acknowledgements, handshakes (the connection is open), and radios that fall asleep between messages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from suite.errors import ConfigError, check_range

MTU = 1400
"""Payload bytes of one packet: 1500 of Ethernet less headers and what mobile tunnels take."""
LEAST_RTO_MS = 200.0
"""Linux's lower bound of the retransmission time-out (TCP_RTO_MIN); RFC 6298 would have a second."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """One YAML of the `network` group: what lies between the edge and the cloud."""

    name: str = "none"
    """Profile name, as typed in `network=`; with `none` nothing is added to any time."""
    rtt_ms: float = 0.0
    """Mean round trip of a small packet."""
    jitter_ms: float = 0.0
    """Standard deviation of a round trip; 0: every one takes exactly `rtt_ms`."""
    up_mbit_s: float | None = None
    """Bandwidth from the edge (1e6 bit/s); null: not limited."""
    down_mbit_s: float | None = None
    """Bandwidth to the edge (1e6 bit/s); null: not limited."""
    loss: float = 0.0
    """Probability that a packet is lost; it costs a retransmission time-out."""
    header_bytes: int = 0
    """Of each packet; a message of the protocol is small enough to be one."""
    price_usd_per_gb: float | None = None
    """Price of traffic, both ways (GB = 1e9 bytes); null: not known."""
    radio_up_j_per_mb: float | None = None
    """Energy of the edge's radio for each MB (1e6 bytes) sent; null: not known, as are the next two."""
    radio_down_j_per_mb: float | None = None
    """Energy for each MB received."""
    radio_w: float | None = None
    """Power of the radio while a message is under way, on top of the former."""
    sources: list[str] = field(default_factory=list, hash=False)
    """Where the figures come from, one sentence each."""

    def __post_init__(self) -> None:
        for name in ("rtt_ms", "jitter_ms", "header_bytes"):
            check_range(f"task.network.{name}", getattr(self, name), 0.0, 1e6)
        check_range("task.network.loss", self.loss, 0.0, 0.5)
        for name in ("up_mbit_s", "down_mbit_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"task.network.{name}={value} must be above 0, or null where nothing limits it.")
        for name in ("price_usd_per_gb", "radio_up_j_per_mb", "radio_down_j_per_mb", "radio_w"):
            value = getattr(self, name)
            if value is not None:
                check_range(f"task.network.{name}", value, 0.0)
        if self.jitter_ms and not self.rtt_ms:
            raise ConfigError(
                f"task.network.jitter_ms={self.jitter_ms:g} spreads a round trip of 0 ms; set task.network.rtt_ms too."
            )

    def wire_bytes(self, payload: int) -> int:
        """Bytes on the wire for a message of so many, headers included."""
        return payload + self.header_bytes * packets(payload)

    def transmission_s(self, payload: int, *, up: bool) -> float:
        """Seconds that a message of `payload` bytes keeps the link busy."""
        mbit_s = self.up_mbit_s if up else self.down_mbit_s
        return 0.0 if mbit_s is None else 8e-6 * self.wire_bytes(payload) / mbit_s


class Latency:
    """What the messages of one sample wait for besides bandwidth: the i-th has its own luck, whenever it is sent.

    The luck does not depend on the profile, so a sweep over networks compares like with like.
    """

    def __init__(self, network: NetworkConfig, seed: int, sample: str) -> None:
        self.network, self.key = network, (seed, sample, "network")
        half_ms = network.rtt_ms / 2
        # two independent flights make a round trip
        deviation_ms = network.jitter_ms / math.sqrt(2)
        self._sigma = math.sqrt(math.log1p((deviation_ms / half_ms) ** 2)) if half_ms else 0.0
        self._half_s = 1e-3 * half_ms
        self._rto_s = 1e-3 * max(LEAST_RTO_MS, network.rtt_ms + 4 * network.jitter_ms)
        self._normal: list[float] = []
        self._uniform: list[float] = []

    def seconds(self, message: int, payload: int) -> float:
        """Flight and recovery of the message of this number (from 0) and so many bytes."""
        flight_s = self._half_s
        if self._sigma:
            self._draw(message)
            flight_s *= math.exp(self._sigma * self._normal[message] - self._sigma**2 / 2)
        if not self.network.loss:
            return flight_s
        self._draw(message)
        lost = attempts_lost(self.network.loss, packets(payload), self._uniform[message])
        return flight_s + self._rto_s * (2.0**lost - 1.0)

    def _draw(self, message: int) -> None:
        from suite.rng import generator  # brings numpy, which the schema must not

        if message >= len(self._normal):
            length = max(256, 2 * message)  # a longer draw begins with the shorter one
            self._normal = generator(*self.key, "flight").standard_normal(length).tolist()
            self._uniform = generator(*self.key, "loss").random(length).tolist()


def attempts_lost(loss: float, count: int, u: float) -> int:
    """Attempts that lost one of `count` packets before the last one arrived, by the inverse CDF at u in [0, 1).

    P(at most n) = (1 - loss^(n+1))^count: the largest of `count` geometric counts.
    """
    # log of 1 - u^(1/count), exact where u is near 1
    log_tail = math.log(-math.expm1(math.log(u) / count)) if u > 0 else 0.0
    return max(0, math.ceil(log_tail / math.log(loss)) - 1)


def packets(payload: int) -> int:
    """Packets that a message of so many bytes is cut into; an empty one is a packet too."""
    return max(1, -(-payload // MTU))
