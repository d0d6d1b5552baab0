"""Several sequences on one model, computed together: eight cost little more than one, for the weights are read once.

`LeanBatch` is the forward pass of ragged batches, `Batcher` brings threads together whose requests it can serve at
once, and `BatchedLM` hands out sequences that look like a `CachedLM` alone on its model. Each thread decodes as it
would alone; it sleeps while the others catch up. In float32 a sequence's logits are those of the single engine up to
rounding; in bfloat16 the rounding, and now and then a token, depends on who else is in the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import groupby
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecloud.lean import FIRST_LENGTH, LeanWeights, Sound, lean_supports
from edgecloud.lm import CachedLM
from suite.errors import UserError


class Feed(NamedTuple):
    """One sequence's share of a forward pass; see `edgecloud.lm.Engine.feed`."""

    slot: int
    tokens: list[int]
    keep: int
    sound: Sound | None = None


class Group(NamedTuple):
    """Sequences of one pass that are fed equally many tokens, and so attend together without padding.

    Attributes:
        rows: theirs among all rows of the pass.
        slots: theirs in the cache.
        width: tokens each is fed.
        end: positions of the longest after the pass.
        mask: added to the scores, (sequences, 1, repeats x width, end); None where all see all.
    """

    rows: slice
    slots: list[int] | slice
    width: int
    end: int
    mask: Tensor | None


