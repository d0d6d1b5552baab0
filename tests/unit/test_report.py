"""Reports from made-up records: found, told apart, tabulated, compared, and the same bytes every time."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from rich.console import Console

from suite.__main__ import main
from suite.errors import UserError
from suite.report.collect import all_jobs, differing_settings, latest, locate, read_sweep
from suite.report.export import tidy, write_table
from suite.report.html import page, write_report
from suite.report.paired import compare
from suite.report.plot import charts, figure, swept_number
from suite.report.reference import reference_view
from suite.report.sheet import document
from suite.report.table import show_job, show_list, show_sweep
from suite.report.words import number

HARDWARE = {"local": {"name": "local", "cards": 0}, "h100": {"name": "h100", "cards": 1}}


def metric(value: float | None, unit: str = "1", **other: Any) -> dict[str, Any]:
    """A metric as stored, with an interval of 10 % either side."""
    ci95 = None if value is None else [value * 0.9, value * 1.1]
    return {"value": value, "unit": unit, "n": 20, "ci95": ci95, "origin": "measured", "note": "", **other}


def make_record(k: int = 3, threshold: float = 1.5, *, hardware: str = "local", **other: Any) -> dict[str, Any]:
    """A record in the stored schema; `other` replaces whole fields."""
    record = {
        "schema": 1,
        "fingerprint": f"{k:02x}{round(threshold * 10):02x}{len(hardware):02x}" + "0" * 58,
        "status": "completed",
        "task": "specdec",
        "name": "specdec_results",
        "config": {
            "task": {"method": "specdec", "k": k, "entropy_threshold": threshold},
            "hardware": HARDWARE[hardware],
            "tracker": {"name": "none"},
        },
        "overrides": [f"task.k={k}", f"task.entropy_threshold={threshold}", f"hardware={hardware}"],
        "metrics": {
            "bleu": metric(0.1 * k, note="tokenize=zh"),
            "cloud_call_rate": metric(1 / (k + threshold)),
            "ttft_ms": metric(12.5 * k, "ms", origin="modelled"),
            "energy_j": metric(None, "J"),
        },
        "facts": {"engine": "transformers"},
        "samples": {"completed": 20, "failed": 0},
        "error": None,
        "seed": 42,
        "provenance": {"git_sha": "abc", "git_dirty": False, "packages": {"torch": "2.13.0"}, "machine": {"cpu": "x"}},
        "models": {"edge": "1", "cloud": "2"},
        "data_sha256": "dd",
        "started_at": "2026-01-02T10:00:00+00:00",
        "wall_time_s": 3.5,
    }
    return {**record, **other}


def write_job(folder: Path, record: dict[str, Any], samples: list[dict[str, Any]] | None = None) -> Path:
    """A job folder as the launcher leaves it."""
    folder.mkdir(parents=True)
    (folder / ".hydra").mkdir()
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    lines = [json.dumps(sample) + "\n" for sample in samples or []]
    (folder / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def make_samples(values: dict[str, float | None]) -> list[dict[str, Any]]:
    """Rows with one metric, `bleu`."""
    return [{"id": key, "status": "ok", "error": None, "metrics": {"bleu": value}} for key, value in values.items()]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Twelve jobs over k, with paired samples, one failed job and one that was killed."""
    folder = tmp_path / "multirun" / "2026-01-02" / "10-00-00"
    for job in range(11):
        values = {f"s{i}": 0.1 * i + 0.01 * job * (i % 3) for i in range(20)}
        write_job(folder / str(job), make_record(k=job + 1), make_samples(dict(values)))
    failed = make_record(k=99, status="failed", metrics={}, error="out of [memory]")
    write_job(folder / "11", {**failed, "samples": {"completed": 0, "failed": 0}})
    (folder / "12" / ".hydra").mkdir(parents=True)
    return folder


def printed(width: int = 200) -> tuple[Console, io.StringIO]:
    """A console of a known width, and where it prints."""
    out = io.StringIO()
    return Console(file=out, width=width, color_system=None), out


