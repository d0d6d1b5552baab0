"""Placement of real model sizes on cards that this machine need not have."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from suite.config import register
from suite.errors import ConfigError, UserError
from suite.models.forecast import PUBLISHED_GB, QWEN_GB, forecast
from suite.models.plan import HEADROOM, MODES, CardMemory, GpuModeConfig, Placement, plan, shares
from suite.models.spec import ModelConfig

CONF = Path(__file__).resolve().parents[2] / "conf"
BFLOAT16_GB = {"1.5B": 3.09, "3B": 6.17, "7B": 15.23, "14B": 29.54, "32B": 65.53}  # Qwen2.5, from their safetensors
EIGHT_12GB = [CardMemory(index=card, free_gb=12.0) for card in range(8)]
ONE_80GB = [CardMemory(index=0, free_gb=80.0)]


def groups(model_gb: float, visible: list[CardMemory], **mode: Any) -> list[tuple[int, ...]]:
    """The cards of each replica."""
    replicas = plan(model_gb, visible, GpuModeConfig(**mode)).replicas
    return [tuple(card for card, _ in one.card_gb) or (int(one.device.removeprefix("cuda:")),) for one in replicas]


@pytest.mark.parametrize(("size", "cards"), [("1.5B", 1), ("3B", 1), ("7B", 2), ("14B", 3), ("32B", 7)])
def test_eight_12gb_cards(size: str, cards: int) -> None:
    """The smallest group, capped at 11 GB a card; auto repeats it over the cards that are left."""
    gb = BFLOAT16_GB[size]
    assert groups(gb, EIGHT_12GB, name="accelerate", max_card_gb=11.0) == [tuple(range(cards))]
    replicas = groups(gb, EIGHT_12GB, name="auto", max_card_gb=11.0)
    assert len(replicas) == 8 // cards
    assert all(len(group) == cards for group in replicas)
    assert sorted(card for group in replicas for card in group) == list(range(cards * (8 // cards)))


@pytest.mark.parametrize("size", BFLOAT16_GB)
@pytest.mark.parametrize("name", ["single", "accelerate", "auto"])
def test_one_80gb_card_holds_them_all(size: str, name: str) -> None:
    placed = plan(BFLOAT16_GB[size], ONE_80GB, GpuModeConfig(name=name))
    assert placed.replicas == (Placement(device="cuda:0"),)
    assert placed.notes == ()


def test_split_model_gets_a_limit_per_card() -> None:
    (split,) = plan(15.2, EIGHT_12GB[:2], GpuModeConfig(name="accelerate", max_card_gb=10.0)).replicas
    assert split == Placement(device="cuda:0", card_gb=((0, 10.0), (1, 10.0)))
    assert str(split) == "cuda:0+cuda:1"


def test_single_takes_the_roomiest_card() -> None:
    cards = [CardMemory(index=0, free_gb=3.0), CardMemory(index=1, free_gb=24.0)]
    assert groups(6.0, cards, name="single") == [(1,)]


def test_single_refuses_what_needs_two_cards() -> None:
    with pytest.raises(UserError, match=r"needs 16\.8 GB .* has 11\.0 GB free; use gpu_mode=auto"):
        plan(15.23, EIGHT_12GB, GpuModeConfig(name="single"))


def test_data_parallel_wants_two_replicas() -> None:
    assert groups(15.23, EIGHT_12GB, name="data_parallel") == [(0, 1), (2, 3), (4, 5), (6, 7)]
    with pytest.raises(UserError, match="one replica only"):
        plan(65.53, EIGHT_12GB, GpuModeConfig(name="data_parallel"))


def test_main_memory_only_when_allowed() -> None:
    with pytest.raises(UserError, match=r"gpu_mode\.cpu_gb"):
        plan(65.53, EIGHT_12GB[:2], GpuModeConfig(name="accelerate"))
    (placed,) = plan(65.53, EIGHT_12GB[:2], GpuModeConfig(name="accelerate", cpu_gb=64.0)).replicas
    assert placed.cpu_gb == 64.0


@pytest.mark.parametrize("name", MODES)
def test_without_a_gpu_everything_runs_on_the_cpu(name: str) -> None:
    placed = plan(65.0, [], GpuModeConfig(name=name))
    assert placed.replicas == (Placement(device="cpu"),)
    assert bool(placed.notes) == (name in ("data_parallel", "accelerate"))  # it asked for GPUs: say so


def test_only_the_chosen_cards() -> None:
    assert groups(3.0, EIGHT_12GB, name="auto", cards=[5, 2]) == [(2,), (5,)]
    with pytest.raises(ConfigError, match="card 9 is not visible"):
        plan(3.0, EIGHT_12GB, GpuModeConfig(cards=[9]))


@pytest.mark.parametrize("name", ["data_parallel", "auto"])
def test_copies_on_a_cpu_are_as_many_as_asked(name: str) -> None:
    mode = GpuModeConfig(name=name, replicas=3)
    assert plan(65.0, [], mode).replicas == (Placement(),) * 3
    assert plan(65.0, [], mode).notes == ()
    assert shares([65.0, 1.0], [], mode) == (GpuModeConfig(name="single"),) * 3
    assert shares([65.0], [], GpuModeConfig(name=name)) == (GpuModeConfig(name=name),)  # none asked: one process


def test_no_more_copies_than_asked() -> None:
    assert groups(3.0, EIGHT_12GB, name="auto", replicas=2) == [(0,), (1,)]


@pytest.mark.parametrize("size", BFLOAT16_GB)
@pytest.mark.parametrize("name", ["data_parallel", "auto"])
def test_processes_hold_a_copy_of_edge_and_cloud(size: str, name: str) -> None:
    """A draft of 1 GB beside every size: disjoint cards, the cloud placed after the edge still fits, 80 GB is one."""
    both = [1.0, BFLOAT16_GB[size]]
    if size == "32B" and name == "data_parallel":
        with pytest.raises(UserError, match="one replica only"):
            shares(both, EIGHT_12GB, GpuModeConfig(name=name))
        return
    modes = shares(both, EIGHT_12GB, GpuModeConfig(name=name))
    assert len(modes) == {"1.5B": 8, "3B": 8, "7B": 4, "14B": 2, "32B": 1}[size]
    if size != "32B":
        cards = [card for mode in modes for card in mode.cards]
        assert sorted(cards) == sorted(set(cards))
        for mode in modes:
            assert mode.name == ("single" if len(mode.cards) == 1 else "accelerate")
            edge = plan(both[0], EIGHT_12GB, mode).replicas[0]
            taken = {int(edge.device.removeprefix("cuda:")): 1.0 + both[0]}  # its context, and its weights
            left = [CardMemory(index=one.index, free_gb=12.0 - taken.get(one.index, 0.0)) for one in EIGHT_12GB]
            assert plan(both[1], left, mode).replicas
    if name == "auto":
        assert shares(both, ONE_80GB, GpuModeConfig(name=name)) == (GpuModeConfig(name=name),)


@pytest.mark.parametrize("name", ["single", "accelerate"])
def test_one_copy_is_one_process(name: str) -> None:
    mode = GpuModeConfig(name=name)
    assert shares([200.0], EIGHT_12GB, mode) == (mode,)  # whether it fits is told when it is placed
    with pytest.raises(ConfigError, match=r"one copy .* choose gpu_mode=data_parallel or auto"):
        GpuModeConfig(name=name, replicas=2)


def test_quantised_models_need_fewer_cards() -> None:
    plain, packed = (
        forecast(["models=qwen2_5_rag", "hardware=rtx3060x8", "gpu_mode=auto", *more])
        for more in ([], ["models.llm.quantization=4bit"])
    )
    assert "  llm: 4 copies: cuda:0+cuda:1 | cuda:2+cuda:3 | cuda:4+cuda:5 | cuda:6+cuda:7" in plain
    assert "  llm: 8 copies: " + " | ".join(f"cuda:{card}" for card in range(8)) in packed
    assert "models.llm: Qwen/Qwen2.5-7B-Instruct, 4.56 GB of weights" in packed


def test_forecast_shows_all_modes_and_what_they_refuse() -> None:
    lines = forecast(["models=qwen2_5", "hardware=rtx3060x8"])
    assert [line for line in lines if line.startswith("gpu_mode=")] == [f"gpu_mode={mode}" for mode in MODES]
    assert "  cloud: gpu_mode=single: the model needs 16.7 GB" in "\n".join(lines)
    assert lines[-1].startswith("  together: 4 processes with a copy of each: cuda:0+cuda:1 | cuda:2+cuda:3 |")


def test_forecast_of_the_default_reads_the_files() -> None:
    lines = forecast(["hardware.device=cpu"])
    assert any(line.startswith("models.cloud: omni_tiny/cloud, 0.02 GB") for line in lines)
    assert lines[-1] == "  together: one process"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("task.k=3", "takes models, hardware and gpu_mode"),
        ("models.edge.id=some/model", "size is not known before it is fetched"),
        ("gpu_mode=dual", "gpu_mode=dual does not exist"),
    ],
)
def test_forecast_refuses_what_it_cannot_know(typed: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        forecast(["models=qwen2_5", typed])


def test_every_model_that_a_group_fetches_has_a_published_size() -> None:
    ids = {
        spec["id"]
        for path in (CONF / "models").glob("*.yaml")
        for spec in yaml.safe_load(path.read_text(encoding="utf-8")).values()
        if isinstance(spec, dict) and spec["source"] in ("hub", "wheel")
    }
    assert ids <= PUBLISHED_GB.keys()
    for size, gb in BFLOAT16_GB.items():
        assert QWEN_GB[size] == pytest.approx(gb, rel=0.02)


@pytest.mark.parametrize(
    "bad", [{"name": "singel"}, {"cards": [0, 0]}, {"cards": [-1]}, {"cpu_gb": -1.0}, {"name": "auto", "replicas": 0}]
)
def test_bad_modes(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="gpu_mode"):
        GpuModeConfig(**bad)


@given(st.floats(0.1, 200), st.lists(st.floats(0.5, 90), min_size=1, max_size=9))
def test_groups_fit_are_disjoint_and_cannot_be_smaller(model_gb: float, free: list[float]) -> None:
    cards = [CardMemory(index=i, free_gb=gb) for i, gb in enumerate(free)]
    usable = [max(0.0, gb - 1.0) for gb in free]
    need = model_gb * HEADROOM
    if sum(usable) < need * 0.999:
        with pytest.raises(UserError):
            groups(model_gb, cards, name="auto")
    elif sum(usable) > need * 1.001:
        found = groups(model_gb, cards, name="auto")
        for group in found:
            assert sum(usable[card] for card in group) >= need * 0.999
        used = [card for group in found for card in group]
        assert len(used) == len(set(used))
        roomiest = sorted(usable, reverse=True)
        assert sum(roomiest[: len(found[0]) - 1]) < need  # one card fewer would not do
        assert all(len(a) <= len(b) for a, b in pairwise(found))


@pytest.mark.parametrize("name", MODES)
def test_each_yaml_is_its_mode(name: str) -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose(overrides=[f"+gpu_mode={name}", "gpu_mode.cards=[1]"]).gpu_mode)
    assert config == GpuModeConfig(name=name, cards=[1])


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "models").glob("*.yaml")))
def test_each_models_yaml_names_what_a_study_loads(name: str) -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        models = compose(overrides=[f"+models={name}"]).models
    roles = {"vlm"} if name == "molmoe_tiny" else {"llm", "embedder"} if name.endswith("_rag") else {"edge", "cloud"}
    assert roles <= set(models)
    for one in models.values():
        OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), one))  # raises on a bad field or value
