"""Loading Qwen2.5-Omni checkpoints as a hub holds them: the thinker, and of a whole Omni the thinker alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

from suite.errors import UserError
from suite.hardware.profile import HardwareConfig
from suite.models import sources
from suite.models.loading import Loaded, keep_only, load
from suite.models.plan import Placement
from suite.models.quiet import quiet
from suite.models.spec import ModelConfig
from tests.tiny import CHAT, IDS, SHAPE, save_thinker, thinker

TALKER: dict[str, Any] = SHAPE | {
    "vocab_size": 48,
    "embedding_size": 24,
    "head_dim": 6,
    "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 1]},
}
TOKEN2WAV: dict[str, Any] = {
    "dit_config": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "emb_dim": 8,
        "mel_dim": 8,
        "num_embeds": 9,
        "enc_emb_dim": 8,
        "enc_dim": 8,
        "enc_channels": [8, 8, 8, 8, 24],
        "enc_attention_channels": 4,
        "enc_res2net_scale": 2,
        "enc_se_channels": 4,
    },
    "bigvgan_config": {
        "mel_dim": 8,
        "upsample_initial_channel": 16,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
        "upsample_rates": [2, 2],
        "upsample_kernel_sizes": [4, 4],
    },
}


def loaded(folder: Path) -> Loaded:
    keep_only()
    spec = ModelConfig(source="path", id=str(folder))
    return load(spec, placement=Placement(), hardware=HardwareConfig(dtype="float32"))


def assert_is(model: Any, original: Any) -> None:
    assert type(model) is type(original)
    found, expected = model.state_dict(), original.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_a_thinker_is_known_by_its_config(tmp_path: Path) -> None:
    original = thinker(3)
    one = loaded(save_thinker(tmp_path / "tiny", original))
    assert_is(one.model, original)
    assert (one.folder, one.tokenizer.audio_token_id) == (tmp_path / "tiny", IDS["audio_token"])
    assert not one.model.training
    assert not any(weight.requires_grad for weight in one.model.parameters())


def test_of_a_whole_omni_the_thinker_alone_is_made_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = thinker(3)
    with quiet():
        whole = Qwen2_5OmniForConditionalGeneration(
            Qwen2_5OmniConfig(
                thinker_config=original.config.to_dict(), talker_config=TALKER, token2wav_config=TOKEN2WAV
            )
        )
        whole.thinker.load_state_dict(original.state_dict())
    folder = save_thinker(tmp_path / "omni", whole)
    assert sources.read_config(folder)["model_type"] == "qwen2_5_omni"
    assert sources.weights_gb(folder, 4.0) == pytest.approx(original.num_parameters() * 4e-9)

    def fail(self: Any, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{type(self).__name__} was made")

    for part in (whole, whole.talker, whole.token2wav):
        monkeypatch.setattr(type(part), "__init__", fail)
    one = loaded(folder)
    assert_is(one.model, original)
    assert one.parameters == original.num_parameters()


def test_chat_template_in_a_file_of_its_own_is_found(tmp_path: Path) -> None:
    """Where the published Omni keeps it; without it a question would go to the model as bare text."""
    folder = save_thinker(tmp_path / "tiny", thinker(1))
    (folder / "chat_template.jinja").unlink()
    assert loaded(folder).tokenizer.chat_template is None
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT}))
    assert loaded(folder).tokenizer.chat_template == CHAT
    (folder / "chat_template.json").write_text("{")
    with pytest.raises(UserError, match=r"chat_template\.json is not valid JSON"):
        loaded(folder)
