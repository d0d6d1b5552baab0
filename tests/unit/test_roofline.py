"""Rooflines: sizes of real models, the two regimes, and figures that are missing."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from suite.config import CONF
from suite.errors import ConfigError, UserError
from suite.hardware.profile import HardwareConfig
from suite.hardware.roofline import KERNELS_PER_LAYER, Roofline, Shape, calibrate, roofline

H100 = HardwareConfig(
    name="h100", dtype="bfloat16", memory_bandwidth_gb_s=3350.0, peak_tflops_16bit=989.0, peak_tflops_32bit=67.0
)
SMOL = {  # SmolLM2-135M's config.json
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def omni(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / "shapes" / "qwen2_5_omni.yaml").read_text())[name]


def test_sizes_are_those_of_the_published_models():
    assert Shape.of(SMOL).parameters == pytest.approx(134.5e6, rel=0.005)
    # the thinkers have 4.70 and 8.93 billion parameters, of which their eyes have 0.67
    assert Shape.of(omni("edge")).parameters == pytest.approx(4.70e9 - 0.67e9, rel=0.02)
    assert Shape.of(omni("cloud")).parameters == pytest.approx(8.93e9 - 0.67e9, rel=0.02)
    assert Shape.of(omni("cloud")).tower.parameters == pytest.approx(0.64e9, rel=0.02)


def test_a_whole_omni_is_read_like_its_thinker():
    assert Shape.of({"thinker_config": omni("edge"), "talker_config": {}}) == Shape.of(omni("edge"))


def test_a_shape_that_lacks_a_size_names_it():
    with pytest.raises(UserError, match="has no intermediate_size; give the fields"):
        Shape.of({key: value for key, value in SMOL.items() if key != "intermediate_size"})


def test_one_token_is_bound_by_memory_and_many_by_arithmetic():
    line = roofline(Shape.of(omni("cloud")), H100, "7B")
    read_s = 2 * (line.shape.body + line.shape.vocab * line.shape.width) / 3350e9
    assert line.forward_s(1, 0) == pytest.approx(read_s, rel=0.001)  # a few keys and values besides
    assert line.forward_s(5, 100) < 1.01 * line.forward_s(1, 100)  # a block costs what a token costs
    arithmetic_s = (2 * 2000 * line.shape.body + 4 * 2000 * 1000 * 28 * 128 * 28) / 989e12
    head_s = 2 * line.shape.vocab * line.shape.width / 3350e9
    assert line.forward_s(2000, 0) == pytest.approx(arithmetic_s + head_s, rel=0.001)


def test_context_launches_bits_and_calibration_count():
    shape = Shape.of(SMOL)
    plain = {"shape": shape, "bandwidth": 1e9, "peak": 1e12, "launch_s": 0.0, "weight_bits": 16.0, "cache_bits": 16.0}
    base = Roofline(**plain)
    keys = 2 * 30 * 3 * 64 * 2 / 1e9
    assert base.forward_s(1, 1000) - base.forward_s(1, 0) == pytest.approx(1000 * keys)
    launched = Roofline(**plain | {"launch_s": 1e-5})
    assert launched.forward_s(1, 0) - base.forward_s(1, 0) == pytest.approx(1e-5 * (30 * KERNELS_PER_LAYER + 3))
    packed = Roofline(**plain | {"weight_bits": 4.0})
    assert packed.forward_s(1, 0) == pytest.approx(base.forward_s(1, 0) / 4, rel=0.01)
    assert Roofline(**plain | {"factor": 2.0}).forward_s(3, 9) == 2 * base.forward_s(3, 9)


def test_a_clip_is_heard_once_and_longer_clips_cost_more():
    line = roofline(Shape.of(omni("edge")), H100, "3B")
    assert line.tower_s(0) == 0.0 < line.tower_s(300) <= line.tower_s(30_000)
    assert roofline(Shape.of(SMOL), H100, "smol").tower_s(300) == 0.0


def test_the_profile_brings_its_calibration_by_model():
    tuned = HardwareConfig(
        name="h100", dtype="bfloat16", memory_bandwidth_gb_s=3350.0, peak_tflops_16bit=989.0, calibration={"7B": 1.5}
    )
    assert roofline(Shape.of(SMOL), tuned, "7B").factor == 1.5
    assert roofline(Shape.of(SMOL), tuned, "3B").factor == 1.0
    with pytest.raises(ConfigError, match="hardware.calibration.7B=0 must be above 0"):
        HardwareConfig(calibration={"7B": 0})


def test_a_profile_without_a_sheet_is_refused():
    with pytest.raises(ConfigError, match="local has no memory_bandwidth_gb_s and no peak_tflops_32bit"):
        roofline(Shape.of(SMOL), HardwareConfig(), "smol")


def test_calibration_is_the_median_factor_with_its_error():
    found = calibrate([1.0, 2.0, 4.0], [2.0, 4.0, 10.0])
    assert (found.factor, found.error_percent, found.n) == (2.0, 0.0, 3)
    assert calibrate([1.0, 1.0], [2.0, 4.0]).error_percent == pytest.approx((50 + 25) / 2)
    assert calibrate([], []) is None
