"""Every YAML of the `hardware` group composes into a HardwareConfig whose figures are sane and sourced."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from suite.config import store
from suite.errors import ConfigError
from suite.hardware.profile import HardwareConfig

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "hardware").glob("*.yaml"))
FIGURES = ("card_memory_gb", "memory_bandwidth_gb_s", "peak_tflops_16bit", "peak_tflops_32bit", "power_w")


def load(name: str, *overrides: str) -> HardwareConfig:
    store(HardwareConfig, name="hardware_schema")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(f"hardware/{name}", list(overrides)).hardware
    profile = OmegaConf.to_object(config)
    assert isinstance(profile, HardwareConfig)
    return profile


def test_the_profiles_that_users_type_are_all_there():
    assert set(NAMES) == {"local", "iphone15_cpu", "g100", "rtx3060x8", "h100"}


@pytest.mark.parametrize("name", NAMES)
def test_profile_is_named_as_typed_and_says_where_its_figures_come_from(name):
    profile = load(name)
    assert profile.name == name
    assert all(source.endswith(".") and len(source) > 30 for source in profile.sources)
    if name == "local":
        assert profile == HardwareConfig()
        return
    assert len(profile.sources) >= 3
    figures = [getattr(profile, field) for field in FIGURES if field != "card_memory_gb" or profile.cards]
    assert all(value is not None and value > 0 for value in figures)
    assert any("assumption" in source for source in profile.sources if "aunch overhead" in source)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "local"])
def test_figures_hang_together(name):
    profile = load(name)
    assert profile.peak_tflops_16bit > profile.peak_tflops_32bit
    # Every device here needs between 2 and 400 operations per byte to leave the memory-bound side of the roofline.
    assert 2 < 1e3 * profile.peak_tflops_16bit / profile.memory_bandwidth_gb_s < 400


def test_the_phone_is_limited_and_the_others_are_not():
    assert [name for name in NAMES if load(name).limited] == ["iphone15_cpu"]
    phone = load("iphone15_cpu")
    assert (phone.max_cpu_cores, phone.max_memory_gb, phone.dtype, phone.device) == (2, 16.0, "float32", "cpu")


def test_the_workstation_caps_each_card():
    rig = load("rtx3060x8")
    assert (rig.cards, rig.card_memory_gb, rig.card_memory_cap_gb) == (8, 12.0, 11.0)


def test_profiles_can_key_a_cache_of_loaded_models():
    assert len({load("h100"), load("h100"), load("g100")}) == 2


def test_a_figure_can_be_overridden_and_is_checked():
    assert load("iphone15_cpu", "hardware.max_memory_gb=6").max_memory_gb == 6.0
    with pytest.raises(ConfigError, match=r"hardware.device=gpu is not one of auto, cpu, cuda"):
        load("h100", "hardware.device=gpu")


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_cpu_cores", 0), ("max_memory_gb", 0.1), ("cards", -1), ("power_w", 0), ("peak_tflops_16bit", float("nan"))],
)
def test_an_impossible_figure_names_its_field(field, value):
    with pytest.raises(ConfigError, match=f"^hardware.{field}={value} must be"):
        HardwareConfig(**{field: value})


def test_a_cap_above_the_card_is_refused():
    with pytest.raises(ConfigError, match="card_memory_cap_gb=13.0 must be between 0 and 12"):
        dataclasses.replace(load("rtx3060x8"), card_memory_cap_gb=13.0)
