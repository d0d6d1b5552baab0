"""A virtual clock for decoded samples: when each token reaches the user, what it cost, and where the time went.

Pure functions of what the loop did (`decode.Round`), the network and the codec; nothing waits and nothing is measured
here. The same rounds can be priced on many networks, and the tokens never change. Without jitter and loss

    total = sum over rounds of    edge + loop                                     the edge drafts
                                + [called] (up / B_up + RTT / 2                   its draft travels
                                            + cloud + down / B_down + RTT / 2)    the cloud judges, the verdict travels

`overlap`: while a call is under way the edge drafts on: first its guess of the cloud's bonus token, then the next
block. When the guess is right, the part of that block drafted by the time the verdict comes costs no time any more;
when it is wrong, only energy. And the question travels from the beginning, while the edge reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecloud.codecs import Codec
from edgecloud.decode import Round
from edgecloud.network import Latency, NetworkConfig
from suite.hardware.profile import HardwareConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """One sample on the virtual clock; seconds. The five parts add up to `total_s`.

    Attributes:
        ttft_s: until the first token.
        total_s: until the last one.
        edge_s: the edge computes and nothing else goes on.
        uplink_s: bytes leave the edge.
        question_s: part of `uplink_s`: the prompt and its clip.
        cloud_s: the cloud computes.
        downlink_s: bytes arrive.
        waiting_s: for messages in flight: propagation, jitter, retransmissions.
        edge_busy_s: the edge computes, beside other things too.
        bytes_up: encoded bytes sent, without headers.
        bytes_down: encoded bytes received, without headers.
        wire_up_bytes: with headers.
        wire_down_bytes: with headers.
        tokens: emitted.
    """

    ttft_s: float
    total_s: float
    edge_s: float
    uplink_s: float
    question_s: float
    cloud_s: float
    downlink_s: float
    waiting_s: float
    edge_busy_s: float
    bytes_up: int
    bytes_down: int
    wire_up_bytes: int
    wire_down_bytes: int
    tokens: int

    @property
    def otps(self) -> float:
        """Tokens a second, first token included."""
        return self.tokens / self.total_s

    @property
    def network_s(self) -> float:
        """Everything that is not computing."""
        return self.uplink_s + self.downlink_s + self.waiting_s


class _Link:
    """The messages of one sample, in order."""

    def __init__(self, network: NetworkConfig, seed: int, sample: str) -> None:
        self.network, self.latency = network, Latency(network, seed, sample)
        self.messages, self.payload, self.wire = 0, {True: 0, False: 0}, {True: 0, False: 0}

    def send(self, payload: int, *, up: bool) -> tuple[float, float]:
        """(transmission, flight and recovery) in seconds."""
        flight_s = self.latency.seconds(self.messages, payload)
        self.messages += 1
        self.payload[up] += payload
        self.wire[up] += self.network.wire_bytes(payload)
        return self.network.transmission_s(payload, up=up), flight_s


def split(
    rounds: Sequence[Round],
    network: NetworkConfig,
    codec: Codec,
    *,
    question: int = 0,
    overlap: bool = False,
    seed: int = 0,
    sample: str = "",
) -> Timeline:
    """The edge drafts, the cloud judges behind the network.

    Args:
        rounds: of one sample; seconds of both models as measured or modelled.
        network: what lies between.
        codec: sizes of the messages.
        question: encoded bytes of the prompt and its clip, which go with the first call.
        overlap: see the module's docstring.
        seed: of jitter and loss, with `sample`.
        sample: id.
    """
    link = _Link(network, seed, sample)
    edge_s = uplink_s = question_s = cloud_s = downlink_s = waiting_s = edge_busy_s = ahead_s = 0.0
    ttft_s: float | None = None
    unseen = 0  # tokens committed on the edge's word since the last call
    pending = question
    for turn in rounds:
        draft_s = turn.edge_s + turn.loop_s
        # what the edge did ahead, beyond its guess, it need not do now
        now_s = max(0.0, min(draft_s, draft_s - ahead_s))
        edge_busy_s += now_s
        began_s = edge_s + uplink_s + cloud_s + downlink_s + waiting_s
        edge_s += now_s
        ahead_s = 0.0
        if turn.kept and ttft_s is None:
            ttft_s = began_s + min(turn.first_s, now_s)
        unseen += turn.kept
        if not turn.called:
            continue
        asked_s = 0.0
        if pending and overlap:
            asked_s, _ = link.send(pending, up=True)
            asked_s, pending = max(0.0, asked_s - began_s - now_s), 0
        block = codec.up_bytes(unseen, turn.sent)
        sent_s, up_s = link.send(pending + block, up=True)
        question_s += asked_s if overlap else sent_s - network.transmission_s(block, up=True)
        got_s, down_s = link.send(codec.down_bytes(refused=not turn.full), up=False)
        unseen = pending = 0
        uplink_s += asked_s + sent_s
        waiting_s += up_s + down_s
        cloud_s += turn.cloud_s
        downlink_s += got_s
        if ttft_s is None:
            ttft_s = edge_s + uplink_s + cloud_s + downlink_s + waiting_s
        if overlap and turn.drafted:
            # a guess and a whole block more, at the pace of this block
            step_s = _step_s(turn)
            flight_s = min(asked_s + sent_s + up_s + turn.cloud_s + down_s + got_s, step_s * (1 + turn.drafted))
            edge_busy_s += flight_s
            ahead_s = max(0.0, flight_s - step_s) if turn.guess_right else 0.0
    assert ttft_s is not None
    return Timeline(
        ttft_s=ttft_s,
        total_s=edge_s + uplink_s + cloud_s + downlink_s + waiting_s,
        edge_s=edge_s,
        uplink_s=uplink_s,
        question_s=question_s,
        cloud_s=cloud_s,
        downlink_s=downlink_s,
        waiting_s=waiting_s,
        edge_busy_s=edge_busy_s,
        bytes_up=link.payload[True],
        bytes_down=link.payload[False],
        wire_up_bytes=link.wire[True],
        wire_down_bytes=link.wire[False],
        tokens=sum(turn.committed for turn in rounds),
    )


def served(
    rounds: Sequence[Round],
    network: NetworkConfig,
    codec: Codec,
    *,
    question: int = 0,
    seed: int = 0,
    sample: str = "",
) -> Timeline:
    """The cloud alone or with the draft model beside it: one question up, each round's tokens streamed down.

    The arguments are those of `split`. Of co-located rounds both models' seconds are the cloud's. A message does not
    overtake the one before; what it waits for while the cloud computes on costs nothing.
    """
    link = _Link(network, seed, sample)
    uplink_s, up_s = link.send(question, up=True)
    ready_s = uplink_s + up_s
    free_s = arrived_s = 0.0
    ttft_s: float | None = None
    last_s = 0.0
    for turn in rounds:
        ready_s += turn.edge_s + turn.loop_s + turn.cloud_s
        if not turn.committed:
            continue
        last_s, flight_s = link.send(1 + codec.id_bytes * turn.committed, up=False)
        free_s = max(ready_s, free_s) + last_s
        arrived_s = max(arrived_s, free_s + flight_s)
        ttft_s = arrived_s if ttft_s is None else ttft_s
    assert ttft_s is not None
    cloud_s = sum(turn.edge_s + turn.loop_s + turn.cloud_s for turn in rounds)
    return Timeline(
        ttft_s=ttft_s,
        total_s=arrived_s,
        edge_s=0.0,
        uplink_s=uplink_s,
        question_s=uplink_s,
        cloud_s=cloud_s,
        downlink_s=last_s,
        waiting_s=arrived_s - uplink_s - cloud_s - last_s,
        edge_busy_s=0.0,
        bytes_up=link.payload[True],
        bytes_down=link.payload[False],
        wire_up_bytes=link.wire[True],
        wire_down_bytes=link.wire[False],
        tokens=sum(turn.committed for turn in rounds),
    )


def plain_rounds(times_s: Sequence[float], source: str, prompt: int) -> list[Round]:
    """One model alone, `edge` or `cloud`: a round a token, told by its time, after a prompt of so many positions."""
    edge = source == "edge"
    rounds, before_s = [], 0.0
    for i, at_s in enumerate(times_s):
        seconds, positions = at_s - before_s, prompt if i == 0 else 1
        before_s = at_s
        rounds.append(
            Round(
                drafted=int(edge),
                sent=0,
                called=not edge,
                committed=1,
                kept=int(edge),
                full=True,
                edge_positions=positions if edge else 0,
                cloud_positions=0 if edge else positions,
                edge_s=seconds if edge else 0.0,
                cloud_s=0.0 if edge else seconds,
                first_s=seconds if edge else 0.0,
            )
        )
    return rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What one sample costs, in parts that add up exactly; None where a profile lacks a figure.

    Attributes:
        edge_j: the edge's power while it computes; of a wait, the radio's share alone is counted.
        cloud_j: the cloud's power while it computes for this sample, which has it for itself.
        radio_j: energy of the edge's radio.
        compute_usd: the cloud's hours.
        traffic_usd: bytes on the wire.
    """

    edge_j: float | None
    cloud_j: float | None
    radio_j: float | None
    compute_usd: float | None
    traffic_usd: float | None

    @property
    def energy_j(self) -> float | None:
        """All energy."""
        return _sum(self.edge_j, self.cloud_j, self.radio_j)

    @property
    def cost_usd(self) -> float | None:
        """All money."""
        return _sum(self.compute_usd, self.traffic_usd)


