"""launch.py from end to end on a tiny pair: what it writes, what it says, what it never does twice."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.runs import Here, TinyPair, launch, read_record, read_rows, records, settled_rows

EXACT = ["task.gate=always", "task.verification=lossless"]


def heavy(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Heavy packages in the output of `python -X importtime`."""
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported
    return imported & {"torch", "transformers", "wandb", "matplotlib", "pandas"}


def test_help_is_short_and_its_commands_are_real(tmp_path: Path, here: Here) -> None:
    done = launch(tmp_path, "--help", python=("-X", "importtime"))
    assert done.returncode == 0
    assert heavy(done) == set()
    assert len(done.stdout.splitlines()) < 80  # a page
    typed = re.findall(r"^ +python launch\.py(.*?)(?: {2,}.*)?$", done.stdout, re.MULTILINE)
    commands = [text.split() for text in typed]
    assert len(commands) >= 5
    for arguments in commands:
        shown = here("--cfg", "job", *[part for part in arguments if part != "-m" and "," not in part])
        assert (shown.code, shown.err) == (0, ""), arguments


@pytest.fixture(scope="module")
def first(pair: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One job in a process of its own: where it was typed, and what it said."""
    folder = tmp_path_factory.mktemp("first")
    return folder, launch(folder, *pair.arguments, *EXACT, "output_name=mine", "verbose=false")


def test_a_job_writes_record_samples_and_the_reference_view(
    first: tuple[Path, subprocess.CompletedProcess[str]], pair: TinyPair
) -> None:
    folder, done = first
    assert done.returncode == 0, done.stderr
    (job,) = records(folder)
    record, rows = read_record(job), read_rows(job)
    assert {path.name for path in job.iterdir()} == {
        ".fingerprint",
        ".hydra",
        "launch.log",
        "mine.json",
        "record.json",
        "samples.html",
        "samples.jsonl",
    }
    assert 'class="accepted"' in (job / "samples.html").read_text()
    assert (record["status"], record["error"], record["samples"]) == ("completed", None, {"completed": 6, "failed": 0})
    assert (job / ".fingerprint").read_text() == record["fingerprint"]
    assert record["config"]["task"]["max_new_tokens"] == 24 and "task.max_new_tokens=24" in record["overrides"]
    assert "task.max_new_tokens=24" in record["provenance"]["command"]
    assert set(record["models"]) == {"edge", "cloud"}
    assert record["facts"]["mode"] == "lossless"
    assert {facts["dtype"] for facts in record["facts"]["models"].values()} == {"float32"}
    assert 0 < record["metrics"]["acceptance_rate"]["value"] < 1  # related models: neither twins nor strangers
    assert record["metrics"]["bleu"]["n"] == 6
    for name, metric in record["metrics"].items():
        assert set(metric) == {"value", "unit", "n", "ci95", "origin", "note"}, name
    assert [row["id"] for row in rows] == [f"p{i}" for i in range(6)]
    assert all(len(row["tokens"]) == len(row["sources"]) == 24 for row in rows)
    view = json.loads((job / "mine.json").read_text())
    assert set(view) == {"experiment_config", "metrics", "detailed_results"}
    assert [row["text"] for row in view["detailed_results"]] == [row["text"] for row in rows]
    assert f"({record['fingerprint'][:8]})" in done.stdout  # what `python -m suite diff` takes
    assert str(pair.folder) in record["config"]["models"]["edge"]["id"]


def test_the_same_command_again_computes_nothing(
    first: tuple[Path, subprocess.CompletedProcess[str]], pair: TinyPair
) -> None:
    folder, before = first
    (job,) = records(folder)
    again = launch(folder, *pair.arguments, *EXACT, "output_name=other", "verbose=true", python=("-X", "importtime"))
    assert again.returncode == 0, again.stderr
    assert heavy(again) == set()
    old, new = records(folder)
    assert old == job
    for name in ("record.json", "samples.jsonl"):
        assert (new / name).read_bytes() == (old / name).read_bytes()
    table = before.stdout[before.stdout.index("specdec mine") :]
    assert table in again.stdout


def test_every_method_and_lossless_is_the_clouds_own_text(pair: TinyPair, here: Here) -> None:
    from suite.models.loading import keep_only, loads

    keep_only([])  # an earlier test may have left the pair warm
    loaded = loads()
    jobs = {
        method: here.job(*pair.arguments, *EXACT, f"task.method={method}")
        for method in ("edge", "cloud", "specdec", "colocated")
    }
    assert loads() == loaded + 2  # warm in between
    texts = {method: [row["tokens"] for row in read_rows(job)] for method, job in jobs.items()}
    assert texts["specdec"] == texts["colocated"] == texts["cloud"]
    assert texts["edge"] != texts["cloud"]
    facts = {method: read_record(job)["facts"] for method, job in jobs.items()}
    assert {method: fact["mode"] for method, fact in facts.items()} == {
        "edge": "edge alone",
        "cloud": "cloud alone",
        "specdec": "lossless",
        "colocated": "lossless",
    }
    assert set(facts["edge"]["models"]) == {"edge"} and set(facts["specdec"]["models"]) == {"edge", "cloud"}
    sources = {method: {source for row in read_rows(job) for source in row["sources"]} for method, job in jobs.items()}
    assert sources["edge"] == {"edge"} and sources["cloud"] == {"cloud"}
    assert sources["specdec"] >= {"accepted", "corrected"}
    assert {path.name for path in jobs["edge"].glob("*_results.json")} == {"edge_results.json"}


def test_sampling_depends_on_the_seed_alone(pair: TinyPair, here: Here) -> None:
    sampled = [*pair.arguments, *EXACT, "task.temperature=1", "dataset.max_samples=3"]
    one = here.job(*sampled)
    warm = here.job(*sampled, "task.warmup=2")  # another job, the same luck
    other = here.job(*sampled, "seed=7")
    assert settled_rows(one) == settled_rows(warm) != settled_rows(other)


def test_no_threshold_is_too_high(pair: TinyPair, here: Here) -> None:
    job = here.job(*pair.arguments, "task.entropy_threshold=inf")
    record = read_record(job)
    assert record["metrics"]["cloud_call_rate"]["value"] == 0
    assert record["config"]["task"]["entropy_threshold"] == "inf"


# ---- samples that cannot be done ----


@pytest.fixture
def spoiled(pair: TinyPair, tmp_path: Path) -> list[str]:
    """Arguments with a data set whose second row is broken and whose first is longer than the models' window."""
    rows = [json.loads(line) for line in pair.prompts.read_text().splitlines()][:4]
    rows[0]["prompt"] = " ".join(["w1"] * 2000)
    file = tmp_path / "spoiled.jsonl"
    file.write_text("\n".join([json.dumps(rows[0]), '{"id": "p1"', *map(json.dumps, rows[2:])]))
    return [*pair.arguments, f"dataset.path={file}"]


def test_a_bad_sample_is_counted_and_the_run_goes_on(here: Here, spoiled: list[str]) -> None:
    answer = here(*spoiled)
    assert answer.code == 0, answer
    (job,) = records(here.folder)
    assert read_record(job)["samples"] == {"completed": 2, "failed": 2}
    errors = [row["error"] for row in read_rows(job)]
    assert errors[0] == "The text has 2000 tokens, the model's window 1024; shorten the prompt."
    assert errors[1].startswith("spoiled.jsonl, line 2: not JSON")
    assert errors[2:] == [None, None]
    assert "2 samples failed; samples.jsonl says why." in answer.out
    assert read_record(job)["metrics"]["otps"]["n"] == 2


def test_strict_stops_there(here: Here, spoiled: list[str]) -> None:
    answer = here(*spoiled, "strict=true")
    assert answer.code == 1
    (job,) = records(here.folder)
    record = read_record(job)
    assert record["status"] == "failed" and record["error"].startswith("The text has 2000 tokens")
    assert "Traceback" not in answer.out + answer.err
    again = here(*spoiled, "strict=true")
    assert again.code == 1 and "(as recorded; retry_failed=true runs it again)" in again.out
    assert here(*spoiled, "retry_failed=true").code == 0


def test_no_sample_at_all_is_a_failure_that_can_be_retried(here: Here, pair: TinyPair, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text("{\n[\n")
    answer = here(*pair.arguments, f"dataset.path={file}")
    assert answer.code == 1
    assert "None of the 2 samples could be decoded; the first one: bad.jsonl, line 1: not JSON" in answer.out
    (job,) = records(here.folder)
    assert [row["status"] for row in read_rows(job)] == ["failed", "failed"]


# ---- mistakes: one sentence, no traceback, nothing lost ----


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["task.kk=5"], 2, "There is no option 'task.kk'. Did you mean 'k'?"),
        (["hardware=iphone"], 2, "hardware=iphone does not exist. Did you mean 'iphone15_cpu'?"),
        (["task.k=x"], 2, "task.k: Value 'x' of type 'str' could not be converted to Integer."),
        (["task.k=0"], 1, "task.k=0 must be between 1 and 64."),
        (["models.edge.id=nowhere"], 1, "models.*.id=nowhere is not a model folder or .gguf file."),
        (
            ["models.edge.source=hub", "models.edge.id=x/y"],
            1,
            "models.*.id=x/y: it is not in the hub's local cache",
        ),
        (["hydra.run.dir=/proc/nothing/here"], 2, "Cannot use /proc/nothing"),
        (["hardware.device=cuda"], 1, "hardware.device=cuda but no GPU is visible"),
    ],
)
def test_a_mistake_costs_a_sentence(
    here: Here, pair: TinyPair, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, sentence: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    answer = here(*pair.arguments, *arguments)
    said = answer.out + answer.err
    assert answer.code == code, said
    assert sentence in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 2


def test_the_traceback_of_a_bug_goes_into_the_log_alone(
    here: Here, pair: TinyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("edgecloud.pair.load_pair", broken)
    answer = here(*pair.arguments)
    assert answer.code == 1 and "ZeroDivisionError: planted" in answer.out
    assert "Traceback" not in answer.out + answer.err
    (job,) = records(here.folder)
    assert "in broken\n" in (job / "launch.log").read_text()
    assert (read_record(job)["status"], read_record(job)["error"]) == ("failed", "planted")


def test_a_folder_of_ones_own_is_never_shared(here: Here, pair: TinyPair) -> None:
    """A fixed hydra.run.dir must not hand one configuration's samples to another."""
    fixed = [*pair.arguments, "dataset.max_samples=2", "hydra.run.dir=here"]
    assert here(*fixed).code == 0
    before = (here.folder / "here" / "samples.jsonl").read_bytes()
    answer = here(*fixed, "task.k=5")
    assert answer.code == 1 and "holds the samples of another configuration" in answer.out
    assert (here.folder / "here" / "samples.jsonl").read_bytes() == before
    assert here(*fixed).code == 0
