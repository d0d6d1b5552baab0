"""What if: rounds priced on rooflines, arms that agree on tokens, crossings that are found where they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import edgecloud.schema
import suite.config
from edgecloud.clock import modelled
from edgecloud.decode import Round
from edgecloud.schema import WhatIfConfig
from edgecloud.timeline import plain_rounds
from edgecloud.what_if import ARMS, Decoded, World, arm_metrics, crossing, draw, means, world_of
from suite.config import CONF, typed
from suite.errors import ConfigError


def world(*overrides: str) -> World:
    suite.config.register()
    edgecloud.schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return world_of(typed(compose("config", ["experiment=specdec_what_if", *overrides])))


def rounds(right: bool = True) -> list[Round]:
    whole = {"drafted": 4, "sent": 4, "called": True, "kept": 0, "edge_s": 9.0, "cloud_s": 9.0, "guess_right": right}
    first = Round(committed=5, full=True, edge_positions=120 + 3, cloud_positions=120 + 4, **whole)
    return [first, *[Round(committed=5, full=True, edge_positions=5, cloud_positions=5, **whole)] * 5]


ONE = Decoded(id="a", rounds=rounds(), prompt=120, text=30, bins=128, frames=360)


def test_a_round_is_priced_by_what_it_computed():
    lines = world().on_edge
    edge, cloud = lines["edge"], lines["cloud"]
    first, second = modelled(rounds()[:2], lines, 120, 360)
    assert first.first_s == edge.tower_s(360) + edge.forward_s(120, 0)
    assert first.edge_s == pytest.approx(first.first_s + sum(edge.forward_s(1, 120 + i) for i in range(3)))
    assert first.cloud_s == cloud.tower_s(360) + cloud.forward_s(124, 0, kept=5)
    # two positions to catch up on, then three more tokens; the cloud catches up on one and judges four
    assert second.first_s == edge.forward_s(2, 123)
    assert second.cloud_s == cloud.forward_s(5, 124, kept=5)


def test_a_drafter_without_a_model_takes_no_time_and_a_gated_round_no_cloud():
    lines = world().on_edge
    sure = replace(rounds()[1], sent=0, called=False, kept=4, committed=4, cloud_positions=0)
    assert modelled([sure], lines, 120, 0)[0].cloud_s == 0.0
    assert modelled([sure], {"cloud": lines["cloud"]}, 120, 0)[0].edge_s == 0.0


def test_all_arms_emit_the_same_tokens_and_only_the_right_ones_use_the_network():
    asked = world()
    priced = asked.priced(ONE)
    lines = {arm: asked.timeline(arm, ONE, priced, asked.task.network) for arm in ARMS}
    assert {line.tokens for line in lines.values()} == {30}
    assert lines["edge"].bytes_up == lines["edge"].cloud_s == 0
    assert all(line.bytes_up > 2 * 160 * 360 for arm, line in lines.items() if arm != "edge")
    assert lines["colocated"].cloud_s > lines["split"].cloud_s  # it drafts there too
    assert lines["overlap"].total_s < lines["split"].total_s
    assert lines["cloud"].edge_busy_s == 0


def test_a_model_alone_is_its_prompt_then_a_token_at_a_time():
    line = world().on_edge["edge"]
    alone = modelled(plain_rounds([0.0] * 3, "edge", 120), {"edge": line}, 120, 360)
    expected = [line.tower_s(360) + line.forward_s(120, 0), line.forward_s(1, 120), line.forward_s(1, 121)]
    assert [turn.edge_s for turn in alone] == pytest.approx(expected)


def test_means_do_not_depend_on_luck_and_grow_with_the_round_trip():
    asked = world()
    priced = [(ONE, asked.priced(ONE))]
    near, far = (means("split", priced, asked, rtt_ms) for rtt_ms in (0.0, 100.0))
    assert far["ttft_ms"] == pytest.approx(near["ttft_ms"] + 100.0)
    assert 1e3 * 30 / far["otps"] == pytest.approx(1e3 * 30 / near["otps"] + 6 * 100.0)
    assert means("edge", priced, asked, 0.0) == means("edge", priced, asked, 100.0)


def test_metrics_are_modelled_and_a_missing_price_is_none():
    asked = world("network=5g")
    priced = asked.priced(ONE)
    found = arm_metrics("split", [asked.timeline("split", ONE, priced, asked.task.network)], asked)
    assert {one.origin for one in found.values()} == {"modelled"}
    assert found["split_cost_usd_per_1k"].value > 0
    assert found["split_energy_j_per_token"].value is None  # 5G has no radio figures


def test_crossing():
    assert crossing(lambda rtt: 37.0 - rtt)[0] == pytest.approx(37.0, abs=0.5)
    assert crossing(lambda rtt: -1.0)[0] == 0.0
    assert crossing(lambda rtt: 1.0)[0] is None


def test_the_plot_is_the_same_file_for_the_same_grid(tmp_path: Path):
    asked = world()
    grid = {rtt: {arm: {"ttft_ms": 10.0 + rtt, "otps": 5.0} for arm in ARMS} for rtt in (0.0, 50.0)}
    for name in ("a.svg", "b.svg"):
        draw(tmp_path / name, grid, asked.task)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_other_devices_and_networks_are_a_word():
    other = world("hardware=rtx3060x8", "hardware@task.cloud_hardware=g100", "network=wifi", "task.edge_weight_bits=16")
    assert (other.edge.name, other.task.cloud_hardware.name, other.task.network.name) == ("rtx3060x8", "g100", "wifi")
    assert other.on_edge["edge"].weights_gb == pytest.approx(8.1, abs=0.2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shapes": {"edge": {}}}, "task.shapes has no cloud; type shapes=NAME"),
        ({"method": "cloud"}, "leave task.method=specdec"),
        ({"edge_weight_bits": 0}, "task.edge_weight_bits=0 must be between 1 and 32"),
        ({"rtts_ms": [-5]}, "task.rtts_ms=-5 must be between 0"),
    ],
)
def test_bad_input(changes: dict[str, object], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        WhatIfConfig(**{"shapes": {"edge": {}, "cloud": {}}} | changes)
