"""Sweeps: checked before they start, whole at their end, and each job on its own feet in between."""

from __future__ import annotations

import csv
import signal
from pathlib import Path

import pandas
import pytest
from omegaconf import OmegaConf, open_dict

import launch
from suite.config import CONF, plain
from suite.models.loading import loads
from tests.runs import Here, TinyPair, read_record, records, start, wait_for


def sweep_folder(folder: Path) -> Path:
    (found,) = folder.glob("multirun/*/*")
    return found


def test_two_by_two(here: Here, pair: TinyPair) -> None:
    before = loads()
    answer = here("-m", *pair.arguments, "task.k=2,4", "task.entropy_threshold=0.0,1.0")
    assert answer.code == 0, answer
    jobs = records(here.folder)
    tasks = [read_record(job)["config"]["task"] for job in jobs]
    assert [(task["k"], task["entropy_threshold"]) for task in tasks] == [(2, 0.0), (2, 1.0), (4, 0.0), (4, 1.0)]
    assert [job.name for job in jobs] == ["0", "1", "2", "3"]
    # one load of each model for all four
    assert loads() in (before, before + 2)
    times = [[facts["load_s"] for facts in read_record(job)["facts"]["models"].values()] for job in jobs]
    assert times == [times[0]] * 4

    folder = sweep_folder(here.folder)
    with (folder / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["job"], row["k"], row["entropy_threshold"], row["status"]) for row in table] == [
        ("0", "2", "0.0", "completed"),
        ("1", "2", "1.0", "completed"),
        ("2", "4", "0.0", "completed"),
        ("3", "4", "1.0", "completed"),
    ]
    assert pandas.read_parquet(folder / "table.parquet")["k"].tolist() == [2, 2, 4, 4]
    calls = [float(row["cloud_call_rate"]) for row in table]
    assert calls == [read_record(job)["metrics"]["cloud_call_rate"]["value"] for job in jobs]
    assert calls[1] < calls[0] and calls[3] < calls[2]  # a gate that opens less calls less
    assert f"report: {folder.relative_to(here.folder)}/report.html" in answer.out
    assert "Difference from job 0 on the same samples" in answer.out

    again = here("-m", *pair.arguments, "task.k=2,4", "task.entropy_threshold=0.0,1.0")
    assert again.code == 0 and "4 of 4 jobs were finished before" in again.out
    for old, new in zip(jobs, records(here.folder)[4:], strict=True):
        assert (new / "record.json").read_bytes() == (old / "record.json").read_bytes()


def test_a_finished_job_in_the_middle_keeps_its_place(here: Here, pair: TinyPair) -> None:
    short = [*pair.arguments, "dataset.max_samples=2"]
    single = here.job(*short, "task.k=3")
    answer = here("-m", *short, "task.k=2,3,4")
    assert answer.code == 0 and "1 of 3 jobs were finished before" in answer.out
    folder = sweep_folder(here.folder)
    assert [read_record(folder / name)["config"]["task"]["k"] for name in "012"] == [2, 3, 4]
    assert (folder / "1" / "record.json").read_bytes() == (single / "record.json").read_bytes()
    assert (folder / "1" / ".hydra" / "config.yaml").exists()


def test_jobs_scattered_among_finished_ones_and_folders_named_by_the_user(here: Here, pair: TinyPair) -> None:
    short = [*pair.arguments, "dataset.max_samples=2"]
    old = [here.job(*short, f"task.k={k}") for k in (3, 5)]
    named = ["hydra.sweep.dir=mine", "hydra.sweep.subdir=k${task.k}-${hydra.job.override_dirname}"]
    folders = "hydra.job.config.override_dirname.exclude_keys=[" + ",".join(a.split("=")[0].lstrip("~") for a in short)
    answer = here("-m", *short, "task.k=2,3,4,5,4", *named, folders + "]")
    assert answer.code == 0 and "2 of 5 jobs were finished before" in answer.out
    assert "1 of 5 jobs are the same as another; each runs once." in answer.out
    found = {path.parent.name: path.parent for path in (here.folder / "mine").glob("*/record.json")}
    assert sorted(found) == [f"k{k}-task.k={k}" for k in (2, 3, 4, 5)]
    assert [read_record(path)["config"]["task"]["k"] for _, path in sorted(found.items())] == [2, 3, 4, 5]
    for k, job in zip((3, 5), old, strict=True):
        assert (found[f"k{k}-task.k={k}"] / "record.json").read_bytes() == (job / "record.json").read_bytes()


