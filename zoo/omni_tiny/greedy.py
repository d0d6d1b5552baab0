"""Record what the cloud itself says of each shipped clip: `greedy.jsonl`, the reference of the metric `agreement`.

Its greedy text in float32 by transformers' own `generate`, so that neither our loop nor a rounding has a part in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from edgecloud.audio import read_clip
from edgecloud.instructions import instruction
from edgecloud.manifest import read_manifest
from edgecloud.omni import AudioProcessor, audio_prompt
from suite.models.revision import revision
from suite.models.sources import located
from suite.models.spec import ModelConfig
from zoo.omni_tiny.model import ASKED

NEW_TOKENS = 64


def write(cloud: ModelConfig, clips: Path) -> None:
    """Caption every clip of the folder `clips` by every instruction."""
    from transformers import AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration

    folder = located(cloud)
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AudioProcessor.load(folder, AutoTokenizer.from_pretrained(folder))
    manifest = read_manifest(clips / "manifest.json")
    with (clips / "greedy.jsonl").open("w", encoding="utf-8") as file:
        for item in manifest.items:
            wave = read_clip(manifest.clip(item))
            for key in ASKED:
                row = {"id": item.id, **dict(zip(("caption_type", "language", "prompt_type"), key, strict=True))}
                row |= _caption(model, processor, wave, instruction(*key)) | {"model_sha256": revision(cloud)}
                file.write(json.dumps(row) + "\n")


@torch.inference_mode()
def _caption(model: Any, processor: AudioProcessor, wave: Any, text: str) -> dict[str, Any]:
    prompt = audio_prompt(processor, wave, text)
    ids = torch.tensor([prompt.tokens])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **(prompt.audio or {}), max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )  # fmt: skip
    tokens = out[0, ids.shape[1] :].tolist()
    return {"tokens": tokens, "ended": tokens[-1] == model.generation_config.eos_token_id}
