"""The virtual clock: the closed form without luck, the same bytes with the same luck, parts that add up exactly."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud.codecs import Codec
from edgecloud.decode import Round
from edgecloud.network import NetworkConfig
from edgecloud.timeline import Bill, Timeline, bill, plain_rounds, served, split
from suite.hardware.profile import HardwareConfig

IDS = Codec(name="ids", vocab=859)
QUIET = NetworkConfig(name="quiet", rtt_ms=50.0, up_mbit_s=6.0, down_mbit_s=20.0, header_bytes=88)
NOISY = replace(QUIET, jitter_ms=9.0, loss=0.02)
NONE = NetworkConfig()


def turn(
    drafted: int = 3,
    sent: int = 3,
    accepted: int = 3,
    *,
    kept: int = 0,
    edge_s: float = 0.03,
    cloud_s: float = 0.02,
    guess_right: bool | None = None,
) -> Round:
    called = sent > 0
    return Round(
        drafted=drafted,
        sent=sent,
        called=called,
        committed=kept + (accepted + 1 if called else 0),
        kept=kept,
        full=accepted == sent,
        edge_positions=drafted + 1,
        cloud_positions=sent + 1,
        edge_s=edge_s,
        cloud_s=cloud_s if called else 0.0,
        first_s=edge_s / drafted,
        guess_right=guess_right,
    )


@st.composite
def turns(draw: st.DrawFn) -> Round:
    drafted = draw(st.integers(1, 8))
    kept = draw(st.integers(0, drafted))
    sent = drafted - kept
    return turn(
        drafted,
        sent,
        draw(st.integers(0, sent)),
        kept=kept,
        edge_s=draw(st.floats(0, 0.2)),
        cloud_s=draw(st.floats(0, 0.2)),
        guess_right=draw(st.booleans()),
    )


some = st.lists(turns(), min_size=1, max_size=30).filter(lambda rounds: any(t.committed for t in rounds))


def parts(line: Timeline) -> float:
    return line.edge_s + line.uplink_s + line.cloud_s + line.downlink_s + line.waiting_s


@settings(max_examples=200, deadline=None)
@given(rounds=some, question=st.integers(0, 200_000))
def test_without_luck_it_is_the_closed_form(rounds: list[Round], question: int):
    line = split(rounds, QUIET, IDS, question=question)
    expected, unseen, asked = 0.0, 0, question
    for t in rounds:
        unseen += t.kept
        expected += t.edge_s
        if t.called:
            up = asked + IDS.up_bytes(unseen, t.sent)
            up += 88 * max(1, -(-up // 1400))
            expected += 0.05 + t.cloud_s + 8e-6 * (up / 6.0 + (1 + IDS.id_bytes + 88) / 20.0)
            unseen = asked = 0
    assert line.total_s == pytest.approx(expected, abs=1e-9)
    assert parts(line) == pytest.approx(line.total_s, abs=1e-12)
    assert line.tokens == sum(t.committed for t in rounds)


@settings(deadline=None)
@given(rounds=some, question=st.integers(0, 200_000))
def test_the_question_is_what_the_uplink_takes_longer_for_it(rounds: list[Round], question: int):
    asked, unasked = split(rounds, QUIET, IDS, question=question), split(rounds, QUIET, IDS)
    assert asked.question_s == pytest.approx(asked.uplink_s - unasked.uplink_s, abs=1e-12)
    assert unasked.question_s == 0.0
    assert split(rounds, QUIET, IDS, question=question, overlap=True).question_s <= asked.question_s + 2e-4
    alone = served(rounds, QUIET, IDS, question=question)
    assert alone.question_s == alone.uplink_s


@settings(deadline=None)
@given(rounds=some, overlap=st.booleans())
def test_the_same_seed_gives_the_same_bytes(rounds: list[Round], overlap: bool):
    def once(seed: int) -> str:
        lines = split(rounds, NOISY, IDS, overlap=overlap, seed=seed, sample="a"), served(rounds, NOISY, IDS, seed=seed)
        return repr([asdict(line) for line in lines])

    assert once(5) == once(5)
    assert once(5) != once(6)  # `served` always sends


@settings(deadline=None)
@given(rounds=some, seed=st.integers(0, 99))
def test_no_network_leaves_the_compute_alone(rounds: list[Round], seed: int):
    line = split(rounds, NONE, IDS, question=10_000, seed=seed)
    assert line.total_s == pytest.approx(sum(t.edge_s + t.cloud_s for t in rounds), abs=1e-12)
    assert line.network_s == 0.0


@settings(max_examples=200, deadline=None)
@given(rounds=some, seed=st.integers(0, 9), question=st.integers(0, 100_000))
def test_overlap_never_costs_time_only_energy(rounds: list[Round], seed: int, question: int):
    plain = split(rounds, NOISY, IDS, question=question, seed=seed)
    ahead = split(rounds, replace(NOISY, jitter_ms=0, loss=0), IDS, question=question, overlap=True)
    quiet = split(rounds, QUIET, IDS, question=question)
    assert ahead.total_s <= quiet.total_s + 2e-4  # the question travels alone, so with one more header
    assert ahead.edge_busy_s >= ahead.edge_s - 1e-12
    assert parts(ahead) == pytest.approx(ahead.total_s, abs=1e-12)
    assert (ahead.tokens, ahead.bytes_down) == (plain.tokens, plain.bytes_down)


def test_a_right_guess_hides_what_was_drafted_in_flight_less_the_guess_itself():
    # in flight 50 ms and more; a step takes 10 ms: the guess and the whole next block of 3 are done before the answer
    right = [turn(guess_right=True), turn()]
    line = split(right, QUIET, IDS, overlap=True)
    assert line.edge_s == pytest.approx(0.03)
    assert line.edge_busy_s == pytest.approx(0.03 + 0.04 + 0.04)  # each call: 4 steps ahead, the last ones for nothing
    wrong = split([turn(guess_right=False), turn()], QUIET, IDS, overlap=True)
    assert wrong.edge_s == pytest.approx(0.06)
    assert wrong.edge_busy_s == pytest.approx(0.06 + 0.08)
    # on a network where the answer is there after 25 ms, the guess and one and a half tokens are
    near = replace(NONE, rtt_ms=5.0)
    assert split(right, near, IDS, overlap=True).edge_s == pytest.approx(0.03 + 0.03 - 0.015)


def test_first_token_comes_when_it_is_drafted_if_nobody_is_asked_and_with_the_answer_if_not():
    kept = split([turn(3, 0, 0, kept=3), turn()], QUIET, IDS)
    assert kept.ttft_s == pytest.approx(0.01)
    asked = split([turn(), turn()], QUIET, IDS, question=60_000)
    first = split([turn()], QUIET, IDS, question=60_000)
    assert asked.ttft_s == first.total_s > 0.05 + 8 * 60_000 / 6e6


def test_skipped_tokens_are_sent_with_the_next_call():
    late = split([turn(3, 0, 0, kept=3), turn()], QUIET, IDS)
    assert late.bytes_up == IDS.up_bytes(3, 3)
    assert split([turn(3, 0, 0, kept=3)], QUIET, IDS).bytes_up == 0


def test_a_stream_costs_one_round_trip_however_long_it_is():
    line = served(plain_rounds([0.1, 0.12, 0.14], "cloud", 10), QUIET, IDS, question=1000)
    up = 8e-6 * (1000 + 88) / 6.0
    down = 8e-6 * (1 + IDS.id_bytes + 88) / 20.0
    assert line.ttft_s == pytest.approx(up + 0.05 + 0.1 + down, abs=1e-12)
    assert line.total_s == pytest.approx(up + 0.05 + 0.14 + down, abs=1e-12)
    assert parts(line) == pytest.approx(line.total_s, abs=1e-12)
    assert line.cloud_s == pytest.approx(0.14) and line.edge_busy_s == 0.0


@settings(deadline=None)
@given(rounds=some, seed=st.integers(0, 9))
def test_streamed_messages_keep_their_order_and_the_parts_add_up(rounds: list[Round], seed: int):
    line = served(rounds, NOISY, IDS, question=5000, seed=seed)
    assert 0 < line.ttft_s <= line.total_s
    assert line.waiting_s >= 0 and parts(line) == pytest.approx(line.total_s, abs=1e-9)


def test_one_model_alone_is_told_by_its_times():
    rounds = plain_rounds([0.5, 0.6, 0.7], "edge", 40)
    line = split(rounds, QUIET, IDS)
    assert (line.ttft_s, line.total_s, line.network_s) == (0.5, pytest.approx(0.7), 0.0)
    assert [t.edge_positions for t in rounds] == [40, 1, 1]


PHONE = HardwareConfig(power_w=8.0)
H100 = HardwareConfig(power_w=700.0, price_usd_per_h=2.5)
PAID = replace(NOISY, price_usd_per_gb=2.0, radio_up_j_per_mb=3.0, radio_down_j_per_mb=0.5, radio_w=1.2)


@settings(deadline=None)
@given(rounds=some, overlap=st.booleans())
def test_a_bill_adds_up_exactly(rounds: list[Round], overlap: bool):
    cost = bill(split(rounds, PAID, IDS, overlap=overlap), PHONE, H100, PAID)
    assert cost.energy_j == cost.edge_j + cost.cloud_j + cost.radio_j
    assert cost.cost_usd == cost.compute_usd + cost.traffic_usd


def test_a_bill_by_hand():
    line = Timeline(
        ttft_s=1, total_s=10, edge_s=2, uplink_s=1, cloud_s=3.6, downlink_s=1, waiting_s=2.4, edge_busy_s=4,
        question_s=0.5, bytes_up=1, bytes_down=1, wire_up_bytes=1_000_000, wire_down_bytes=2_000_000, tokens=5,
    )  # fmt: skip
    cost = bill(line, PHONE, H100, PAID)
    assert (cost.edge_j, cost.cloud_j) == (32.0, pytest.approx(2520.0))
    assert cost.radio_j == pytest.approx(3.0 + 1.0 + 1.2 * 4.4)
    assert cost.compute_usd == pytest.approx(0.0025) and cost.traffic_usd == pytest.approx(0.006)


def test_what_was_used_and_has_no_figure_is_none_and_what_was_not_used_is_nothing():
    local, rounds = HardwareConfig(), [turn()]
    missing = bill(split(rounds, QUIET, IDS), local, local, QUIET)
    assert missing == Bill(edge_j=None, cloud_j=None, radio_j=None, compute_usd=None, traffic_usd=None)
    assert missing.energy_j is None and missing.cost_usd is None
    alone = bill(split(plain_rounds([0.5], "edge", 3), QUIET, IDS), PHONE, local, QUIET)
    assert (alone.energy_j, alone.cost_usd) == (4.0, 0.0)
