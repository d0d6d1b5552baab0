"""dry_run=true: what a launch would do, exactly where a record says it, and not a file or a model touched."""

from __future__ import annotations

from pathlib import Path

from tests.runs import Here, TinyPair, launch, read_record


def rows(out: str) -> list[list[str]]:
    """Cells of the table."""
    return [[cell.strip() for cell in line.strip("│ \n").split("│")] for line in out.splitlines() if line[:1] == "│"]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_it_knows_what_is_done_what_repeats_and_what_is_new(here: Here, pair: TinyPair) -> None:
    short = [*pair.arguments, "dataset.max_samples=2"]
    done = here.job(*short, "task.k=2")
    before = files(here.folder)
    answer = here("-m", *short, "task.k=2,3,3", "dry_run=true")
    assert answer.code == 0, answer
    assert files(here.folder) == before
    told = rows(answer.out)
    assert [row[0] for row in told] == ["0", "1", "2"]
    assert [row[2] for row in told] == ["finished", "new", "same as 1"]
    wall_s = read_record(done)["wall_time_s"]
    assert told[0][3] == f"took {wall_s:.0f} s" and told[1][3] == f"~{wall_s:.0f} s" and told[2][3] == "none"
    assert f"3 jobs: 1 finished, 1 new, 1 duplicate. 1 to run, about {wall_s:.0f} s" in answer.out

    twice = here(*pair.arguments, "dataset.max_samples=4", "task.k=2", "dry_run=true")  # no sweep, double the samples
    assert twice.code == 0 and files(here.folder) == before
    assert rows(twice.out)[0][2:4] == ["new", f"~{2 * wall_s:.0f} s"]
    other = here("-m", *short, "task.k=2", "models.edge.dtype=float32", "dry_run=true")  # another model: nothing known
    assert rows(other.out)[0][2:4] == ["new", "unknown"]
    assert "1 to run, 1 of unknown length." in other.out


def test_failed_and_interrupted_jobs(here: Here, pair: TinyPair) -> None:
    short = [*pair.arguments, "dataset.max_samples=2"]
    job = here.job(*short, "task.k=2")
    record = job / "record.json"
    whole = record.read_text()
    record.write_text(whole.replace('"status": "completed"', '"status": "failed"', 1))
    assert rows(here(*short, "task.k=2", "dry_run=true").out)[0][2] == "failed"
    assert rows(here(*short, "task.k=2", "dry_run=true", "retry_failed=true").out)[0][2] == "failed, runs again"
    record.unlink()
    assert rows(here(*short, "task.k=2", "dry_run=true").out)[0][2] == "interrupted, 2 samples kept"


def test_a_mistake_is_told_and_not_listed(here: Here, pair: TinyPair) -> None:
    for more in ([], ["-m"]):
        answer = here(*more, *pair.arguments, "task.k=0", "dry_run=true")
        assert answer.code == 2 and answer.err.endswith("task.k=0 must be between 1 and 64.\n")


def test_it_loads_no_torch_and_leaves_nothing(tmp_path: Path) -> None:
    report = ("-X", "importtime")
    for more in ([], ["-m"]):
        done = launch(tmp_path, *more, "dry_run=true", "task.k=3,4" if more else "task.k=3", python=report)
        assert done.returncode == 0, done.stderr
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "suite.sweep.dry_run" in loaded
        assert not {"torch", "transformers", "wandb", "matplotlib", "joblib"} & loaded
        assert f"{2 if more else 1} to run" in done.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
