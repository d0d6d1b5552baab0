"""Rebuild `zoo/smol_draft`: the teacher writes its text, its blocks learn from it, the result is stored and measured.

    python -m zoo build smol_draft           about 100 minutes on 2 cores; killed, it goes on where it was
    python -m zoo build smol_draft --quick   the same steps in miniature, into the work folder only

The steps are corpus.py (teacher.py, requests.py), train.py, and the export below.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from suite.config import CONF
from suite.hardware.machine import allowed_cores
from suite.hardware.profile import HardwareConfig
from suite.models.loading import Loaded, load
from suite.models.plan import Placement
from suite.models.short_head import ShortHeadConfig, ShortHeadLlama
from suite.models.spec import ModelConfig
from zoo.smol_draft import corpus, train
from zoo.smol_draft.teacher import Teacher

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
SHARDS, HELD_OUT = 34, 2  # the last shards are kept out of training


def teacher_model(dtype: str) -> Loaded:
    """The cloud model of the embedded pair."""
    return load(donor(), placement=Placement(), hardware=HardwareConfig(dtype=dtype))


def donor() -> ModelConfig:
    """The teacher, as conf/models/smollm2.yaml names it."""
    from omegaconf import OmegaConf

    return ModelConfig(**OmegaConf.to_container(OmegaConf.load(CONF / "models" / "smollm2.yaml").cloud))


def write_shards(folder: Path, first: int, step: int, shards: int) -> None:
    """One worker's share of the corpus, on one core."""
    torch.set_num_threads(1)
    loaded = teacher_model("bfloat16")
    teacher = Teacher(loaded.model, corpus.ROWS, corpus.LENGTH)
    for index in range(first, shards, step):
        corpus.write_shard(teacher, loaded.tokenizer, folder, index)
        log.info("shard %d of %d is written", index, shards)


def export(draft: Any, head_ids: np.ndarray, folder: Path) -> None:
    """Store the draft's own blocks (bfloat16); embeddings come from the teacher when it is loaded."""
    spec = donor()
    base = {k: v for k, v in draft.config.to_dict().items() if k not in ("model_type", "architectures", "dtype")}
    config = ShortHeadConfig(
        **base | {"tie_word_embeddings": False},
        num_head_tokens=len(head_ids),
        donor={"source": spec.source, "id": spec.id, "file": spec.file, "sha256": spec.sha256},
        donor_width=draft.config.hidden_size,
        head_from_donor=True,
    )
    model = ShortHeadLlama(config)
    state = {k: v for k, v in draft.state_dict().items() if k.startswith(("model.layers.", "model.norm."))}
    model.load_state_dict(state, strict=False)
    model.lm_head.head_ids.copy_(torch.from_numpy(head_ids))
    model.to(torch.bfloat16).save_pretrained(folder)


def build(workdir: Path, *, quick: bool) -> None:
    """Run every step that is not done yet; see the module's docstring."""
    shards, epochs = (4, 1) if quick else (SHARDS, train.EPOCHS)
    folder = workdir / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    # an even number of workers keeps a shard and the one it takes passages from with one worker
    workers = max(1, allowed_cores() // 2 * 2)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(write_shards, folder, i, workers, shards) for i in range(workers)]:
            done.result()

    loaded = teacher_model("float32")
    _, bridge = corpus.opening(loaded.tokenizer)
    paths = [folder / f"{i:05d}.npz" for i in range(shards)]
    text, held_out = train.read(paths[:-HELD_OUT], bridge), train.read(paths[-HELD_OUT:], bridge)
    head_ids = train.common_tokens(text, special=[loaded.tokenizer.eos_token_id])
    checkpoint = workdir / "checkpoint.pt"
    draft, curve = train.train(loaded.model, text, held_out, head_ids, checkpoint, epochs)
    target = workdir / "quick" if quick else HERE
    export(draft, head_ids, target)
    figures = {
        "blocks": list(train.BLOCKS),
        "head_tokens": len(head_ids),
        "teacher_tokens": int(text.written.sum()),
        "epochs": epochs,
        "agreement_held_out": curve[-1]["held_out"],
        "curve": curve,
    }
    (target / "training.json").write_text(json.dumps(figures, indent=1) + "\n")
    log.info("stored in %s; agreement with the teacher's next token, held out: %.3f", target, curve[-1]["held_out"])
