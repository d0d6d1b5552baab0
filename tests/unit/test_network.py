"""The network alone: exact where nothing is drawn, right on average where something is, and sentences for bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import edgecloud.schema
import suite.config
from edgecloud.network import MTU, Latency, NetworkConfig, attempts_lost, packets
from suite.config import CONF, typed
from suite.errors import ConfigError

NAMES = sorted(path.stem for path in (CONF / "network").glob("*.yaml"))
WIRE = NetworkConfig(name="wire", rtt_ms=40.0, up_mbit_s=8.0, down_mbit_s=80.0, header_bytes=50)


def profile(*overrides: str) -> NetworkConfig:
    suite.config.register()
    edgecloud.schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(compose("config", list(overrides))).task.network


def test_a_message_takes_bytes_over_bandwidth_and_half_a_round_trip():
    assert WIRE.wire_bytes(950) == 1000 and WIRE.transmission_s(950, up=True) == pytest.approx(1e-3, abs=1e-12)
    assert WIRE.transmission_s(950, up=False) == pytest.approx(1e-4, abs=1e-12)
    assert Latency(WIRE, 1, "a").seconds(7, 950) == 0.02


def test_every_packet_carries_headers():
    assert [packets(n) for n in (0, 1, MTU, MTU + 1)] == [1, 1, 1, 2]
    assert WIRE.wire_bytes(MTU + 1) == MTU + 101


def test_jitter_spreads_round_trips_by_as_much_as_it_says_and_keeps_their_mean():
    latency = Latency(replace(WIRE, jitter_ms=10.0), 3, "a")
    flights = [1e3 * latency.seconds(i, 10) for i in range(20_000)]
    trips = [a + b for a, b in zip(flights[::2], flights[1::2], strict=True)]
    mean = sum(trips) / len(trips)
    assert min(flights) > 0
    assert mean == pytest.approx(40.0, abs=0.4)
    assert math.sqrt(sum((t - mean) ** 2 for t in trips) / len(trips)) == pytest.approx(10.0, rel=0.05)


def test_loss_costs_a_time_out_as_often_as_it_says():
    latency = Latency(replace(WIRE, loss=0.1), 3, "a")
    times = [latency.seconds(i, 10) for i in range(20_000)]
    assert set(times) >= {0.02, 0.22}  # one time-out is 200 ms, a second one in a row twice that
    assert sum(t > 0.1 for t in times) / len(times) == pytest.approx(0.1, rel=0.1)
    assert sum(t > 0.5 for t in times) / len(times) == pytest.approx(0.01, rel=0.3)


@pytest.mark.parametrize("count", [1, 5, 200])
@pytest.mark.parametrize("u", [0.0, 0.3, 0.9, 0.999999])
def test_attempts_are_the_inverse_of_their_distribution(count: int, u: float):
    n = attempts_lost(0.05, count, u)
    assert (1 - 0.05 ** (n + 1)) ** count >= u - 1e-12
    assert n == 0 or (1 - 0.05**n) ** count <= u + 1e-12


def test_luck_is_a_messages_own():
    noisy = replace(WIRE, jitter_ms=10.0, loss=0.05)
    there, back = Latency(noisy, 3, "a"), Latency(noisy, 3, "a")
    forward = [there.seconds(i, 10) for i in range(600)]
    assert [back.seconds(i, 10) for i in reversed(range(600))] == forward[::-1]
    assert [Latency(noisy, 3, "b").seconds(i, 10) for i in range(9)] != forward[:9]
    assert [Latency(noisy, 4, "a").seconds(i, 10) for i in range(9)] != forward[:9]


@pytest.mark.parametrize("name", NAMES)
def test_profile_is_named_as_typed_and_says_where_its_figures_come_from(name: str):
    found = profile(f"network={name}")
    assert found.name == name and all(source.endswith(".") for source in found.sources)
    if name == "none":
        assert found == NetworkConfig()
        return
    told = " ".join(found.sources).lower()
    assert all(word in told for word in ("round trip", "bandwidth", "jitter", "loss", "headers", "price", "radio"))
    assert found.rtt_ms > 0 and found.jitter_ms < found.rtt_ms and found.up_mbit_s <= found.down_mbit_s


def test_the_networks_that_users_type_are_all_there_and_can_be_changed():
    assert set(NAMES) == {"none", "lan", "wifi", "4g", "5g"}
    assert profile("network=4g", "task.network.rtt_ms=20").rtt_ms == 20.0
    assert profile() == NetworkConfig()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rtt_ms": -1.0}, r"task.network.rtt_ms=-1.0 must be between 0"),
        ({"up_mbit_s": 0.0}, r"task.network.up_mbit_s=0.0 must be above 0, or null"),
        ({"down_mbit_s": math.inf}, r"task.network.down_mbit_s=inf must be above 0"),
        ({"loss": 1.0}, r"task.network.loss=1.0 must be between 0 and 0.5"),
        ({"jitter_ms": 3.0}, r"jitter_ms=3 spreads a round trip of 0 ms"),
        ({"radio_w": -1.0}, r"task.network.radio_w=-1.0 must be at least 0"),
    ],
)
def test_bad_networks_are_refused(changes: dict[str, float], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        NetworkConfig(**changes)


def test_nothing_of_it_brings_torch():
    assert "torch" not in Path("edgecloud/network.py").read_text().split('"""', 2)[2]
