"""Every gate, verifier and drafter on the embedded pair as a user types them, and the sentence of each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecloud.schema import CODECS, DRAFTERS, GATES, SCHEDULES, SENDS_ALL, STOPS, VERIFICATIONS, SpecDecConfig
from suite.errors import ConfigError
from tests.runs import Here, read_record, read_rows, records

FEW = [
    "dataset.max_samples=2",
    "task.max_new_tokens=12",
    "task.warmup=0",
    "hardware.dtype=float32",
    "task.cloud_hardware.dtype=float32",
]


def sweep(here: Here, *arguments: str) -> list[Path]:
    """Job folders of a sweep that must complete."""
    before = len(records(here.folder))
    answer = here("-m", *FEW, *arguments)
    assert answer.code == 0, answer
    jobs = records(here.folder)[before:]
    for job in jobs:
        assert [len(row["tokens"]) > 0 for row in read_rows(job)] == [True, True]
    return jobs


def test_every_gate_with_every_verifier_in_one_sweep(here: Here) -> None:
    jobs = sweep(here, f"task.gate={','.join(GATES)}", f"task.verification={','.join(VERIFICATIONS)}")
    modes = {}
    for job in jobs:
        record = read_record(job)
        task = record["config"]["task"]
        modes[task["gate"], task["verification"]] = record["facts"]["mode"]
        rates = record["metrics"]["cloud_call_rate"], record["metrics"]["acceptance_rate"]
        assert all(rate["value"] is None or 0.0 <= rate["value"] <= 1.0 for rate in rates)
    assert len(modes) == len(GATES) * len(VERIFICATIONS)
    assert modes["always", "lossless"] == "lossless"
    assert {modes[gate, "lossless"] for gate in SENDS_ALL} == {"gated"}
    assert {modes["always", how] for how in ("rank", "bild", "ensemble")} == {"relaxed"}
    assert modes["oracle", "bild"] == "gated + relaxed"


def test_every_drafter_schedule_and_threshold_that_is_lossless_writes_what_the_cloud_writes(here: Here) -> None:
    lossless = ["task.gate=always", "task.verification=lossless"]
    jobs = sweep(here, *lossless, f"task.drafter={','.join(DRAFTERS)}", f"task.draft_schedule={','.join(SCHEDULES)}")
    jobs += sweep(here, *lossless, f"task.draft_stop={','.join(STOPS)}", "task.method=specdec,cloud")
    for gate, threshold in SENDS_ALL.items():
        option = f"task.{GATES[gate]}={threshold}"
        jobs.append(here.job(*FEW, "task.verification=lossless", f"task.gate={gate}", option))
    assert len({str([row["tokens"] for row in read_rows(job)]) for job in jobs}) == 1
    assert {read_record(job)["facts"]["mode"] for job in jobs} == {"lossless", "cloud alone"}


def test_a_codec_that_carries_less_than_the_verifier_used_is_told(here: Here) -> None:
    sampled = ["network=wifi", "task.temperature=1.0", "task.gate=always", f"task.codec={','.join(CODECS)}"]
    jobs = sweep(here, *sampled, f"task.verification={','.join(VERIFICATIONS)}")
    told = {}
    for job in jobs:
        record = read_record(job)
        task = record["config"]["task"]
        told[task["codec"], task["verification"]] = record["facts"]["codec_lossless"]
    assert {how for (codec, how), fine in told.items() if codec == "residual" and fine} == {"rank", "bild"}
    assert {how for (codec, how), fine in told.items() if codec == "ids" and not fine} == {"ensemble"}
    ids, whole = (
        read_record(here.job(*FEW, *sampled[:3], f"task.codec={codec}", "task.verification=lossless"))["metrics"]
        for codec in ("ids", "full")
    )
    assert ids["bytes_up"]["value"] < whole["bytes_up"]["value"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gate": "entropie"}, r"task.gate=entropie is not one of adaedl, .*, uhlm. Did you mean 'entropy'\?"),
        ({"verification": "exact"}, "task.verification=exact is not one of bild, ensemble, lossless, rank."),
        ({"drafter": "ngram"}, "task.drafter=ngram is not one of edge, lookup, mixed, none."),
        ({"draft_schedule": "fix"}, r"task.draft_schedule=fix is not one of fixed, heuristic. Did you mean 'fixed'\?"),
        ({"draft_stop": "oracle"}, "task.draft_stop=oracle is not one of adaedl, confidence, entropy, none, uhlm."),
        ({"confidence_threshold": 1.5}, "task.confidence_threshold=1.5 must be between 0 and 1."),
        ({"adaedl_threshold": 1.5}, "task.adaedl_threshold=1.5 must be between -1000 and 1."),
        ({"uhlm_threshold": -0.1}, "task.uhlm_threshold=-0.1 must be between 0 and 1."),
        ({"random_rate": float("nan")}, "task.random_rate=nan must be between 0 and 1."),
        ({"oracle_threshold": -1.0}, "task.oracle_threshold=-1.0 must be at least 0."),
        ({"rank_threshold": 0}, "task.rank_threshold=0 must be at least 1."),
        ({"bild_threshold": -1.0}, "task.bild_threshold=-1.0 must be at least 0."),
        ({"cloud_weight": 2.0}, "task.cloud_weight=2.0 must be between 0 and 1."),
        (
            {"drafter": "lookup"},
            "task.gate=entropy asks how sure the edge model is of every token, and task.drafter=lookup drafts "
            "without it; set task.gate=always.",
        ),
        (
            {"drafter": "none", "gate": "always", "draft_stop": "uhlm"},
            "task.draft_stop=uhlm asks how sure the edge model is of every token, and task.drafter=none drafts "
            "without it; set task.draft_stop=none.",
        ),
        (
            {"drafter": "lookup", "gate": "always", "verification": "ensemble"},
            "task.verification=ensemble mixes two models; set task.drafter=edge.",
        ),
    ],
)
def test_a_mistake_costs_a_sentence(options: dict[str, str | float], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{sentence}$"):
        SpecDecConfig(**options)