def test_jobs_are_in_number_order_and_once_per_fingerprint(sweep: Path) -> None:
    write_job(sweep / "13", make_record(k=1, started_at="2026-01-03T00:00:00+00:00"))
    write_job(sweep / "14", make_record(k=2, started_at="2026-01-03T00:00:00+00:00", status="interrupted"))
    write_job(sweep / "15", make_record(k=3))
    labels = [job.label for job in read_sweep(sweep).jobs]
    # 13 is job 0 again and newer; 14 is job 1 again but did not complete; 15 is job 2's record, reused
    assert labels == ["1", "3", "4", "5", "6", "7", "8", "9", "10", "11", "13", "15"]


def test_only_the_settings_that_tell_jobs_apart_are_shown() -> None:
    grid = [make_record(k, threshold, hardware=name) for k, threshold, name in [(3, 1.0, "local"), (5, 1.0, "h100")]]
    # k and hardware move together, both were typed; the cards only follow the hardware
    assert differing_settings(grid) == {"k": (3, 5), "hardware": ("local", "h100")}


def test_a_difference_that_nobody_typed_is_shown_when_nothing_else_tells() -> None:
    one, two = make_record(), make_record()
    one["config"]["task"]["rank"] = 1
    two["config"]["task"]["rank"] = 2
    assert differing_settings([one, two]) == {"rank": (1, 2)}


def test_studies_without_a_common_option_differ_by_task_alone() -> None:
    other = make_record(task="argo", config={"task": {"strategy": "random"}}, overrides=[])
    assert differing_settings([make_record(), other]) == {"task": ("specdec", "argo")}


def test_the_tracker_changes_no_number_and_tells_nothing() -> None:
    one, two = make_record(), make_record()
    two["config"]["tracker"] = {"name": "wandb"}
    two["overrides"] = [*two["overrides"], "tracker=wandb", "tracker.project=x"]
    assert differing_settings([one, two]) == {}


def test_group_choices_trackers_and_name_clashes() -> None:
    rows = []
    for k, edge, models in ((1, "a", "small"), (2, "b", "large")):
        config = {"task": {"k": k}, "draft": {"k": k}, "models": {"edge": {"id": edge}}, "tracker": {"project": edge}}
        overrides = ["task.k=1", "++draft.k=1", f"models={models}", f"tracker.project={edge}", "hydra.job.name=x"]
        rows.append(make_record(config=config, overrides=overrides))
    found = differing_settings(rows, taken=["models"])
    assert found == {"task.k": (1, 2), "draft.k": (1, 2), "models": ("small", "large")}


def test_newest_run_by_date_and_time_that_has_a_record(tmp_path: Path, sweep: Path) -> None:
    newer = write_job(tmp_path / "outputs" / "2026-01-02" / "10-00-01", make_record(seed=1))
    (tmp_path / "outputs" / "2026-01-05" / "00-00-00").mkdir(parents=True)
    assert latest(tmp_path) == newer
    shutil.rmtree(newer)
    assert latest(tmp_path) == sweep


def test_a_job_is_found_by_folder_file_and_fingerprint(tmp_path: Path, sweep: Path) -> None:
    relative = "multirun/2026-01-02/10-00-00/2"
    for name in (relative, f"{relative}/record.json", str(sweep / "2"), "030f0500"):
        assert locate(tmp_path, name).folder == sweep / "2"
    for name, message in (
        ("030f", "not a job folder"),
        ("ffffffff", "not a job folder"),
        ("multirun/2026-01-02/10-00-00", "holds 12 jobs"),
    ):
        with pytest.raises(UserError, match=message):
            locate(tmp_path, name)


