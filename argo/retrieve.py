"""Which passages a query brings, best first: three retrievers behind one interface, and how good they are.

`exact` compares the query's vector with every passage's, `chroma` asks an approximate index of the same vectors on disk
(chroma.py), `bm25` weighs shared words. Each gives the same hits in the same order whenever it is asked: scores are
rounded before they are compared, and ties go by id. No torch here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from argo.corpus import Passage, corpus_sha256
from argo.embed import Embedder
from argo.questions import Question
from suite.config import RunConfig
from suite.errors import UserError
from suite.stats import Estimate, ratio_ci

Scores = npt.NDArray[np.floating[Any]]
DECIMALS = 6
"""Digits of a score that count: float32 sums differ in the last ones by the size of a batch."""
WORD = r"(?u)\b\w+\b"
"""A word of bm25, single letters too: the C-plane is not the U-plane."""
BLOCK = 256
"""Queries compared at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A passage found.

    Attributes:
        id: of the passage.
        score: cosine with the query; of bm25, its sum of word weights, which no other query's compares with.
    """

    id: str
    score: float


class Retriever(Protocol):
    """Something that finds passages.

    Attributes:
        identity: what decides its answers besides the query: kind, corpus, model.
    """

    identity: dict[str, Any]

    def search(self, queries: Sequence[str], depth: int) -> list[list[Hit]]:
        """The best hits of each query, best first, ties by id: `depth` of them, or all that match at all."""


class Exact:
    """Every passage's cosine with the query."""

    def __init__(self, passages: Iterable[Passage], embedder: Embedder) -> None:
        ordered = by_id(passages)
        self.identity: dict[str, Any] = {
            "kind": "exact",
            "corpus_sha256": corpus_sha256(ordered),
            "embedder": embedder.identity,
        }
        self._embedder = embedder
        self._ids = [passage.id for passage in ordered]
        self._vectors = embedder.embed([passage.indexed for passage in ordered])

    def search(self, queries: Sequence[str], depth: int) -> list[list[Hit]]:
        """See `Retriever`."""
        found: list[list[Hit]] = []
        for start in range(0, len(queries), BLOCK):
            block = self._embedder.embed(queries[start : start + BLOCK])
            found += [best(self._ids, row, depth) for row in block @ self._vectors.T]
        return found


class Bm25:
    """Shared words by rarity (Robertson and Zaragoza 2009; Lucene's variant, k1 1.5, b 0.75), through bm25s.

    English stop words are left out and words are not stemmed. A passage that shares no word with the query is no hit.
    """

    def __init__(self, passages: Iterable[Passage]) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every index
        ordered = by_id(passages)
        self.identity: dict[str, Any] = {"kind": "bm25", "corpus_sha256": corpus_sha256(ordered)}
        self._ids = [passage.id for passage in ordered]
        self._index: Any = bm25s.BM25(k1=1.5, b=0.75, method="lucene", backend="numpy")
        self._index.index(self._words([passage.indexed for passage in ordered]), show_progress=False)

    def search(self, queries: Sequence[str], depth: int) -> list[list[Hit]]:
        """See `Retriever`."""
        return [
            [hit for hit in best(self._ids, self._index.get_scores(words), depth) if hit.score > 0.0] if words else []
            for words in self._words(queries)
        ]

    @staticmethod
    def _words(texts: Sequence[str]) -> list[list[str]]:
        import bm25s

        words: list[list[str]] = bm25s.tokenize(
            list(texts), token_pattern=WORD, stopwords="english", return_ids=False, show_progress=False
        )
        return words


def open_retriever(config: RunConfig, passages: Sequence[Passage]) -> Retriever:
    """The retriever `task.retriever` over `passages`. The embedder is loaded only for texts that it has not seen.

    Raises:
        UserError: there are no passages, the embedder cannot be loaded, or the index cannot be built or read.
    """
    if not passages:
        raise UserError("there is no passage to retrieve; give a corpus with at least one (dataset.corpus).")
    kind = config.task.retriever
    if kind == "bm25":
        return Bm25(passages)
    if kind == "exact":
        return Exact(passages, Embedder(config))
    from argo.chroma import Chroma  # chromadb takes half a second to import

    return Chroma(passages, Embedder(config))


def by_id(passages: Iterable[Passage]) -> list[Passage]:
    """The passages in the order that breaks ties."""
    return sorted(passages, key=lambda passage: passage.id)


def best(ids: Sequence[str], scores: Scores, depth: int) -> list[Hit]:
    """The `depth` highest of `scores` (n,), those of `ids` in their order where scores are equal."""
    rounded = np.round(scores, DECIMALS)
    depth = min(depth, len(ids))
    least = np.partition(rounded, len(ids) - depth)[len(ids) - depth]
    candidates = np.flatnonzero(rounded >= least)
    order = candidates[np.argsort(-rounded[candidates], kind="stable")][:depth]
    return [Hit(id=ids[index], score=float(rounded[index])) for index in order]


def recall_at(k: int, retriever: Retriever, questions: Sequence[Question], *, seed: int = 0) -> Estimate:
    """Share of the supporting passages that are among the top k for the question's own words, questions resampled.

    Questions that name no supporting passage are left out; without any the share is None.
    """
    asked = [question for question in questions if question.supporting]
    if not asked:
        return Estimate(value=None, ci95=None, n=0)
    hits = retriever.search([question.question for question in asked], k)
    found = [
        float(len({hit.id for hit in top} & set(question.supporting)))
        for question, top in zip(asked, hits, strict=True)
    ]
    return ratio_ci(found, [float(len(question.supporting)) for question in asked], seed=seed, purpose="recall")
