"""Rebuild `zoo/omni_tiny`: synthesise clips, train both thinkers, pack the held-out clips, measure with the suite.

    python -m zoo build omni_tiny           about 85 minutes on 2 cores; no GPU was tried; killed, it goes on
    python -m zoo build omni_tiny --quick   the same steps in miniature, into the work folder only

Needs espeak-ng (`apt install espeak-ng`). The steps are corpus.py (speech.py, captions.py), train.py and clips.py; a
third model, `deaf`, is trained like the edge on silence: what captions are worth without the audio.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from suite.config import CONF
from suite.errors import UserError
from suite.hardware.machine import allowed_cores
from suite.models.spec import ModelConfig
from zoo.omni_tiny import card, clips, corpus, greedy, model, train

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
CLIPS = {"train": 40_000, "test": 600}
SHIPPED = 160
SCHEDULES = {
    "cloud": train.Schedule(ears=2500, whole=2200, peak_lr=1.5e-3),
    "edge": train.Schedule(ears=600, whole=1000, peak_lr=2e-3),
    "deaf": train.Schedule(ears=0, whole=800, peak_lr=2e-3),
}


def fit(name: str, workdir: Path, target: Path, schedule: train.Schedule, count: int) -> list[dict[str, float]]:
    """Train one model, or what is left of it, on the GPU or one core; stored in bfloat16. Returns its curve."""
    from transformers import AutoTokenizer

    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {name} %(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(workdir / "ears")
    mels, labels = corpus.read(workdir / "features", "train", count)
    thinker = model.new("cloud" if name == "cloud" else "edge", tokenizer)
    thinker.to("cuda" if torch.cuda.is_available() else "cpu")
    curve = train.train(thinker, tokenizer, mels, labels, schedule, workdir / f"{name}.pt", deaf=name == "deaf")
    thinker.generation_config.eos_token_id = tokenizer.eos_token_id
    thinker.generation_config.pad_token_id = tokenizer.pad_token_id
    thinker.to("cpu", torch.bfloat16).save_pretrained(target)
    model.save_processor(tokenizer, target)
    return curve


def measure(workdir: Path, target: Path, manifest: Path) -> None:
    """Caption the clips of a manifest with every model; the tables go to `<run>.csv` in the work folder."""
    common = ["task=specdec", "models=omni_tiny", "dataset=voices", f"dataset.path={manifest}"]
    common += ["dataset.language=chinese,english", "dataset.caption_type=original,audio_only"]
    common += [f"models.{role}.source=path" for role in ("edge", "cloud")] + [f"models.cloud.id={target / 'cloud'}"]
    runs = {
        "pair": ["task.method=cloud,edge", f"models.edge.id={target / 'edge'}"],
        "lossless": ["task.gate=always", "task.verification=lossless", f"models.edge.id={target / 'edge'}"],
        "deaf": ["task.method=edge", f"models.edge.id={workdir / 'deaf'}"],
    }
    for run, overrides in runs.items():
        folder = workdir / f"measured-{run}"
        command = [sys.executable, "launch.py", "-m", *common, *overrides, f"hydra.sweep.dir={folder}"]
        subprocess.run(command, check=True, cwd=CONF.parent)
        shutil.copy(folder / "table.csv", workdir / f"{run}.csv")


def build(workdir: Path, *, quick: bool) -> None:
    """Run every step that is not done yet; see the module's docstring."""
    if shutil.which("espeak-ng") is None:
        raise UserError("The recipe of omni_tiny needs espeak-ng on the PATH; install it (apt install espeak-ng).")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    target = workdir / "quick" if quick else HERE
    counts = {"train": 320, "test": 16} if quick else CLIPS
    schedules = dict.fromkeys(SCHEDULES, train.Schedule(ears=4, whole=4, peak_lr=1e-3)) if quick else SCHEDULES
    model.save_processor(model.tokenizer(), workdir / "ears")
    corpus.write(workdir / "features", "train", counts["train"], workdir / "ears")
    # one model a core: two threads on one of them gain less
    with ProcessPoolExecutor(min(2, allowed_cores()), mp_context=get_context("spawn")) as pool:
        jobs: dict[str, Any] = {}
        for name, schedule in schedules.items():
            folder = workdir / name if name == "deaf" else target / name
            jobs[name] = pool.submit(fit, name, workdir, folder, schedule, counts["train"])
        curves = {name: job.result() for name, job in jobs.items()}
    (target / "curves.json").write_text(json.dumps(curves, indent=1) + "\n")
    clips.write(target / "clips", min(SHIPPED, counts["test"]))
    quick_cloud = ModelConfig(source="path", id=str(target / "cloud"))
    greedy.write(quick_cloud if quick else ModelConfig(source="zoo", id="omni_tiny/cloud"), target / "clips")
    measure(workdir, target, clips.write(workdir / "test", counts["test"]))
    if not quick:
        card.write(HERE, workdir, HERE / "CARD.md")
