"""Every experiment file composes, type-checks with each point of its sweep, and tells what it costs and expects."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

import edgecloud.schema
import suite.config
from suite.config import CONF, RunConfig, typed

FILES = sorted((CONF / "experiment").glob("*.yaml"))
ROWS = {
    "specdec_edge": "A1",
    "specdec_cloud": "A2",
    "specdec": "A3",
    "specdec_edge_phone": "A4",
    "specdec_phone": "A5",
    "specdec_three_way": "A6",
    "specdec_tuning": "A7",
}


@pytest.fixture(autouse=True)
def hydra_conf():
    suite.config.register()
    edgecloud.schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> tuple[RunConfig, DictConfig]:
    whole = compose("config", list(overrides), return_hydra_config=True)
    sweep = whole.hydra.sweeper.params
    with open_dict(whole):
        del whole["hydra"]
    return typed(whole), sweep


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiment_is_legal_at_every_point_of_its_sweep(path: Path):
    _, axes = composed(f"experiment={path.stem}")
    choices = [[f"{key}={value}" for value in str(values).split(",")] for key, values in (axes or {}).items()]
    for point in itertools.product(*choices):
        composed(f"experiment={path.stem}", *point)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_header_gives_command_cost_and_expectation(path: Path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    command = "python launch.py -m " if "sweeper" in path.read_text() else "python launch.py "
    assert any(f"{command}experiment={path.stem}" in line for line in header)
    assert any("cost:" in line and "expect:" in line for line in header)
    assert ROWS.get(path.stem, "") in header[1]


def test_all_rows_of_the_reference_study_are_there():
    assert {path.stem for path in FILES} >= ROWS.keys() | {"smoke"}


def test_three_way_runs_both_phone_methods_and_the_cloud_elsewhere():
    config, axes = composed("experiment=specdec_three_way")
    assert axes["task.method"] == "cloud,edge,specdec"
    assert config.hardware.name == "iphone15_cpu" and config.hardware.limited
    assert config.task.cloud_hardware.name == "g100"


def test_defaults_are_the_reference_studys():
    config, _ = composed()
    task = config.task
    assert (task.method, task.gate, task.verification) == ("specdec", "entropy", "rank")
    assert (task.entropy_threshold, task.k, config.seed) == (1.5, 3, 42)
    assert config.dataset.max_samples is None and not config.verbose