def bill(line: Timeline, edge: HardwareConfig, cloud: HardwareConfig, network: NetworkConfig) -> Bill:
    """Price a timeline. What was not used costs 0; what was used and has no figure is None."""
    wire = line.wire_up_bytes + line.wire_down_bytes
    radio = (network.radio_up_j_per_mb, network.radio_down_j_per_mb, network.radio_w)
    return Bill(
        edge_j=_times(line.edge_busy_s, edge.power_w),
        cloud_j=_times(line.cloud_s, cloud.power_w),
        radio_j=_sum(
            _times(1e-6 * line.wire_up_bytes, radio[0]),
            _times(1e-6 * line.wire_down_bytes, radio[1]),
            _times(line.network_s if wire else 0.0, radio[2]),
        ),
        compute_usd=_times(line.cloud_s / 3600, cloud.price_usd_per_h),
        traffic_usd=_times(1e-9 * wire, network.price_usd_per_gb),
    )


def _step_s(turn: Round) -> float:
    """Seconds of one more drafted token, at the pace of this block after its first."""
    if turn.drafted > 1:
        return max(0.0, turn.edge_s - min(turn.first_s, turn.edge_s)) / (turn.drafted - 1)
    return turn.edge_s


def _times(amount: float, price: float | None) -> float | None:
    return 0.0 if amount == 0 else None if price is None else amount * price


def _sum(*parts: float | None) -> float | None:
    return None if None in parts else sum(part for part in parts if part is not None)