def test_missing_folders_and_broken_records_cost_one_sentence(tmp_path: Path, sweep: Path) -> None:
    with pytest.raises(UserError, match="There is no folder"):
        read_sweep(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no record.json"):
        read_sweep(sweep / "12")
    with pytest.raises(UserError, match="no records"):
        all_jobs(tmp_path / "outputs")
    (sweep / "3" / "record.json").write_text("{")
    with pytest.raises(UserError, match=r"3/record.json is not a record"):
        read_sweep(sweep)


def test_tidy_table_in_both_files(sweep: Path) -> None:
    csv_path, parquet_path = write_table(sweep)
    rows = list(csv.DictReader(csv_path.read_text(encoding="utf-8").splitlines()))
    table = pyarrow.parquet.read_table(parquet_path)
    assert table.column_names == list(rows[0])
    assert [row["k"] for row in rows] == [str(k) for k in (*range(1, 12), 99)]
    third = table.slice(2, 1).to_pylist()[0]
    assert (third["job"], third["k"], third["status"], third["n"]) == ("2", 3, "completed", 20)
    assert (third["bleu"], third["bleu_low"], third["bleu_high"]) == pytest.approx((0.3, 0.27, 0.33))
    assert (third["ttft_ms_unit"], third["ttft_ms_origin"], third["energy_j"]) == ("ms", "modelled", None)
    assert rows[2]["energy_j"] == ""  # a missing meter is empty, never 0
    assert table.schema.field("energy_j").type == pyarrow.float64()
    assert table.schema.field("energy_j_low").type == pyarrow.float64()
    assert (rows[11]["error"], rows[11]["bleu"]) == ("out of [memory]", "")
    assert "entropy_threshold" not in rows[0]


def test_a_setting_with_values_of_several_types_is_text(tmp_path: Path) -> None:
    for job, value in enumerate((1, "auto", None)):
        write_job(tmp_path / str(job), make_record(fingerprint=str(job) * 64, config={"task": {"k": value}}))
    assert tidy(read_sweep(tmp_path))["k"] == ["1", "auto", None]


def test_views_are_the_same_bytes_wherever_and_whenever_they_are_made(sweep: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(sweep, copy)
    views = [
        [path.read_bytes() for path in (*write_table(folder), write_report(folder))] for folder in (sweep, copy, copy)
    ]
    assert views[0] == views[1] == views[2]


def test_sweep_table_shows_settings_intervals_failures_and_few_samples(sweep: Path) -> None:
    console, out = printed()
    show_sweep(sweep, console)
    text = out.getvalue()
    header = text.splitlines()[1]
    assert [name for name in ("job", "k", "n", "bleu", "cloud_call_rate", "ttft_ms") if name in header.split()] == [
        "job", "k", "n", "bleu", "cloud_call_rate", "ttft_ms",
    ]  # fmt: skip
    assert "energy_j" in header
    assert "0.3 [0.27, 0.33]" in text
    assert "~37.5 [33.75, 41.25]" in text  # modelled
    assert "job 11 failed: out of [memory]" in text
    assert "job 12 has no record" in text
    assert "Only 20 samples" in text


def test_a_narrow_terminal_shows_what_fits_and_names_the_rest(sweep: Path) -> None:
    console, out = printed(width=50)
    show_sweep(sweep, console)
    assert max(map(len, out.getvalue().splitlines())) <= 50
    said = " ".join(out.getvalue().split())
    assert "Too narrow for cloud_call_rate, energy_j:" in said
    assert "│ 0.3 │" in said  # the interval moved to a line of its own


def test_the_headline_of_the_facts_decides_what_is_shown(tmp_path: Path) -> None:
    record = make_record(facts={"headline": ["ttft_ms", "bleu", "no_such_metric"]})
    write_job(tmp_path / "0", record)
    assert read_sweep(tmp_path).headline == ("ttft_ms", "bleu")
    console, out = printed()
    show_job(record, console)
    text = out.getvalue()
    assert text.index("ttft_ms") < text.index("bleu")
    assert "cloud_call_rate" not in text
    assert "tokenize=zh" in text
    assert "modelled" in text
    assert "Only 20 samples" in text


def test_text_that_looks_like_markup_is_printed_literally() -> None:
    console, out = printed()
    record = make_record(
        status="failed", error="broken [/bold] tag", metrics={"bleu": metric(1, note="by [/red] word")}
    )
    show_job(record, console)
    assert "broken [/bold] tag" in out.getvalue()
    assert "by [/red] word" in out.getvalue()


def test_a_narrow_list_keeps_fingerprints_whole(tmp_path: Path, sweep: Path) -> None:
    console, out = printed(width=60)
    show_list(all_jobs(tmp_path), console)
    assert "010f0500" in out.getvalue()


def test_enough_samples_need_no_warning() -> None:
    console, out = printed()
    show_job(make_record(samples={"completed": 100, "failed": 3}), console)
    assert "Only" not in out.getvalue()
    assert "3 samples failed" in out.getvalue()


def test_paired_differences_use_only_the_samples_both_measured(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    base = {f"s{i}": float(value) for i, value in enumerate(generator.normal(size=40))}
    better = {key: value + 0.5 for key, value in base.items()} | {"s0": None, "s99": 7.0}
    write_job(tmp_path / "0", make_record(k=1), make_samples(dict(base)))
    write_job(tmp_path / "1", make_record(k=2), make_samples(better))
    (only,) = compare(read_sweep(tmp_path))
    assert (only.job.label, only.baseline.label, only.metric) == ("1", "0", "bleu")
    assert only.difference.n == 39
    assert only.difference.value == pytest.approx(0.5)  # job minus baseline
    (other,) = compare(read_sweep(tmp_path), baseline="1")
    assert other.difference.value == pytest.approx(-0.5)


def test_large_sweeps_are_compared_only_when_asked(sweep: Path) -> None:
    assert compare(read_sweep(sweep)) == []
    found = compare(read_sweep(sweep), baseline="3", metrics=("bleu",))
    assert [item.job.label for item in found] == [str(job) for job in range(11) if job != 3]


def test_unknown_baseline_and_metric_are_named(sweep: Path) -> None:
    with pytest.raises(UserError, match="no completed job 11"):
        compare(read_sweep(sweep), baseline="11")
    with pytest.raises(UserError, match=r"no metric blue .*Did you mean 'bleu'\?"):
        compare(read_sweep(sweep), baseline="1", metrics=("blue",))


def test_figure_follows_the_swept_number_and_names_bad_axes(sweep: Path) -> None:
    found = read_sweep(sweep)
    assert swept_number(found) == "k"
    svg = figure(found)
    assert svg is not None
    assert "bleu against cloud_call_rate, along k" in svg  # x is the first that is spent, y the first that is gained
    assert "bleu, more is better" in svg and "cloud_call_rate, less is better" in svg
    assert "ttft_ms" not in svg
    assert "ttft_ms" in (figure(found, ("ttft_ms", "bleu")) or "")
    with pytest.raises(UserError, match=r"no metric ttft .*Did you mean 'ttft_ms'\?"):
        figure(found, ("ttft", "bleu"))


def test_without_a_swept_number_there_is_the_trade_off_alone(tmp_path: Path) -> None:
    write_job(tmp_path / "0", make_record(hardware="local"))
    assert charts(read_sweep(tmp_path)) == []  # one job is no comparison
    assert figure(read_sweep(tmp_path)) is None
    write_job(tmp_path / "1", make_record(hardware="h100"))
    (only,) = charts(read_sweep(tmp_path))
    assert 'class="line"' not in only
    assert [text in only for text in ("hardware=local", "hardware=h100")] == [True, True]


def test_each_study_of_a_sweep_has_charts_of_its_own(tmp_path: Path) -> None:
    for job, k in enumerate((1, 2, 3)):
        write_job(tmp_path / str(job), make_record(k=k))
    for job, cost in enumerate((1, 5)):
        found = {"accuracy": metric(0.5 + cost / 100), "cost": metric(cost)}
        typed = [f"task.cost_ratio={cost}"]
        config = {"task": {"cost_ratio": cost}}
        other = make_record(task="argo", fingerprint=f"a{cost}", metrics=found, config=config, overrides=typed)
        write_job(tmp_path / str(3 + job), other)
    titles = [svg.split('aria-label="')[1].split('"')[0] for svg in charts(read_sweep(tmp_path))]
    assert titles == [
        "specdec: bleu against cloud_call_rate, along k", "specdec: bleu along k", "specdec: cloud_call_rate along k",
        "specdec: ttft_ms along k", "argo: accuracy against cost, along cost_ratio", "argo: accuracy along cost_ratio",
        "argo: cost along cost_ratio",
    ]  # fmt: skip


def leave_unfinished(folder: Path, k: int, samples: list[dict[str, Any]]) -> Path:
    """A job folder as a kill leaves it: no record, and a last line that was being written."""
    record = make_record(k=k)
    config = {**record["config"], "seed": 42, "output_name": None}
    config["task"] = {**config["task"], "name": "specdec", "copy_of_k": "${task.k}"}
    (write_job(folder, record, samples) / "record.json").unlink()
    (folder / ".fingerprint").write_text(record["fingerprint"])
    (folder / ".hydra" / "config.yaml").write_text(json.dumps(config))
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps([*record["overrides"], "tracker=wandb"]))
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"id": "s9", "sta')
    return folder


def test_a_job_without_a_record_is_shown_with_what_it_has_so_far(tmp_path: Path) -> None:
    write_job(tmp_path / "0", make_record(k=1), make_samples({"s0": 0.1}))
    rows = make_samples({"s0": 0.2, "s1": 0.4, "s2": None})
    rows[0]["metrics"] |= {"correct": True, "ttft_ms": 8}
    failed = {"id": "s3", "status": "failed", "error": "no sound", "metrics": {}}
    leave_unfinished(tmp_path / "1", 2, [*rows, failed])
    _, job = read_sweep(tmp_path).jobs
    assert job.record["status"] == "running or interrupted"
    assert job.record["samples"] == {"completed": 3, "failed": 1}
    assert job.record["overrides"][-1] == "hardware=local"  # the tracker is not told, as in a record
    assert job.record["config"]["task"]["copy_of_k"] == 2
    found = job.record["metrics"]
    assert list(found) == ["bleu", "correct", "ttft_ms"]
    assert found["bleu"]["value"] == pytest.approx(0.3)
    assert (found["bleu"]["n"], found["bleu"]["unit"], found["bleu"]["origin"]) == (2, "", "")
    assert found["bleu"]["ci95"] is not None
    assert "1 of 3 samples not measured" in found["bleu"]["note"]

    console, out = printed()
    show_sweep(tmp_path, console)
    assert "ttft_ms" in out.getvalue() and "()" not in out.getvalue()
    assert "0.3 [0.2, 0.4]" in out.getvalue()
    assert "job 1 is running or was interrupted; samples so far: 3" in out.getvalue()
    assert tidy(read_sweep(tmp_path))["status"] == ["completed", "running or interrupted"]
    write_table(tmp_path)
    assert "running or interrupted" in page(read_sweep(tmp_path))


def test_the_same_job_finished_elsewhere_takes_the_place_of_its_remains(tmp_path: Path) -> None:
    leave_unfinished(tmp_path / "outputs" / "a" / "1", 2, make_samples({"s0": 0.2}))
    assert latest(tmp_path) == tmp_path / "outputs" / "a" / "1"
    (job,) = all_jobs(tmp_path)
    assert (job.record["status"], job.record["metrics"]) == ("running or interrupted", {})
    assert locate(tmp_path, job.record["fingerprint"][:8]).record["metrics"]["bleu"]["value"] == 0.2
    write_job(tmp_path / "outputs" / "b" / "1", make_record(k=2))
    assert [job.record["status"] for job in all_jobs(tmp_path)] == ["completed"]


def test_a_studys_own_tables_are_in_the_page(tmp_path: Path) -> None:
    table = {"title": "Who <wins>", "header": ["", "p"], "rows": [["a - b", "0.03"]]}
    write_job(tmp_path / "0", make_record(facts={"tables": [table]}))
    (tmp_path / "analysis.json").write_text(json.dumps({"summary": ["So."], "tables": [{**table, "title": "All"}]}))
    text = page(read_sweep(tmp_path))
    outline = Outline()
    outline.feed(text)
    assert outline.tables.count(["", "p", "a - b", "0.03"]) == 2
    assert "Who &lt;wins&gt;" in text and "<summary>All" in text
    assert "facts.tables" not in text


class Outline(HTMLParser):
    """Cells of each table, and every address the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[str]] = []
        self.addresses: list[str] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "table":
            self.tables.append([])
        if tag in ("td", "th", "tr"):
            self._in_cell = tag != "tr"
        if tag in ("td", "th"):
            self.tables[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "table"

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1] = f"{self.tables[-1][-1]} {data.strip()}".strip()


def test_page_is_self_contained_and_holds_every_job(sweep: Path) -> None:
    record = make_record(k=3, name="<script>alert(1)</script>")
    record["metrics"]["bleu"]["note"] = "<script>alert(2)</script>"
    (sweep / "2" / "record.json").write_text(json.dumps(record))
    text = page(read_sweep(sweep), baseline="0")
    outline = Outline()
    outline.feed(text)
    assert {address[:5] for address in outline.addresses} == {"#run-"}
    assert "<script>alert" not in text
    assert text.count("<script") == 1
    assert outline.tables[0][:6] == ["✓", "job", "k", "n", "status", "bleu"]
    assert "0.3 [0.27, 0.33]" in outline.tables[0]
    assert (
        len(outline.tables) == 1 + 1 + 1 + 2 * 12 - 1
    )  # sweep, paired, shared; each job's metrics (one has none), settings
    shared = outline.tables[2]
    assert shared[shared.index("provenance.packages.torch") + 1] == "2.13.0"
    assert "config.task.k" not in shared
    assert "job 11 failed: out of [memory]" in text
    assert "<svg" in text


def test_the_page_runs_no_script_but_its_own(sweep: Path) -> None:
    text = page(read_sweep(sweep))
    script = text.split("<script>")[1].split("</script>")[0]
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    assert "script-src 'none'" in document("t", "b")


def test_a_card_tells_where_the_numbers_come_from(tmp_path: Path) -> None:
    machine = {"cpu": "A & B", "cores": {"allowed": 2}, "memory_gb": 25.3, "gpus": []}
    source = {"git_sha": "abcdef0123456789", "git_dirty": True, "python": "3.11.7", "packages": {"torch": "2.13.0"}}
    write_job(tmp_path / "0", make_record(provenance={**source, "machine": machine, "command": ["launch.py", "x<y"]}))
    text = page(read_sweep(tmp_path))
    assert "<dt>code<dd>abcdef012345, with uncommitted changes" in text
    assert "<dt>machine<dd>A &amp; B, 2 cores, 25 GB, no GPU" in text
    assert "<dt>packages<dd>Python 3.11.7, torch 2.13.0" in text
    assert "<dt>numbers<dd>2 measured, 1 modelled" in text  # a missing meter is no number
    assert "<dt>command<dd>launch.py x&lt;y" in text


def test_pages_of_samples_and_plots_are_in_reach(tmp_path: Path) -> None:
    for job in ("a b", "1"):
        folder = write_job(tmp_path / job, make_record(k=len(job)))
        (folder / "samples.html").write_text("")
        (folder / "plots").mkdir()
        (folder / "plots" / "one_two.svg").write_text('<svg><text style="fill: #808080">x</text></svg>')
    (tmp_path / "trajectories.html").write_text("")
    write_report(tmp_path)
    text = page(read_sweep(tmp_path))  # the report itself is no page of samples
    outline = Outline()
    outline.feed(text)
    links = [address for address in outline.addresses if address.endswith(".html")]
    assert sorted(set(links)) == ["1/samples.html", "a%20b/samples.html", "trajectories.html"]
    assert (links.count("1/samples.html"), links.count("trajectories.html")) == (2, 1)
    pictures = [address for address in outline.addresses if address.startswith("data:")]
    assert len(pictures) == 2 and 'alt="one two"' in text
    assert "prefers-color-scheme:dark" in b64decode(pictures[0].partition(",")[2]).decode()
    alone = page(read_sweep(tmp_path / "1"))
    assert alone.count("data:image/svg+xml") == 1  # once, not in the analysis and in the card


def test_filters_offer_every_setting_of_the_table_that_has_two_values(sweep: Path) -> None:
    text = page(read_sweep(sweep))
    assert text.count("<select") == 2
    assert '<label>k<select data-cell=2><option value="">all</option><option value="1">1</option>' in text
    assert "<label>status<select data-cell=4>" in text
    assert 'data-find="2 specdec_results specdec task.k=3' in text


def test_reference_view_of_a_captioning_job_renames_and_converts() -> None:
    record = make_record(k=2)
    record["metrics"] |= {
        "otps": metric(7.5, "tokens/s"),
        "bertscore_f1": metric(0.8),
        "total_time_ms": metric(2500.0, "ms"),
    }
    samples = [{"id": "a", "status": "ok", "error": None, "caption": "calm", "metrics": {"bleu": 0.5}}]
    view = reference_view(record, samples)
    assert list(view) == ["experiment_config", "metrics", "detailed_results"]
    assert view["experiment_config"]["task"]["k"] == 2
    metrics = view["metrics"]
    assert metrics["avg_bleu"] == 0.2
    assert metrics["avg_cider"] is None
    assert metrics["bertscore"] == {"precision": None, "recall": None, "f1": 0.8}
    assert metrics["latency_metrics"]["ttft_mean_s"] == 0.025
    assert metrics["latency_metrics"]["otps_mean"] == 7.5
    assert metrics["latency_metrics"]["total_time_s"] == 2.5
    assert metrics["speculative_decoding_metrics"]["cloud_call_rate"] == record["metrics"]["cloud_call_rate"]["value"]
    assert view["detailed_results"] == [{"id": "a", "status": "ok", "error": None, "caption": "calm", "bleu": 0.5}]


def test_reference_view_of_any_other_job_keeps_its_names() -> None:
    record = make_record(metrics={"accuracy": metric(0.5), "latency_ms": metric(None, "ms")})
    rows = [{"id": "q", "status": "ok", "error": None, "prediction": "b", "metrics": {"correct": 1.0}}]
    view = reference_view(record, rows)
    assert view == {
        "experiment_config": record["config"],
        "metrics": {"accuracy": 0.5, "latency_ms": None},
        "detailed_results": [{"id": "q", "status": "ok", "error": None, "prediction": "b", "correct": 1.0}],
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.016912, "0.0169"),
        (12.754, "12.75"),
        (135.24, "135.2"),
        (12345.6, "12,346"),
        (-3, "-3"),
    ],
)
def test_numbers_keep_about_four_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_command_line(tmp_path: Path, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path)]
    assert main([*root, "ls"]) == 0
    assert "010f0500" in capsys.readouterr().out
    assert main([*root, "table"]) == 0
    assert "table.parquet" in capsys.readouterr().out
    assert main([*root, "report", "multirun/2026-01-02/10-00-00", "--plot", "ttft_ms,bleu"]) == 0
    assert (sweep / "report.html").exists()
    capsys.readouterr()
    assert main([*root, "diff", "010f0500", str(sweep / "4")]) == 0
    out = capsys.readouterr().out
    assert "task.k" in out
    assert "entropy_threshold" not in out
    assert "0.5 [0.45, 0.55]" in out


@pytest.mark.parametrize("command", [["ls"], ["table"], ["table", "nowhere"], ["report"], ["diff", "a", "b"]])
def test_nothing_to_show_is_a_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main(["--root", str(tmp_path), *command]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


def test_report_never_imports_torch(sweep: Path) -> None:
    code = (
        "import sys; from suite.__main__ import main; main(['report', sys.argv[1]]); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(sweep)], check=False).returncode == 0
