"""llama.cpp as an engine: what a phone runs. GGUF weights, a cache that can be cut, logits of the last few positions.

Of llama-cpp-python only the bindings of the C functions are used. Where it has no GGUF file of a model, to_gguf.py
writes one. What this does not know: sound, and several sequences on one model.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgecloud.lean import Sound
from edgecloud.to_gguf import gguf_of
from suite.errors import UserError
from suite.models.loading import Loaded

CHUNK = 512  # positions computed in one call at most
CONTEXT = 8192  # positions of the cache at most; its memory is taken at once


class LlamaCpp:
    """An `edgecloud.lm.Engine` over a GGUF file.

    Attributes:
        file: where the weights are.
        columns: logits of a position.
        length: positions cached.
    """

    name = "llama_cpp"

    def __init__(self, file: Path, *, threads: int, embedding: Tensor | None = None) -> None:
        """Load `file`; `embedding` (vocab, width) reads the tokens where the file's own vocabulary is another.

        Raises:
            UserError: llama-cpp-python is not installed, or llama.cpp cannot read the file.
        """
        self.c = api = bindings()
        self.file, self.length, self.embedding = file, 0, embedding
        how: Any = api.llama_model_default_params()
        how.n_gpu_layers = 0
        # on virtual machines that promise AMX its kernels crash (github.com/ggml-org/llama.cpp/issues/20824)
        how.use_extra_bufts = b"AMX" not in api.llama_print_system_info()
        self.model = api.llama_model_load_from_file(str(file).encode(), how)
        if not self.model:
            raise UserError(f"llama.cpp cannot read {file}; give another GGUF file, or set task.engine=lean.")
        self.context_length = min(CONTEXT, api.llama_model_n_ctx_train(self.model))
        params: Any = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = self.context_length, CHUNK, CHUNK
        params.n_threads = params.n_threads_batch = threads
        self.context = api.llama_init_from_model(self.model, params)
        self.memory = api.llama_get_memory(self.context)
        self.columns = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        width = 0 if embedding is None else embedding.shape[1]
        self.batch: Any = api.llama_batch_init(CHUNK, width, 1)
        self.inputs = _array(self.batch.token if embedding is None else self.batch.embd, CHUNK * max(width, 1))
        self.positions = _array(self.batch.pos, CHUNK)
        self.wanted = _array(self.batch.logits, CHUNK)
        _array(self.batch.n_seq_id, CHUNK)[:] = 1
        for i in range(CHUNK):
            self.batch.seq_id[i][0] = 0

    def __del__(self) -> None:
        if hasattr(self, "batch"):
            self.c.llama_batch_free(self.batch)
            self.c.llama_free(self.context)
            self.c.llama_model_free(self.model)

    def feed(self, tokens: list[int], keep: int, sound: Sound | None = None) -> Tensor:
        """See `Engine`; logits are float32.

        Raises:
            UserError: the cache is full.
        """
        if self.length + len(tokens) > self.context_length:
            raise UserError(
                f"The text has {self.length + len(tokens)} tokens, and llama.cpp's cache {self.context_length} places; "
                "shorten the prompt."
            )
        silent = len(tokens) - keep
        rows = [self._decode(tokens[at : at + CHUNK], max(0, silent - at)) for at in range(0, len(tokens), CHUNK)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def rollback(self, length: int) -> None:
        """See `Engine`."""
        self.c.llama_memory_seq_rm(self.memory, 0, length, -1)
        self.length = length

    def _decode(self, tokens: list[int], silent: int) -> Tensor:
        """Append at most `CHUNK` tokens; logits (n - silent, columns) after all but the first `silent` of them."""
        n = len(tokens)
        self.batch.n_tokens = n
        if self.embedding is None:
            self.inputs[:n] = tokens
        else:
            embedded = self.embedding[torch.tensor(tokens)].float().flatten()
            self.inputs[: len(embedded)] = embedded.numpy()
        self.positions[:n] = np.arange(self.length, self.length + n)
        self.wanted[:n] = np.arange(n) >= silent
        if code := self.c.llama_decode(self.context, self.batch):
            raise RuntimeError(f"llama_decode returned {code} for {n} tokens at {self.length}")
        self.length += n
        kept = max(0, n - silent)
        if not kept:
            return torch.empty(0, self.columns)
        found = _array(self.c.llama_get_logits(self.context), kept * self.columns)
        return torch.from_numpy(found.reshape(kept, self.columns).copy())  # the next call overwrites it


def llama_cpp_engine(loaded: Loaded) -> LlamaCpp:
    """The engine for a model that transformers has loaded (for its tokenizer and configuration).

    Raises:
        UserError: llama-cpp-python is not installed, no file can be made, or the weights are to be packed otherwise.
    """
    if loaded.spec.quantization != "none":
        raise UserError(
            f"models.*.quantization={loaded.spec.quantization}: with task.engine=llama_cpp the GGUF file says how many "
            "bits a weight has; set it to none."
        )
    bindings()  # before a file is written for it
    short = getattr(loaded.model, "compact_head", None) is not None
    return LlamaCpp(
        gguf_of(loaded),
        threads=torch.get_num_threads(),
        # the file of a shortened head has the head's tokens alone, so what is read is given as embeddings
        embedding=loaded.model.get_input_embeddings().weight if short else None,
    )


def bindings() -> Any:
    """The module of llama-cpp-python that holds the C functions, made quiet.

    Raises:
        UserError: it is not installed.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise UserError(
            "task.engine=llama_cpp needs llama-cpp-python, which is not installed; pip install llama-cpp-python "
            "(it is compiled for minutes), or set task.engine=lean."
        ) from error
    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)  # it takes warnings for errors
    return llama_cpp.llama_cpp


def _array(pointer: Any, length: int) -> np.ndarray:
    """A C array as numpy sees it, without a copy."""
    return np.ctypeslib.as_array(pointer, (length,))
