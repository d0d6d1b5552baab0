"""`python -m suite table --latex` and the paired tests behind its bold figures, on made-up records."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suite.__main__ import main
from suite.errors import UserError
from suite.report.collect import read_sweep
from suite.report.latex import escape, latex
from suite.report.paired import compare

N = 60


def write_job(folder: Path, method: str, values: dict[str, np.ndarray[Any, Any]], **other: Any) -> None:
    """A completed job whose metrics are the means of their per-sample values; `other` replaces whole fields."""
    metrics = {
        name: {
            "value": float(data.mean()),
            "unit": "ms" if name.endswith("_ms") else "1",
            "n": len(data),
            "ci95": [float(data.mean()) - 0.1, float(data.mean()) + 0.1],
            "origin": "modelled" if name.endswith("_ms") else "measured",
            "note": "",
        }
        for name, data in values.items()
    }
    record = {
        "schema": 1,
        "fingerprint": f"{folder.name}" + "0" * 60,
        "status": "completed",
        "task": "toy",
        "name": method,
        "config": {"task": {"method": method}},
        "overrides": [f"task.method={method}"],
        "metrics": metrics,
        "facts": {},
        "samples": {"completed": N, "failed": 0},
        "error": None,
        "seed": 7,
        "provenance": {"command": ["launch.py", "-m", "task.method=50%_a,b & c"]},
        "models": {},
        "data_sha256": "",
        "started_at": "2026-01-02T10:00:00+00:00",
        "wall_time_s": 1.0,
    }
    folder.mkdir(parents=True)
    (folder / ".hydra").mkdir()
    (folder / "record.json").write_text(json.dumps(record | other))
    rows = [
        {"id": f"s{i}", "status": "ok", "error": None, "metrics": {key: float(data[i]) for key, data in values.items()}}
        for i in range(N)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """b is better than a and c for sure; in speed a and c are surely faster than b, and equal to each other."""
    noise = np.random.default_rng(3).normal(size=(4, N))
    right = noise[0]
    write_job(tmp_path / "0", "a_1", {"right": right, "wait_ms": 5 + noise[1]})
    write_job(tmp_path / "1", "b", {"right": right + 0.5 + 0.1 * noise[2], "wait_ms": 9 + noise[2]})
    write_job(tmp_path / "2", "c", {"right": right + 0.01 * noise[3], "wait_ms": 5 + noise[3]})
    return tmp_path


def body(text: str) -> dict[str, list[str]]:
    """Cells of each row by its first cell."""
    inside = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = [line.removesuffix(r" \\").split(" & ") for line in inside.strip().splitlines()]
    return {cells[0]: cells[1:] for cells in rows}


def test_bold_is_what_is_better_than_every_other_row_for_sure(sweep: Path) -> None:
    rows = body(latex(sweep))
    assert rows["b"][1].startswith(r"\textbf{")
    assert [name for name, cells in rows.items() if "textbf" in cells[1]] == ["b"]
    assert not any("textbf" in cells[2] for cells in rows.values())  # the two fastest are equal
    assert [cells[0] for cells in rows.values()] == [str(N)] * 3


def test_without_paired_samples_nothing_is_bold(sweep: Path) -> None:
    for path in sweep.glob("*/samples.jsonl"):
        rows = [json.loads(line) | {"metrics": {}} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "textbf" not in latex(sweep)
    assert "Bold" not in latex(sweep)


def test_caption_says_n_seed_interval_and_command(sweep: Path) -> None:
    caption = next(line for line in latex(sweep).splitlines() if line.startswith(r"\caption"))
    assert f"n = {N} samples a row, seed 7." in caption
    assert "95 \\% bootstrap interval" in caption
    assert r"$\sim$: modelled" in caption
    assert r"\texttt{python launch.py -m 'task.method=50\%\_a,b \& c'}" in caption


def test_it_is_whole_and_the_same_bytes_each_time(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = latex(sweep)
    bare = re.sub(r"\\[{}\\&%$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert re.findall(r"\\begin\{(\w+)\}", text) == ["table", "tabular"]
    assert re.findall(r"\\end\{(\w+)\}", text) == ["tabular", "table"]
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {re.sub(r"\\&", "", line).count("&") for line in rows} == {len(columns) - 1}
    assert not re.search(r"(?<!\\)[%#]", text)
    assert r"a\_1" in text
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(sweep, elsewhere)
    assert latex(elsewhere) == latex(sweep) == text


def test_a_table_wider_than_a_page_says_so_in_a_comment(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.report.latex.PAGE", 1)
    first = latex(sweep).splitlines()[0]
    assert first == "% 2 metrics are wider than a page; choose some: --metrics right"


def test_escapes() -> None:
    assert escape("50 % & a_b ~1 {x} $ # ^ \\") == (
        r"50 \% \& a\_b $\sim$1 \{x\} \$ \# \textasciicircum{} \textbackslash{}"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_it_compiles(sweep: Path) -> None:
    page = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + latex(sweep) + "\\end{document}\n"
    (sweep / "paper.tex").write_text(page)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=sweep, capture_output=True
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_command_prints_it_alone(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(sweep), "--latex", "--metrics", "right"]) == 0
    out = capsys.readouterr().out
    assert out == latex(sweep, metrics=("right",))
    assert "wait" not in out
    with pytest.raises(UserError, match="no metric rigth .*Did you mean 'right'"):
        latex(sweep, metrics=("rigth",))


def test_p_values_are_corrected_over_the_jobs_of_a_metric(sweep: Path) -> None:
    found = compare(read_sweep(sweep))
    assert [(one.job.label, one.metric) for one in found] == [
        ("1", "right"), ("1", "wait_ms"), ("2", "right"), ("2", "wait_ms"),
    ]  # fmt: skip
    by_name = {(one.job.label, one.metric): one for one in found}
    clear, equal = by_name["1", "right"], by_name["2", "wait_ms"]
    assert clear.p_value == pytest.approx(1 / 2001)
    assert clear.p_holm == pytest.approx(2 / 2001)  # the smaller of two, so doubled
    assert equal.p_value is not None and equal.p_value > 0.05
    assert equal.p_holm == equal.p_value  # the larger of two
    assert compare(read_sweep(sweep)) == found
