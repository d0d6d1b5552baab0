"""The same sweep through every launcher: identical records, no job run twice, failures collected, one table."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from suite.errors import UserError
from suite.sweep.worker import hold_card
from tests.runs import Here, TinyPair, read_record, settled, settled_rows, start, wait_for

LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": [
        "hydra/launcher=submitit",
        "hydra.launcher.cluster=local",
        "hydra.launcher.parameters.cpus_per_task=1",
    ],
    "ray": ["hydra/launcher=ray", "hydra.launcher.remote.num_cpus=1"],
}


@pytest.fixture
def launcher(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Overrides that choose it; whatever it started is gone afterwards."""
    name = request.param
    if find_spec(name) is None:
        pytest.skip(f"needs {name}: pip install {name}")
    yield LAUNCHERS[name]
    if name == "joblib":
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)
    if name == "ray":
        import ray

        ray.shutdown()


@pytest.mark.parametrize(
    "launcher",
    ["joblib", pytest.param("submitit", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)],
    indirect=True,
)
def test_side_by_side_as_one_after_the_other(
    here: Here, pair: TinyPair, launcher: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Six jobs: two that cannot run, two that are the same, one that was finished before."""
    models = f"models.edge.id={pair.folder / 'edge'},nowhere"
    sweep = ["-m", *pair.arguments, "dataset.max_samples=2", "task.k=2,3,2", models]
    alone = tmp_path_factory.mktemp("alone")
    home = here.folder

    here.folder = alone
    serial = here(*sweep, "hydra.sweep.dir=sweep")
    here.folder = home
    before = here.job(*pair.arguments, "dataset.max_samples=2", "task.k=3")
    answer = here(*sweep, "hydra.sweep.dir=sweep", *launcher)

    for folder, told in ((alone, serial), (home, answer)):
        assert told.code == 1, told
        logs = "".join(f"\n  {folder}/sweep/{number}/launch.log" for number in (3, 4, 5))
        assert told.err.endswith(f"3 of 6 jobs failed; the rest is kept. Their logs:{logs}\n")
        assert "1 of 6 jobs are the same as another; each runs once." in told.out
    assert "1 of 6 jobs were finished before" in answer.out
    assert "models.*.id=nowhere is not a model folder" in (here.folder / "sweep" / "3" / "launch.log").read_text()
    for number in (0, 1, 2):
        mine, theirs = home / "sweep" / str(number), alone / "sweep" / str(number)
        assert settled(read_record(mine)) == settled(read_record(theirs))
        assert settled_rows(mine) == settled_rows(theirs)
    assert (home / "sweep" / "1" / "record.json").read_bytes() == (before / "record.json").read_bytes()
    assert (home / "sweep" / "2" / "record.json").read_bytes() == (home / "sweep" / "0" / "record.json").read_bytes()
    assert read_record(home / "sweep" / "0")["provenance"]["command"][-len(launcher) :] == launcher
    with (home / "sweep" / "table.csv").open(newline="") as file:
        assert sorted(row["k"] for row in csv.DictReader(file)) == ["2", "3"]
    assert (home / "sweep" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("joblib") is None, reason="needs joblib: pip install joblib")
def test_a_worker_that_is_killed_takes_no_job_with_it(pair: TinyPair, tmp_path: Path) -> None:
    axis = ["task.k=1,2,3,4,5,6", "task.max_new_tokens=300", "hydra.sweep.dir=sweep"]
    running = start(tmp_path, "-m", *pair.arguments, *axis, *LAUNCHERS["joblib"])
    wait_for(lambda: any(tmp_path.glob("sweep/*/record.json")), running)
    children = psutil.Process(running.pid).children()
    next(child for child in children if any("LokyProcess" in part for part in child.cmdline())).kill()
    assert running.wait(300) == 0, (tmp_path / "err.txt").read_text()
    assert "A worker process was killed" in (tmp_path / "out.txt").read_text()
    found = [read_record(tmp_path / "sweep" / str(number)) for number in range(6)]
    assert [record["config"]["task"]["k"] for record in found] == [1, 2, 3, 4, 5, 6]
    assert {record["status"] for record in found} == {"completed"}


def test_no_two_workers_share_a_gpu(tmp_path: Path) -> None:
    """One process holds a card for good: the next gets the other, and a third none."""
    program = (
        "import sys; from pathlib import Path; from suite.sweep.worker import hold_card;"
        f"print(hold_card(('0', '3'), Path({str(tmp_path)!r})), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second,
    ):
        held = {child.stdout.readline().strip() for child in (first, second) if child.stdout is not None}
        assert held == {"0", "3"}
        with pytest.raises(UserError, match="All 2 GPUs are taken"):
            hold_card(("0", "3"), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("optuna") is None, reason="needs optuna: pip install optuna")
def test_optuna_finds_a_front_and_the_same_command_finds_its_jobs_again(here: Here, pair: TinyPair) -> None:
    objectives = "hydra.sweeper.objectives={cloud_call_rate: minimize, bleu: maximize}"
    options = ["hydra/sweeper=optuna", objectives, "hydra.sweeper.n_trials=12", "hydra.sweeper.max_batch_size=3"]
    axes = ["task.entropy_threshold=interval(0.0,3.5)", "task.k=range(1,5)", "dataset.max_samples=3"]
    answer = here("-m", *pair.arguments, *options, *axes, "hydra.sweep.dir=first")
    assert answer.code == 0, answer
    jobs = [here.folder / "first" / str(number) for number in range(12)]
    values = [read_record(job)["metrics"] for job in jobs]
    pairs = [(metrics["cloud_call_rate"]["value"], metrics["bleu"]["value"]) for metrics in values]
    lines = answer.out.split("Pareto front:\n")[1].splitlines()
    front = {int(line.split()[1].rstrip(":")) for line in lines if line.startswith("  job ")}
    beaten = {
        i
        for i, (rate, good) in enumerate(pairs)
        if any(r <= rate and g >= good and (r, g) != (rate, good) for r, g in pairs)
    }
    assert front == set(range(12)) - beaten
    chosen = [read_record(job)["config"]["task"] for job in jobs]
    assert {task["k"] for task in chosen} <= {1, 2, 3, 4} and len({task["k"] for task in chosen}) > 1
    assert all(0.0 <= task["entropy_threshold"] <= 3.5 for task in chosen)

    listed = here("-m", *pair.arguments, *options, *axes, "dry_run=true")
    assert listed.code == 0 and "12 trials between them are chosen as they go" in listed.out
    again = here("-m", *pair.arguments, *options, *axes, "hydra.sweep.dir=second")
    assert again.code == 0 and again.out.count("3 of 3 jobs were finished before") == 4
    for number in range(12):
        second = here.folder / "second" / str(number) / "record.json"
        assert second.read_bytes() == (jobs[number] / "record.json").read_bytes()


@pytest.mark.skipif(find_spec("optuna") is None, reason="needs optuna: pip install optuna")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "hydra.sweeper.objectives is not set; name metrics, such as {bleu: maximize}."),
        (
            ["hydra.sweeper.objectives={bleu: up}"],
            "hydra.sweeper.objectives.bleu=up is not one of maximize, minimize.",
        ),
        (
            ["hydra.sweeper.objectives={bleu: maximize}", "task.k=range(1,90)"],
            "Nothing was started: the job task.k=89 cannot run. task.k=89 must be between 1 and 64.",
        ),
        (
            ["hydra.sweeper.objectives={bleu: maximize}"],
            "Nothing is left to Optuna; give an axis, such as 'task.k=range(1,9)'.",
        ),
    ],
)
def test_what_optuna_cannot_be_asked(here: Here, arguments: list[str], sentence: str) -> None:
    answer = here("-m", "hydra/sweeper=optuna", *arguments)
    assert (answer.code, answer.err) == (2, sentence + "\n")


@pytest.mark.parametrize("name", sorted(LAUNCHERS))
def test_a_launcher_that_is_not_installed_says_how_to_get_it(
    here: Here, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    answer = here("-m", *LAUNCHERS[name], "task.k=2,3")
    assert answer.code == 2
    assert answer.err == f"This launcher needs {name}: pip install {name}.\n"
