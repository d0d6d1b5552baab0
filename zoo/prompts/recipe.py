"""Record what the cloud model itself answers: `greedy.jsonl`, the reference of the `agreement` metric.

    python -m zoo build prompts      about 5 minutes on 2 cores

The cloud's greedy text in float32 by transformers' own `generate`, so that neither our loop nor a 16-bit rounding has
a part in it. The prompts themselves are written by hand and have no recipe.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from edgecloud.data import encode, read_prompts
from suite.hardware.profile import HardwareConfig
from suite.models.loading import load
from suite.models.plan import Placement
from zoo.smol_draft.recipe import donor

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
NEW_TOKENS = 64


def build(workdir: Path, *, quick: bool) -> None:
    """Answer every prompt (two with `quick`, into the work folder only)."""
    loaded = load(donor(), placement=Placement(), hardware=HardwareConfig(dtype="float32"))
    end = loaded.tokenizer.eos_token_id
    rows = []
    for sample in read_prompts(HERE / "prompts.jsonl", 2 if quick else None):
        ids = torch.tensor([encode(sample, loaded.tokenizer)])
        out = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=end
        )
        tokens = out[0, ids.shape[1] :].tolist()
        rows.append({"id": sample.id, "ended": tokens[-1] == end, "tokens": tokens, "model_sha256": loaded.spec.sha256})
        log.info("%s: %d tokens", sample.id, len(tokens))
    target = workdir if quick else HERE
    target.mkdir(parents=True, exist_ok=True)
    (target / "greedy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
