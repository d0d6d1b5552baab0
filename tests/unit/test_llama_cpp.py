"""llama.cpp as an engine: the logits of transformers, whatever was fed and dropped before. Needs llama-cpp-python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecloud import llama_cpp as engines
from edgecloud.decode import Ending, Rules, generate, speculate
from edgecloud.gates import GATES
from edgecloud.llama_cpp import LlamaCpp, bindings
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling
from edgecloud.to_gguf import write
from edgecloud.verify import VERIFIERS, Verification, in_process
from suite.errors import UserError
from tests.tiny import VOCAB, fresh_logits, llama, qwen2, related, short_head

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1}
HEAD = list(range(1, VOCAB, 3))
MODELS = {
    "llama": lambda: llama(1, **WIDE),
    "llama, tied head, wide heads": lambda: llama(4, **WIDE, head_dim=64, tie_word_embeddings=True),
    "llama, other rope base": lambda: llama(5, **WIDE, rope_parameters={"rope_type": "default", "rope_theta": 100.0}),
    "qwen2": lambda: qwen2(6, **WIDE),
}
TOKENS = torch.randint(0, VOCAB, (700,), generator=torch.Generator().manual_seed(0)).tolist()


def test_without_the_extra_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(UserError, match=r"task\.engine=llama_cpp needs llama-cpp-python.*pip install"):
        bindings()


def test_the_file_is_written_without_the_extra(tmp_path: Path) -> None:
    from gguf import GGUFReader

    model = llama(1, **WIDE)
    write(model, tmp_path / "m.gguf", "Q8_0")
    reader = GGUFReader(tmp_path / "m.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == 3 + 9 * 2
    assert tensors["blk.1.ffn_down.weight"].tensor_type.name == "Q8_0"
    assert reader.fields["llama.vocab_size"].contents() == VOCAB
    write(model, tmp_path / "exact.gguf", "F32")
    exact = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "exact.gguf").tensors}
    found = torch.from_numpy(exact["blk.0.ffn_up.weight"].data.copy())
    assert torch.equal(found, model.model.layers[0].mlp.up_proj.weight)


def engine(tmp_path: Path, model: Any) -> LlamaCpp:
    pytest.importorskip("llama_cpp")
    write(model, tmp_path / "m.gguf", "F32")
    embedding = model.get_input_embeddings().weight if hasattr(model, "compact_head") else None
    return LlamaCpp(tmp_path / "m.gguf", threads=1, embedding=embedding)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.05)  # keys and values are kept in 16 bits


@pytest.mark.parametrize("name", MODELS)
def test_equals_transformers_by_token_by_block_and_after_roll_backs(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    expected = fresh_logits(model, TOKENS[:40], keep=40)
    found = engine(tmp_path, model)
    same(found.feed(TOKENS[:7], keep=7), expected[:7])
    for i in range(7, 15):
        same(found.feed([TOKENS[i]], keep=1), expected[i : i + 1])
    same(found.feed(TOKENS[15:25], keep=4), expected[21:25])
    found.feed([3, 3, 3], keep=1)  # a refused draft
    found.rollback(25)
    same(found.feed(TOKENS[25:40], keep=15), expected[25:])
    found.rollback(11)
    same(found.feed([TOKENS[11]], keep=1), expected[11:12])
    found.rollback(0)
    same(found.feed(TOKENS[:40], keep=40), expected)


def test_long_texts_go_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "CHUNK", 16)
    model = llama(1, **WIDE)
    expected = fresh_logits(model, TOKENS[:50], keep=20)
    same(engine(tmp_path, model).feed(TOKENS[:50], keep=20), expected)
    monkeypatch.setattr(engines, "CONTEXT", 256)
    with pytest.raises(UserError, match="The text has 300 tokens, and llama.cpp's cache 256 places"):
        engine(tmp_path, model).feed(TOKENS[:300], keep=1)


def test_a_shortened_head_reads_all_tokens_and_scores_its_own(tmp_path: Path) -> None:
    model = short_head(9, HEAD, **WIDE)
    found = CachedLM(model, engine=engine(tmp_path, model))
    expected = fresh_logits(model, TOKENS[:20], keep=5)[:, HEAD]
    same(found.logits(TOKENS[:20], keep=5), expected)
    assert [found.token(column) for column in range(len(HEAD))] == HEAD


def test_speculation_on_llama_cpp_is_lossless(tmp_path: Path) -> None:
    model = llama(1, **WIDE)
    twin = related(model, 2, noise=0.1)
    (tmp_path / "edge").mkdir()
    cloud = CachedLM(model, engine=engine(tmp_path, model))
    edge = CachedLM(twin, engine=engine(tmp_path / "edge", twin))
    ending, accepted = Ending(max_new_tokens=24), 0
    for case in range(12):
        prompt = Prompt(tokens=TOKENS[case * 7 : case * 9 + 5])
        alone = generate(cloud, prompt, ending, Sampling(), Luck(0, ""), "cloud")
        parts = in_process(edge, cloud, VERIFIERS["lossless"], Verification(sampling=Sampling()))
        out = speculate(*parts, prompt, Rules(k=1 + case % 5, gate=GATES["always"], threshold=0.0), ending, Luck(0, ""))
        assert out.tokens == alone.tokens
        accepted += out.counters.accepted
    assert accepted > 50


def test_a_file_that_is_no_gguf_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    (tmp_path / "m.gguf").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"llama\.cpp cannot read .*m\.gguf"):
        LlamaCpp(tmp_path / "m.gguf", threads=1)
