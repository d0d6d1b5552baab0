"""Texts as unit vectors, each computed once for all: an encoder of transformers and a store of what it said.

Masked mean pooling over the last layer, then L2: how sentence-transformers' MiniLM was trained (Reimers and Gurevych
2019, arXiv:1908.10084, section 3). A model trained otherwise (pooled at [CLS] or at the last token, or with an
instruction before the text) runs, and retrieves worse than it could. torch is imported with the first text that is new.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from suite.config import RunConfig
from suite.errors import UserError
from suite.models.revision import revision
from suite.paths import cache_dir

log = logging.getLogger(__name__)
Vectors = npt.NDArray[np.float32]
BATCH = 64
WAIT_S = 60.0
"""How long to wait for another process that is writing vectors."""
KEPT = 512
"""Texts whose vectors are stored together."""
LOOKED_UP = 500
"""Keys of one SQL statement."""


class Embedder:
    """Vectors of texts, from the store where it has them, else from the model `models.embedder`.

    Attributes:
        identity: what decides a vector besides the text.
    """

    def __init__(self, config: RunConfig, folder: Path | None = None) -> None:
        """Look at nothing yet but which model it is.

        Args:
            config: gives models.embedder, and where it runs.
            folder: of the stores; None: in the user cache.

        Raises:
            UserError: there is no such model.
        """
        if "embedder" not in config.models:
            raise UserError(
                "models.embedder is not configured; task.retriever=chroma and exact need it. "
                "Give models.embedder.source and .id, or set task.retriever=bm25."
            )
        self._config = config
        self._spec = config.models["embedder"]
        # 16 bits would save milliseconds and change the order of near neighbours.
        self._dtype = "float32" if self._spec.dtype == "auto" else self._spec.dtype
        self.identity: dict[str, Any] = {
            "model": self._spec.id,
            "revision": revision(self._spec),
            "dtype": self._dtype,
            "pooling": "mean",
        }
        name = hashlib.sha256(repr(sorted(self.identity.items())).encode()).hexdigest()[:16]
        self._store = (folder or cache_dir() / "argo" / "embeddings") / f"{name}.sqlite"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (len(texts), width) in float32, those of equal texts equal.

        Raises:
            UserError: the model cannot be loaded, or the store cannot be written.
        """
        unique = list(dict.fromkeys(texts))
        with self._opened() as store:
            found = _stored(store, unique)
            missing = [text for text in unique if text not in found]
            for start in range(0, len(missing), KEPT):  # so that a run that is killed loses little
                some = missing[start : start + KEPT]
                if len(missing) > KEPT:
                    log.info("vectors: %d of %d texts", start, len(missing))
                rows = zip(some, self._computed(some), strict=True)
                with store:
                    # What another process has stored meanwhile stands.
                    store.executemany(
                        "INSERT OR IGNORE INTO vectors VALUES (?, ?)",
                        [(_key(text), row.tobytes()) for text, row in rows],
                    )
                found |= _stored(store, some)
        return np.stack([found[text] for text in texts]) if texts else np.zeros((0, 0), np.float32)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with suppress(OSError):  # the next line says it better
            self._store.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(self._store, timeout=WAIT_S)) as store:
                store.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
                yield store
        except sqlite3.Error as error:
            raise UserError(
                f"the store of embeddings {self._store} cannot be used ({error}); set EDGEBENCH_CACHE to a folder with "
                "space, or delete this file: it is made again."
            ) from error

    def _computed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (len(texts), width) from the model; texts of like length share a batch."""
        import torch

        from suite.models.loading import load, place

        hardware = replace(self._config.hardware, dtype="float32")
        placement = place(self._spec, hardware=hardware, gpu_mode=self._config.gpu_mode).replicas[0]
        loaded = load(self._spec, placement=placement, hardware=hardware, architecture="AutoModel")
        # Many saved tokenizers carry no limit (1e30), which the tokenizer's Rust side cannot hold.
        longest = min(loaded.tokenizer.model_max_length, loaded.model.config.max_position_embeddings)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        rows: dict[int, Vectors] = {}
        for start in range(0, len(order), BATCH):
            group = order[start : start + BATCH]
            inputs = loaded.tokenizer(
                [texts[index] for index in group],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(loaded.device)
            with torch.inference_mode():
                hidden = loaded.model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][..., None].float()
            means = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
            unit = torch.nn.functional.normalize(means, dim=1).cpu().numpy()
            rows.update(zip(group, unit, strict=True))
        return np.stack([rows[index] for index in range(len(texts))])


def _stored(store: sqlite3.Connection, texts: Sequence[str]) -> dict[str, Vectors]:
    """The vectors (width,) of those texts that the store has."""
    by_key = {_key(text): text for text in texts}
    found: dict[str, Vectors] = {}
    keys = list(by_key)
    for start in range(0, len(keys), LOOKED_UP):
        some = keys[start : start + LOOKED_UP]
        marks = ",".join("?" * len(some))
        for key, vector in store.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", some):
            found[by_key[key]] = np.frombuffer(vector, np.float32)
    return found


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=20).digest()
