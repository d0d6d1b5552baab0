"""Grow the trees of many questions at once, a frontier at a time: one batch of sub-queries, one search, one of answers.

Every reply goes into the store before the next batch starts, so a kill costs one batch, and a call that is in the store
is never made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Self

from argo import prompts
from argo.calls import Call, Engine, Failure, Keys, Reply
from argo.corpus import Passage
from argo.prompts import Note
from argo.retrieve import Hit, Retriever
from argo.schema import ArgoConfig
from argo.store import CallStore
from argo.tree import Node, Tree, Want

Place = tuple[Tree, str]
Take = Callable[[Reply], None]


class Frontier:
    """What grows trees; a context, in which it holds the store's writing lock from the first call it has to make.

    Attributes:
        made: model calls made.
        found: model calls that the store, or another path with the same prompt, had answered.
    """

    def __init__(
        self,
        *,
        task: ArgoConfig,
        engine: Engine,
        retriever: Retriever,
        passages: Mapping[str, Passage],
        store: CallStore | None,
        advance: Callable[[int], None] = lambda calls: None,
    ) -> None:
        """See the attributes; without a store every call is made. `advance` is told how many more are answered."""
        self.task, self.engine, self.retriever, self.passages, self.store = task, engine, retriever, passages, store
        self.advance = advance
        self.keys = Keys(engine.identity, task.replicate)
        self.likelihood = task.answering == "likelihood"
        self.made = self.found = 0
        self._writing, self._is_writer = ExitStack(), False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writing.close()

    def grow(self, wants: Sequence[tuple[Tree, Want]]) -> None:
        """Make every tree hold what is wanted of it; a call that fails costs the paths that lead through it."""
        self._sort([tree for tree, want in wants if want.sort])
        levels = [(tree, want.paths(), want.asks) for tree, want in wants]
        depth = max((len(path) for _, paths, _ in levels for path in paths), default=0)
        for length in range(depth + 1):
            leaving, reaching = [], []
            for tree, paths, asks in levels:
                here = [path for path in sorted(paths) if len(path) == length and path in tree.nodes]
                leaving += [(tree, p) for p in here if p in asks or any(p + step in paths for step in "RPF")]
                reaching += [(tree, p + step) for p in here for step in "RPF" if p + step in paths]
            self._decompose(leaving)
            self._search(leaving)
            self._step(reaching)
        self._finish([(tree, path) for tree, want in wants for path in sorted(want.ends) if path in tree.nodes])

    def _sort(self, trees: Sequence[Tree]) -> None:
        asked = []
        for tree in trees:
            if tree.sort is None:
                call = prompts.sort(tree.question, likelihood=self.likelihood)
                asked.append((tree, "difficulty", "", call, partial(setattr, tree, "sort")))
        self._ask(asked)

    def _decompose(self, places: Sequence[Place]) -> None:
        asked = []
        for tree, path in places:
            node = tree.nodes[path]
            if node.query is None:
                raw = self.task.prompt_format == "mixed"
                call = prompts.decompose(tree.question, node.notes, self.task.max_new_tokens, raw=raw)
                asked.append((tree, "query", path, call, partial(setattr, node, "query")))
        self._ask(asked)

    def _search(self, places: Sequence[Place]) -> None:
        """Give every node the passages that a retrieval from there hands on: the best ones not seen yet."""
        nodes = [(tree.question, tree.nodes[path]) for tree, path in places]
        todo = [(question, node) for question, node in nodes if node.query is not None and node.similarity is None]
        # a small decomposer drifts, so the question itself is part of the query
        queries = [f"{question.question} {node.query.text}".strip() for question, node in todo if node.query]
        for (_, node), hits in zip(
            todo, self._hits(queries, [len(node.seen) + self.task.top_k for _, node in todo]), strict=True
        ):
            fresh = [hit for hit in hits if hit.id not in node.seen][: self.task.top_k]
            node.found = tuple(hit.id for hit in fresh)
            node.similarity = fresh[0].score if fresh else float("-inf")

    def _step(self, places: Sequence[Place]) -> None:
        """Reach nodes from their parents, whose sub-queries are answered on the way."""
        asked = []
        for tree, path in places:
            parent = tree.nodes[path[:-1]]
            if path in tree.nodes or parent.query is None:
                continue
            if path[-1] == "F":
                seen = parent.seen + parent.found
                tree.nodes[path] = replace(parent, handed=(), seen=seen, similarity=None, final=None, dropped=0)
                continue
            handed = parent.found if path[-1] == "R" else ()
            make = partial(prompts.reason, parent.query.text, max_new_tokens=self.task.max_new_tokens)
            call, dropped = self._fit(make, handed)
            asked.append((tree, "step", path, call, partial(self._reach, tree, path, handed, dropped)))
        self._ask(asked)

    def _reach(self, tree: Tree, path: str, handed: tuple[str, ...], dropped: int, reply: Reply) -> None:
        parent = tree.nodes[path[:-1]]
        assert parent.query is not None
        tree.nodes[path] = Node(
            handed=handed,
            passages=parent.passages + handed,
            seen=parent.seen + handed,
            notes=(*parent.notes, Note(query=parent.query.text, answer=reply.text, read=bool(handed))),
            spent=parent.spent.plus(parent.query).plus(reply, dropped),
        )

    def _finish(self, places: Sequence[Place]) -> None:
        asked = []
        for tree, path in places:
            node = tree.nodes[path]
            if node.final is None:
                make = partial(
                    prompts.synthesize,
                    tree.question,
                    node.notes,
                    likelihood=self.likelihood,
                    max_new_tokens=self.task.max_new_tokens,
                )
                call, node.dropped = self._fit(make, node.passages)
                asked.append((tree, "final", path, call, partial(setattr, node, "final")))
        self._ask(asked)

    def _fit(self, make: Callable[[Sequence[Passage]], Call], names: Sequence[str]) -> tuple[Call, int]:
        shown = [self.passages[name] for name in names]
        return prompts.fit(make, shown, self.engine.window, self.engine.tokens)

    def _ask(self, asked: Sequence[tuple[Tree, str, str, Call, Take]]) -> None:
        """Have calls answered, by the store where it can, and hand each reply to whoever asked."""
        waiting: dict[str, list[tuple[Tree, str, str, Call, Take]]] = {}
        for one in asked:
            waiting.setdefault(self.keys(one[3]), []).append(one)
        known = {} if self.store is None else self.store.get(list(waiting))
        for key, body in known.items():
            self._answer(waiting[key], _reply(body))
        # of like length, so that batches waste little on padding
        missing = [key for key in waiting if key not in known]
        if missing and self._begin_writing():  # another launch may have answered them while this one waited
            late = self.store.get(missing) if self.store is not None else {}
            for key, body in late.items():
                self._answer(waiting[key], _reply(body))
            missing = [key for key in missing if key not in late]
        todo = sorted(missing, key=lambda key: len(waiting[key][0][3].prompt))
        for start in range(0, len(todo), self.engine.batch):
            batch = todo[start : start + self.engine.batch]
            replies = dict(zip(batch, self.engine.answer([waiting[key][0][3] for key in batch]), strict=True))
            good = {key: reply for key, reply in replies.items() if isinstance(reply, Reply)}
            if self.store is not None:
                stored = self._keep("reply", {key: asdict(reply) for key, reply in good.items()})
                good = {key: _reply(body) for key, body in stored.items()}
            self.made += len(batch)
            self.found -= len(batch)
            for key in batch:
                self._answer(waiting[key], good.get(key, replies[key]))

    def _begin_writing(self) -> bool:
        """Become the launch that makes calls for this store, if it is not yet; whether it became so now."""
        if self.store is None or self._is_writer:
            return False
        self._writing.enter_context(self.store.writing())
        self._is_writer = True
        return True

    def _answer(self, asked: Sequence[tuple[Tree, str, str, Call, Take]], reply: Reply | Failure) -> None:
        for tree, kind, path, _, take in asked:
            if isinstance(reply, Failure):
                tree.failed[kind, path] = reply.error
            else:
                take(reply)
        self.found += len(asked)
        self.advance(len(asked))

    def _hits(self, queries: Sequence[str], depths: Sequence[int]) -> list[list[Hit]]:
        """At least `depths[i]` hits for each query, from the store where it has them."""
        step = 4 * self.task.top_k  # few different depths, so that the same search is found again
        deep = [min(-(-depth // step) * step, len(self.passages)) for depth in depths]
        marks = [self._mark(query, depth) for query, depth in zip(queries, deep, strict=True)]
        known = {} if self.store is None else self.store.get(list(dict.fromkeys(marks)))
        for depth in sorted(set(deep)):
            missing = {m: q for m, q, d in zip(marks, queries, deep, strict=True) if d == depth and m not in known}
            if missing:
                found = self.retriever.search(list(missing.values()), depth)
                rows = {m: {"hits": [asdict(hit) for hit in hits]} for m, hits in zip(missing, found, strict=True)}
                known |= rows if self.store is None else self._keep("hits", rows)
        return [[Hit(**hit) for hit in known[mark]["hits"]] for mark in marks]

    def _mark(self, query: str, depth: int) -> str:
        told = json.dumps([self.retriever.identity, query, depth], sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(told.encode(), digest_size=20).hexdigest()

    def _keep(self, kind: str, rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Store, and take what is stored: another launch may have been first."""
        assert self.store is not None
        self.store.put([(key, kind, body) for key, body in rows.items()])
        return self.store.get(list(rows))


def _reply(body: dict[str, Any]) -> Reply:
    scores = body["scores"]
    return Reply(**body | {"scores": None if scores is None else tuple(scores)})