class LeanBatch(LeanWeights):
    """The lean forward pass over `slots` sequences, each with its own length.

    The rows of all sequences are stacked, so the matrix products see no padding.
    """

    def __init__(self, model: Any, slots: int, bits: int | None = None) -> None:
        super().__init__(model, bits)
        self.lengths = [0] * slots
        self.weights = sum(p.numel() for p in model.parameters())
        # one row a position, so that keys and values of any slots and positions are stored in one go
        self.cache = self.embed.new_zeros(len(self.layers), 2, slots, 0, self.groups, self.dim)
        self._allocate(FIRST_LENGTH)

    def _allocate(self, length: int) -> None:
        """Make room for `length` positions a slot, keeping what is cached."""
        layers, two, slots, before = self.cache.shape[:4]
        cache = self.embed.new_zeros(layers, two, slots, length, self.groups, self.dim)
        cache[:, :, :, :before] = self.cache
        self.cache = cache
        self.rotations(length)

    def rollback(self, slot: int, length: int) -> None:
        """Drop the positions of `slot` from `length` on; the memory stays and is overwritten."""
        self.lengths[slot] = length

    def feed(self, feeds: list[Feed]) -> list[Tensor]:
        """Append tokens to several slots, each at most once; for each, logits (keep, columns) after its last `keep`."""
        order = sorted(range(len(feeds)), key=lambda i: (len(feeds[i].tokens), feeds[i].slot))
        ordered = [feeds[i] for i in order]
        while max(self.lengths[f.slot] + len(f.tokens) for f in feeds) > self.cache.shape[3]:
            self._allocate(2 * self.cache.shape[3])
        room, device = self.cache.shape[3], self.embed.device
        x = self.embedded([token for f in ordered for token in f.tokens])
        places, kept, row = list[int](), list[int](), 0
        for f in ordered:
            start = f.slot * room + self.lengths[f.slot]
            places += range(start, start + len(f.tokens))
            if f.sound is not None:
                x[[row + i for i in f.sound.at]] = f.sound.embeddings.to(x)
            row += len(f.tokens)
            kept += range(row - f.keep, row)
        place = torch.tensor(places, device=device)
        position = place % room
        groups = list(self._grouped(ordered))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.cache[layer]
            keys.flatten(0, 1).index_copy_(0, place, k)
            values.flatten(0, 1).index_copy_(0, place, v)
            parts = [self._attend(group, q[group.rows], keys, values) for group in groups]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        hidden = self.through_layers(x, self.cos[position], self.sin[position], attend)
        for f in feeds:
            self.lengths[f.slot] += len(f.tokens)
        logits = torch.split(self.logits(hidden[torch.tensor(kept, device=device)]), [f.keep for f in ordered])
        return [part for _, part in sorted(zip(order, logits, strict=True), key=lambda pair: pair[0])]

    def _grouped(self, ordered: list[Feed]) -> Iterator[Group]:
        """The groups of feeds that are sorted by width and slot."""
        row = 0
        for width, same in groupby(ordered, key=lambda f: len(f.tokens)):
            slots = [f.slot for f in same]
            starts = torch.tensor([self.lengths[slot] for slot in slots], device=self.embed.device)
            end = int(starts.max()) + width
            mask = None
            if width > 1 or int(starts.min()) + width < end:
                last = starts[:, None] + torch.arange(width, device=starts.device)  # (sequences, width)
                unseen = torch.arange(end, device=starts.device) > last[..., None]
                mask = self.embed.new_zeros(unseen.shape).masked_fill(unseen, float("-inf"))
                mask = mask.repeat(1, self.heads // self.groups, 1)[:, None]
            # of neighbours the cache is a view, of others a copy
            near = slots[-1] - slots[0] == len(slots) - 1
            taken = slice(slots[0], slots[-1] + 1) if near else slots
            yield Group(slice(row, row + width * len(slots)), taken, width, end, mask)
            row += width * len(slots)

    def _attend(self, group: Group, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Grouped-query attention of q (rows, heads, dim) over the cache (slots, positions, groups, dim)."""
        # the heads of a key's group are further queries: no repeated keys
        shape = (-1, group.width, self.groups, self.heads // self.groups, self.dim)
        q = q.reshape(shape).permute(0, 2, 3, 1, 4).flatten(2, 3)
        k, v = (cache[group.slots, : group.end].transpose(1, 2) for cache in (keys, values))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask)
        y = y.view(len(y), self.groups, -1, group.width, self.dim).permute(0, 3, 1, 2, 4)
        return y.reshape(len(y) * group.width, -1)


class Request:
    """What a thread waits for."""

    __slots__ = ("batch", "error", "feed", "result", "turn")

    def __init__(self, batch: LeanBatch, feed: Feed) -> None:
        self.batch, self.feed, self.turn = batch, feed, threading.Event()
        self.result: Tensor | None = None
        self.error: BaseException | None = None


class Batcher:
    """Threads that wait for each other: once all members wait, one of them computes for many.

    There is no thread of its own. Models of one batcher take turns: the one that most members wait for comes first,
    and of two the smaller, so that drafts are finished before a large model verifies them together.
    """

    def __init__(self) -> None:
        self._lock, self._here = threading.Lock(), threading.local()
        self._members, self._waiting, self._stopped = 0, list[Request](), False

    @contextmanager
    def member(self) -> Iterator[None]:
        """Take part from this thread: from now on the others wait for its requests.

        A thread that asks without taking part is a member for the length of its request: then requests are computed
        at once, and those that come meanwhile are computed next, together. That is how a server serves.
        """
        with self._lock:
            self._members += 1
        self._here.member = True
        try:
            yield
        finally:
            self._here.member = False
            with self._lock:
                self._members -= 1
                if self._waiting and len(self._waiting) == self._members:  # it was the one they waited for
                    self._waiting[0].turn.set()

    def stop(self) -> None:
        """End all members at their next request, with `CancelledError`."""
        with self._lock:
            self._stopped = True
            for request in self._waiting:
                request.turn.set()

    def compute(self, batch: LeanBatch, feed: Feed) -> Tensor:
        """Logits (keep, columns) of one feed, computed together with those of other members.

        Raises:
            CancelledError: after `stop`.
        """
        if not getattr(self._here, "member", False):
            with self.member():
                return self.compute(batch, feed)
        request = Request(batch, feed)
        with self._lock:
            self._waiting.append(request)
        while request.result is None:
            if request.error is not None:
                raise request.error
            if together := self._claim():
                self._serve(together)  # its own may not be among them: then it goes on waiting
            else:
                request.turn.wait()
                request.turn.clear()
        return request.result

    def _claim(self) -> list[Request]:
        """The requests to compute now; none while a member has not come yet."""
        with self._lock:
            if self._stopped:
                raise CancelledError
            if len(self._waiting) < self._members:
                return []
            asked = {request.batch: 0 for request in self._waiting}
            for request in self._waiting:
                asked[request.batch] += 1
            chosen = max(asked, key=lambda batch: (asked[batch], -batch.weights))
            together = [request for request in self._waiting if request.batch is chosen]
            self._waiting = [request for request in self._waiting if request.batch is not chosen]
            return together

    @staticmethod
    def _serve(together: list[Request]) -> None:
        """Compute and hand out; an error belongs to all whose pass it was."""
        try:
            results = together[0].batch.feed([request.feed for request in together])
            for request, result in zip(together, results, strict=True):
                request.result = result
        except BaseException as error:
            for request in together:
                request.error = error
        for request in together:
            request.turn.set()


class Slot:
    """An `edgecloud.lm.Engine`: one sequence of a `LeanBatch`."""

    name = "lean"

    def __init__(self, batch: LeanBatch, index: int, batcher: Batcher) -> None:
        self.batch, self.index, self.batcher = batch, index, batcher

    def feed(self, tokens: list[int], keep: int, sound: Sound | None = None) -> Tensor:
        """See `Engine`; returns when the batch is computed."""
        return self.batcher.compute(self.batch, Feed(self.index, tokens, keep, sound))

    def rollback(self, length: int) -> None:
        """See `Engine`."""
        self.batch.rollback(self.index, length)


class Lane(CachedLM):
    """A live sequence on a `BatchedLM`; its `seconds` contain the wait for the others."""

    def __init__(self, owner: BatchedLM, slot: Slot) -> None:
        self.owner, self.slot = owner, slot
        super().__init__(owner.model, vocab=owner.vocab, engine=slot)

    def close(self) -> None:
        """Give the slot back; the sequence is not to be used after that."""
        self.owner.free.append(self.slot.index)


class BatchedLM:
    """A model for `slots` live sequences at a time."""

    def __init__(
        self,
        model: Any,
        *,
        slots: int,
        vocab: int | None = None,
        batcher: Batcher | None = None,
        bits: int | None = None,
    ) -> None:
        """Wrap a `transformers` causal model; models that are used in turn by the same threads share a `batcher`.

        Args:
            model: the model.
            slots: live sequences at most.
            vocab: see `CachedLM`.
            batcher: brings the threads together; None: one of its own.
            bits: see `LeanWeights`.

        Raises:
            UserError: the lean forward pass does not know its architecture.
        """
        if not lean_supports(model):
            raise UserError(
                f"A {model.config.model_type} model cannot decode several samples at once; set task.batch_size=1."
            )
        self.model, self.vocab, self.batcher = model, vocab, batcher or Batcher()
        self.batch, self.free = LeanBatch(model, slots, bits), list(range(slots))[::-1]

    def sequence(self) -> Lane:
        """A fresh sequence.

        Raises:
            UserError: all slots are taken.
        """
        if not self.free:
            raise UserError(
                f"All {len(self.batch.lengths)} places on the model are taken; wait until one is closed, or give it "
                "more slots."
            )
        return Lane(self, Slot(self.batch, self.free.pop(), self.batcher))


Decode = TypeVar("Decode", bound=Callable[..., Any])


def in_lanes(decoders: list[Decode], batcher: Batcher) -> Decode:
    """One decoder that as many threads may call at the same time as there are `decoders`, each with its own models."""
    free: SimpleQueue[Decode] = SimpleQueue()
    for decoder in decoders:
        free.put(decoder)

    def decode(*args: Any, **kwargs: Any) -> Any:
        decoder = free.get()
        try:
            with batcher.member():
                return decoder(*args, **kwargs)
        finally:
            free.put(decoder)

    return cast("Decode", decode)
