"""Passages in a Chroma database on disk: built once per corpus and embedder, then only read.

The folder's name is the content: a corpus that changed, another embedder or another Chroma has another index, and none
is ever written again, since two processes that write one Chroma database destroy it (measured with 1.5.9). Chroma has
no mode that only reads, so the folder must be writable; this class has no method that writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.config import Settings
from chromadb.errors import ChromaError

from argo.corpus import Passage, corpus_sha256
from argo.embed import Embedder
from argo.retrieve import Hit, best, by_id
from suite.errors import UserError
from suite.paths import build_once, cache_dir

log = logging.getLogger(__name__)
COLLECTION = "passages"
HNSW = {"space": "cosine", "ef_construction": 400, "ef_search": 400, "max_neighbors": 48}
"""The graph of neighbours (Malkov and Yashunin 2018, arXiv:1603.09320). With Chroma's own smaller figures two builds of
one corpus answer differently: 5000 random vectors, 24 of 100 queries alike; with these, all alike, and as `exact`."""


class Chroma:
    """The index of a corpus, found or built."""

    def __init__(self, passages: Iterable[Passage], embedder: Embedder, folder: Path | None = None) -> None:
        """Open the index, built first if it is missing; another process that is building it is waited for.

        Args:
            passages: the corpus.
            embedder: makes the vectors.
            folder: of all indexes; None: in the user cache.

        Raises:
            UserError: it cannot be built, or what is there is no such index.
        """
        ordered = by_id(passages)  # added in one order whatever theirs, so that the graph is the same
        self.identity: dict[str, Any] = {
            "kind": "chroma",
            "corpus_sha256": corpus_sha256(ordered),
            "embedder": embedder.identity,
            "chromadb": version("chromadb"),
            "hnsw": HNSW,
        }
        self._embedder = embedder
        name = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        target = (folder or cache_dir() / "argo" / "chroma") / name
        if not target.exists():
            log.info("no index of these %d passages yet: building it, or waiting for the launch that is", len(ordered))
        build_once(target, lambda path: _build(path, ordered, embedder))
        self._collection = _opened(target, len(ordered))
        self._size = len(ordered)

    def search(self, queries: Sequence[str], depth: int) -> list[list[Hit]]:
        """See `argo.retrieve.Retriever`."""
        if not queries:
            return []
        answer = self._collection.query(
            query_embeddings=self._embedder.embed(queries), n_results=min(depth, self._size), include=["distances"]
        )
        found = []
        for ids, distances in zip(answer["ids"], answer["distances"], strict=True):
            rows = sorted(zip(ids, distances, strict=True))
            found.append(best([name for name, _ in rows], 1.0 - np.array([far for _, far in rows]), depth))
        return found


def _build(path: Path, passages: Sequence[Passage], embedder: Embedder) -> None:
    vectors = embedder.embed([passage.indexed for passage in passages])
    with _client(path) as client:
        collection = client.create_collection(COLLECTION, embedding_function=None, configuration={"hnsw": HNSW})
        step = client.get_max_batch_size()
        for start in range(0, len(passages), step):
            ids = [passage.id for passage in passages[start : start + step]]
            collection.add(ids=ids, embeddings=vectors[start : start + step])


def _opened(path: Path, size: int) -> Any:
    """The collection, which keeps its client alive.

    Raises:
        UserError: it cannot be read, or is not whole.
    """
    try:
        collection = _client(path).get_collection(COLLECTION, embedding_function=None)
        count = collection.count()
    except (ChromaError, ValueError) as error:
        raise UserError(
            f"the index {path} cannot be opened ({error}); make the folder writable, or delete it: it is built again."
        ) from error
    if count != size:
        raise UserError(f"the index {path} holds {count} passages, not {size}; delete it: it is built again.")
    return collection


def _client(path: Path) -> Any:
    return chromadb.PersistentClient(path=str(path), settings=Settings(anonymized_telemetry=False))