@pytest.mark.parametrize(
    "overrides",
    [
        ["task.k=4", "task.entropy_threshold=1"],
        ["task.stop=[a,'b c']", "task.entropy_threshold=inf"],
        ["task={k:4,method:cloud}"],
        ["models.edge.id='0123'", "output_name=1e3"],
        ["hardware=iphone15_cpu", "hardware.max_cpu_cores=1", "hardware@task.cloud_hardware=g100"],
        ["hardware.max_cpu_cores=1", "experiment=specdec_phone", "~models.cloud"],
        ["dataset.path=null", "+models.spare.id=x", "seed=1", "seed=2"],
        ["task.k=4", "hydra.job.name=mine", "hydra.sweep.subdir='a b'", "seed=${task.k}"],
    ],
)
def test_the_sweepers_short_cut_composes_what_hydra_composes(overrides: list[str]) -> None:
    """Else a job would look for its record under another fingerprint, or its .hydra/hydra.yaml tell another story."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from hydra_plugins.checked_sweeper import _Composer

    for module in launch.SCHEMAS:
        module.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        folders = "hydra.job.config.override_dirname"
        chosen = ["+hydra.job.env_set.A=b", f"{folders}.kv_sep=-", f"{folders}.exclude_keys=[seed]"]
        config = loader.load_configuration("config", chosen, RunMode.MULTIRUN)
        theirs = loader.load_sweep_config(config, overrides)
        composer = _Composer(loader, config)
        composer.load_sweep_config(config, [*overrides, "task.k=2", "hydra.sweep.subdir='1'"])  # leaves no trace
        whole, ours = composer.load_sweep_config(config, overrides), composer(overrides)
    assert OmegaConf.to_container(whole) == OmegaConf.to_container(theirs)
    assert OmegaConf.to_yaml(whole) == OmegaConf.to_yaml(theirs)  # and in the same order
    with open_dict(theirs):
        del theirs["hydra"]
    assert plain(ours) == plain(theirs)


@pytest.mark.parametrize(
    ("axis", "job", "sentence"),
    [
        (["task.k=3,5,0"], "task.k=0", "task.k=0 must be between 1 and 64."),
        (["task.k=3,5,x"], "task.k=x", "task.k: Value 'x' of type 'str' could not be converted to Integer."),
        (["task.k=3,0", "hydra.sweeper.max_batch_size=1"], "task.k=0", "task.k=0 must be between 1 and 64."),
        (["hardware=local,phone"], "hardware=phone", "hardware=phone does not exist."),
    ],
)
def test_a_bad_value_at_the_end_of_an_axis_starts_nothing(
    here: Here, pair: TinyPair, axis: list[str], job: str, sentence: str
) -> None:
    answer = here("-m", *pair.arguments, *axis)
    assert answer.code == 2
    assert answer.err.startswith("Nothing was started: the job ")
    assert f"{job} cannot run. {sentence}" in answer.err
    assert answer.err.count("\n") == 1 and answer.out == ""
    assert list(here.folder.iterdir()) == []


def test_a_failing_job_does_not_stop_the_others(here: Here, pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    reason = "hardware.device=cuda but no GPU is visible"
    axis = ["hardware.device=cpu,cuda,auto", "dataset.max_samples=2"]
    answer = here("-m", *pair.arguments, *axis)
    assert answer.code == 1
    assert [read_record(job)["status"] for job in records(here.folder)] == ["completed", "failed", "completed"]
    folder = sweep_folder(here.folder)
    assert f"job 1 failed: {reason}" in " ".join(answer.out.split())
    assert answer.err == (f"1 of 3 jobs failed; the rest is kept. Their logs:\n  {folder}/1/launch.log\n")
    assert reason in (folder / "1" / "launch.log").read_text()
    with (folder / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["status"] for row in table] == ["completed", "failed", "completed"]
    assert table[1]["error"].startswith(reason)

    again = here("-m", *pair.arguments, *axis)  # recorded: neither run again nor forgotten
    assert again.code == 1 and "(as recorded; retry_failed=true runs it again)" in again.out


def test_a_job_that_fails_before_it_has_a_folder_is_told_as_well(here: Here, pair: TinyPair) -> None:
    models = f"models.edge.id={pair.folder / 'edge'},nowhere"
    answer = here("-m", *pair.arguments, models, "dataset.max_samples=2")
    assert answer.code == 1
    assert "models.*.id=nowhere is not a model folder" in answer.out
    assert "job 1 has no record" in answer.out
    assert answer.err.startswith("1 of 2 jobs failed; the rest is kept.")


def test_ctrl_c_keeps_the_finished_jobs_and_the_same_command_does_the_rest(
    here: Here, pair: TinyPair, tmp_path: Path
) -> None:
    arguments = ["-m", *pair.arguments, "task.max_new_tokens=300", "task.k=1,2,3,4,5,6"]
    running = start(tmp_path, *arguments)
    wait_for(lambda: len(records(tmp_path)) >= 1, running)
    running.send_signal(signal.SIGINT)
    assert running.wait() == 130
    assert (tmp_path / "err.txt").read_text().strip() == (
        "Interrupted. What was computed is kept; the same command goes on from there."
    )
    finished = {read_record(job)["fingerprint"]: job for job in records(tmp_path)}
    assert 1 <= len(finished) < 6
    assert (sweep_folder(tmp_path) / "table.csv").exists()

    answer = here(*arguments)
    assert answer.code == 0
    jobs = records(tmp_path)[len(finished) :]
    assert len(jobs) == 6
    assert f"{len(finished)} of 6 jobs were finished before; nothing is computed for them." in answer.out
    for job in jobs:
        if old := finished.get(read_record(job)["fingerprint"]):
            assert (job / "record.json").read_bytes() == (old / "record.json").read_bytes()
