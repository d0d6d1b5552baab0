"""GGUF files made into plain checkpoints, once: transformers runs packed blocks several times slower than bfloat16."""

from __future__ import annotations

import sys
from pathlib import Path

from suite.errors import UserError
from suite.models.quiet import quiet
from suite.paths import build_once, cache_dir


def dequantized(gguf: Path, key: str) -> Path:
    """A folder in the user cache with the weights of `gguf` in bfloat16 (safetensors), config and tokenizer.

    Args:
        gguf: the file.
        key: what tells this content from any other of the same name, such as a checksum.

    Raises:
        UserError: transformers does not know the file's architecture, or the file is damaged.
    """
    return build_once(cache_dir() / "models" / f"{gguf.stem}-{key}", lambda folder: _convert(gguf, folder))


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print(f"Unpacking {gguf.name} to bfloat16, once.", file=sys.stderr, flush=True)
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,  # the blocks' scales are applied in full precision and rounded once
                local_files_only=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    except (ValueError, KeyError, IndexError, OSError, NotImplementedError) as error:
        raise UserError(f"{gguf}: transformers cannot read this GGUF file ({error}).") from error
    with quiet():
        model.bfloat16().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
