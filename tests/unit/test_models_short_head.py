"""The draft with a borrowed embedding and a short head, at a tiny scale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from suite.errors import UserError
from suite.models.quiet import quiet
from suite.models.short_head import ShortHeadConfig, ShortHeadLlama

VOCAB, WIDTH, HEAD = 97, 32, 10
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 2,
}
PROMPT = torch.tensor([[1, 5, 7]])
KINDS = [pytest.param(16, False, id="projected"), pytest.param(WIDTH, True, id="donor-head"),
         pytest.param(WIDTH, False, id="own-head")]  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    torch.manual_seed(0)
    with quiet():
        yield


@pytest.fixture
def donor(tmp_path: Path) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, hidden_size=WIDTH, tie_word_embeddings=True))
    model.save_pretrained(tmp_path / "donor")
    return model


def draft(tmp_path: Path, donor: LlamaForCausalLM, width: int, head_from_donor: bool) -> ShortHeadLlama:
    config = ShortHeadConfig(
        **SHAPE,
        hidden_size=width,
        num_head_tokens=HEAD,
        donor={"source": "path", "id": str(tmp_path / "donor")},
        donor_width=WIDTH,
        head_from_donor=head_from_donor,
    )
    model = ShortHeadLlama(config)
    model.head_ids.copy_(torch.randperm(VOCAB)[:HEAD])
    model.adopt(donor.model.embed_tokens.weight)
    model.save_pretrained(tmp_path / "draft")
    return model.eval()


@pytest.mark.parametrize(("width", "head_from_donor"), KINDS)
def test_round_trip_stores_nothing_of_the_donor(
    tmp_path: Path, donor: LlamaForCausalLM, width: int, head_from_donor: bool
) -> None:
    made = draft(tmp_path, donor, width, head_from_donor)
    with safe_open(tmp_path / "draft" / "model.safetensors", "pt") as file:
        stored = set(file.keys())
    assert "model.embed_tokens.weight" not in stored
    assert ("lm_head.weight" in stored) is not head_from_donor
    assert ("embed_project" in stored) is (width != WIDTH)

    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "draft", output_loading_info=True)
    assert type(loaded) is ShortHeadLlama
    assert not any(info.values())
    before, after = made.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert torch.equal(made(PROMPT).logits, loaded(PROMPT).logits)


def test_embedding_is_the_donors_projected(tmp_path: Path, donor: LlamaForCausalLM) -> None:
    made = draft(tmp_path, donor, 16, False)
    assert made.embed_project is not None
    expected = donor.model.embed_tokens.weight @ made.embed_project
    assert torch.equal(made.model.embed_tokens.weight, expected)


def test_donor_head_rows(tmp_path: Path, donor: LlamaForCausalLM) -> None:
    made = draft(tmp_path, donor, WIDTH, True)
    assert torch.equal(made.compact_head, donor.model.embed_tokens.weight[made.head_ids])


@pytest.mark.parametrize(("width", "head_from_donor"), KINDS)
def test_logits_are_minus_infinity_exactly_outside_the_head(
    tmp_path: Path, donor: LlamaForCausalLM, width: int, head_from_donor: bool
) -> None:
    made = draft(tmp_path, donor, width, head_from_donor)
    logits = made(PROMPT).logits
    assert logits.shape == (1, 3, VOCAB)
    outside = torch.ones(VOCAB, dtype=torch.bool)
    outside[made.head_ids] = False
    assert (logits[..., outside] == float("-inf")).all()
    hidden = made.model(PROMPT).last_hidden_state
    torch.testing.assert_close(logits[..., made.head_ids], hidden @ made.compact_head.T)  # in the order of head_ids


def test_loads_in_another_precision(tmp_path: Path, donor: LlamaForCausalLM) -> None:
    draft(tmp_path, donor, 16, False)
    loaded = ShortHeadLlama.from_pretrained(tmp_path / "draft", dtype=torch.bfloat16)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    assert loaded.head_ids.dtype == torch.int64


@pytest.mark.parametrize(("width", "head_from_donor"), KINDS)
def test_generates_and_assists(tmp_path: Path, donor: LlamaForCausalLM, width: int, head_from_donor: bool) -> None:
    made = draft(tmp_path, donor, width, head_from_donor)
    options: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": None}
    alone = made.generate(PROMPT, do_sample=False, **options)
    assert set(alone[0, 3:].tolist()) <= set(made.head_ids.tolist())
    plain = donor.generate(PROMPT, do_sample=False, **options)
    assert torch.equal(donor.generate(PROMPT, assistant_model=made, do_sample=False, **options), plain)
    assert donor.generate(PROMPT, assistant_model=made, do_sample=True, **options).shape == plain.shape


def test_donor_without_an_embedding(tmp_path: Path, donor: LlamaForCausalLM) -> None:
    from safetensors.torch import save_file

    draft(tmp_path, donor, 16, False)
    save_file({"something": torch.zeros(1)}, tmp_path / "donor" / "model.safetensors")
    with pytest.raises(UserError, match="cannot be the donor"):
        ShortHeadLlama.from_pretrained(tmp_path / "draft")
