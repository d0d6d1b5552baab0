"""Every experiment file composes, type-checks with each point of its sweep, and tells what it costs and expects."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

import argo.schema
import controller.schema
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
    "argo_strategies": "B1, B6",
    "argo_graphs": "B2, B3, B4, B5",
    "argo_fixed_k": "B7",
    "argo_models": "B8, B9",
    "argo_cpu": "B10",
    "controller_latency": "C1",
    "controller_supervised": "C2",
    "controller_stage1": "C3",
    "controller_stage2": "C4",
    "controller_grpo": "C5",
    "controller_importance": "C6",
    "controller_profile": "C7",
    "controller_adaptive": "C8",
    "controller_all": "C6, C7, C1, C2, C3, C4, C5, C8",
}


@pytest.fixture(autouse=True)
def hydra_conf():
    suite.config.register()
    edgecloud.schema.register()
    argo.schema.register()
    controller.schema.register()
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
    assert header[1].startswith(f"# {ROWS.get(path.stem, '')}")
    assert not any("TODO" in line for line in header)


def test_all_rows_of_the_reference_study_are_there():
    assert {path.stem for path in FILES} >= ROWS.keys() | {"smoke"}
    rows = {row for told in ROWS.values() for row in told.split(", ")}
    counts = {"A": 7, "B": 10, "C": 8}
    assert rows == {f"{part}{n}" for part, count in counts.items() for n in range(1, count + 1)}


def test_three_way_runs_both_phone_methods_and_the_cloud_elsewhere():
    config, axes = composed("experiment=specdec_three_way")
    assert axes["task.method"] == "cloud,edge,specdec"
    assert config.hardware.name == "iphone15_cpu" and config.hardware.limited
    assert config.task.cloud_hardware.name == "g100"


def commands(page: str) -> list[str]:
    """What a documentation page tells to type after `launch.py`; a sweep's axes at their first values."""
    text = (CONF.parent / "docs" / page).read_text().replace("\\\n", " ")
    return re.findall(r"^    (?:nohup )?python launch.py (?:-m )?(.*?)(?: > .*)?$", text, re.MULTILINE)


@pytest.mark.parametrize("command", commands("argo.md") + commands("controller.md"))
def test_commands_of_the_documentation_are_legal(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    overrides = shlex.split(command)
    for override in overrides:
        option, _, value = override.partition("=")
        if option in ("dataset.path", "dataset.annotations", "dataset.images", "dataset.corpus", "task.estimator"):
            Path(value).mkdir(parents=True)
    composed(*(re.sub(r"(=[^,[]*),.*", r"\1", typed) for typed in overrides))


def test_graphs_run_the_reference_studys_grid():
    config, _ = composed("experiment=argo_graphs")
    task, mdp = config.task, config.task.mdp
    assert task.strategies == ["argo", "always_retrieve", "always_reason", "random", "fixed_k"]
    assert (task.mode, task.fixed_k, task.max_new_tokens, task.replicate) == ("small", 3, 50, 0)
    assert (mdp.delta_r, mdp.delta_p, mdp.p_s, mdp.c_p, mdp.mu, mdp.gamma) == (0.15, 0.08, 0.7, 0.1, 0.6, 1.0)
    assert (config.dataset.difficulty, config.dataset.split, config.seed) == ("hard", "test", 42)


def test_strategies_run_on_every_difficulty():
    config, _ = composed("experiment=argo_strategies")
    assert config.task.strategies == list(argo.schema.STRATEGIES)
    assert config.dataset.difficulty == "mixed"


def test_without_a_gpu_means_without():
    config, _ = composed("experiment=argo_cpu")
    assert config.hardware.device == "cpu"


def test_the_smoke_test_runs_every_study():
    _, axes = composed("experiment=smoke")
    assert axes["task"] == "specdec,argo,controller_smoke"
    small, _ = composed("experiment=smoke", "task=controller_smoke")
    assert len(small.task.tiers) * len(small.task.top_ks) * len(small.task.blocks) == 8
    assert (small.task.mode, small.task.step, small.dataset.max_samples) == ("small", "adaptive", 2)


def test_every_step_of_the_controller_has_its_experiment():
    for step, rows in controller.schema.STEPS.items():
        config, _ = composed(f"experiment=controller_{step}")
        assert (config.task.step, ROWS[f"controller_{step}"]) == (step, rows)


def test_a_step_is_chosen_by_its_name_alone():
    assert composed("task=controller")[0].task.step == "adaptive"
    assert composed("task=controller", "step=latency")[0].task.step == "latency"


def test_the_controller_has_the_reference_studys_knobs():
    task = composed("task=controller")[0].task
    assert (task.tiers, task.top_ks) == (["low", "medium", "high"], [4, 6, 8, 10, 12])
    assert task.blocks == [8, 10, 12, 14, 16]
    assert (task.mode, task.reward, task.latency_budget_ms) == ("full", "masked", None)
    for trained, lr, batch, epochs in (
        (task.latency, 1e-3, 64, 50),
        (task.supervised, 1e-4, 64, 50),
        (task.stage1, 1e-4, 64, 50),
        (task.stage2, 1e-4, 32, 100),
        (task.grpo, 1e-4, 64, 100),
    ):
        assert (trained.lr, trained.batch_size, trained.epochs) == (lr, batch, epochs)
    assert (task.stage2.group_size, task.stage2.alpha, task.stage2.beta) == (5, 1.0, 0.5)


def test_defaults_are_the_reference_studys():
    config, _ = composed()
    task = config.task
    assert (task.method, task.gate, task.verification) == ("specdec", "entropy", "rank")
    assert (task.entropy_threshold, task.k, config.seed) == (1.5, 3, 42)
    assert config.dataset.max_samples is None and not config.verbose
