"""What many configurations answer to the same questions, for a fraction of the work of running each by itself.

Images are encoded once a tier, for every top-k. The lists of kept blocks form a trie: configurations of one tier and
one top-k that begin with the same blocks share those blocks' hidden states, keys and values over the prompt, and part
where they differ. At the end of a list the batch is decoded greedily, for real. What is known here are the answers;
what an answer takes is measured by the adapter, one configuration at a time.

Prompts are padded on the right. There a causal mask hides the padding from every token of the prompt, positions stay
those of the prompt alone, and only the answer's tokens need a mask. So a row's numbers are those of its own run, up
to the rounding of sums whose order depends on the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from controller.adapter import Adapter
from controller.knobs import DENSE, SPARSE, gate_of

ROWS = 32
"""Prompts computed at once, of like length: enough to fill a matrix product, few enough for little padding."""
SPARSE_SHARE = 0.25
"""Up to this share of its experts a model runs only those; above, all as one dense product, which costs the same at any
top-k."""
Path = tuple[int, ...]
"""Numbers of the blocks that run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one configuration answered to one question."""

    text: str
    token_ids: Path
    """Its end included."""

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer, its end included."""
        return len(self.token_ids)


class Chunk:
    """Questions about images, tokenised once, and each image's vision tokens, computed once a tier.

    Attributes:
        questions: as asked.
        ids: of each prompt after the image, (length,).
    """

    def __init__(self, adapter: Adapter, images: Sequence[Image.Image], questions: Sequence[str]) -> None:
        """One question for each image.

        Raises:
            UserError: a question is empty or too long.
        """
        self.adapter, self.questions = adapter, tuple(questions)
        self.ids = [adapter.text(question) for question in questions]
        self._images = tuple(images)
        self._vision: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def vision(self, tier: str) -> Tensor:
        """Vision tokens (samples, tokens, width)."""
        if tier not in self._vision:
            with torch.inference_mode():
                self._vision[tier] = torch.cat([self._encoded(rows, tier) for rows in self.batches()])
        return self._vision[tier]

    def batches(self) -> list[range]:
        """Numbers of the samples, so many at once."""
        return [range(start, min(start + ROWS, len(self))) for start in range(0, len(self), ROWS)]

    def prompts(self, tier: str) -> Iterator[Prompts]:
        """All prompts in batches of like length."""
        vision = self.vision(tier)
        order = sorted(range(len(self)), key=lambda sample: len(self.ids[sample]))
        for batch in self.batches():
            samples = order[batch.start : batch.stop]
            ids = [self.ids[sample] for sample in samples]
            padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)  # with any token: nobody looks at it
            hidden = self.adapter.embed(vision[samples], padded)
            lengths = torch.tensor([len(row) for row in ids], device=hidden.device)
            yield Prompts(
                samples=samples,
                hidden=hidden,
                lengths=lengths + hidden.shape[1] - padded.shape[1],
                mask=self.adapter.mask(hidden.shape[1], vision.shape[1]),
            )

    def _encoded(self, samples: Sequence[int], tier: str) -> Tensor:
        pixels = torch.stack([self.adapter.pixels(self._images[sample], tier) for sample in samples])
        return self.adapter.project(self.adapter.encode(pixels))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """A batch of n prompts as the decoder gets them."""

    samples: list[int]
    """Which of the chunk they are."""
    hidden: Tensor
    """(n, longest, width), padded on the right."""
    lengths: Tensor
    """Without the padding, (n,)."""
    mask: Tensor | None
    """Who attends to whom, for `Decoder.block`."""

    def positions(self) -> Tensor:
        """Of each token, (1, longest)."""
        return torch.arange(self.hidden.shape[1], device=self.hidden.device)[None]


def answers(
    chunk: Chunk, *, tier: str, top_k: int, kept: Sequence[Path], max_new_tokens: int
) -> dict[Path, list[Answer]]:
    """Greedy answers of the model at each list of kept blocks.

    Args:
        chunk: the questions.
        tier: of the image.
        top_k: experts a token; 0: the model has none.
        kept: lists of blocks in rising order, nested or not.
        max_new_tokens: tokens of an answer at most.

    Returns:
        For every list of `kept` the answers in the order of the chunk; in float32 those of `Adapter.run`.
    """
    adapter, found = chunk.adapter, dict[Path, dict[int, Answer]]()
    with _whole(adapter, top_k):
        for prompts in chunk.prompts(tier):
            walk = _Walk(adapter, prompts, max_new_tokens)
            walk.down(prompts.hidden, sorted(set(kept)))
            for path, said in walk.said.items():
                told = (Answer(text=adapter.decode_text(ids), token_ids=tuple(ids)) for ids in said)
                found.setdefault(path, {}).update(zip(prompts.samples, told, strict=True))
    return {path: [by_sample[sample] for sample in range(len(chunk))] for path, by_sample in found.items()}


def influence(chunk: Chunk, *, tier: str, top_k: int) -> npt.NDArray[np.float64]:
    """Block influence: how much a block turns the hidden states, 1 - cos(in, out), mean over a prompt's tokens.

    Source: Men et al. 2024, "ShortGPT", arXiv:2403.03853, equation 1; here for each sample by itself.

    Returns:
        (samples, blocks), 0 to 2; padding does not count.
    """
    adapter = chunk.adapter
    found = np.empty((len(chunk), adapter.depth))
    with _whole(adapter, top_k):
        for prompts in chunk.prompts(tier):
            hidden, positions = prompts.hidden, prompts.positions()
            rope = adapter.decoder.rope(hidden, positions)
            real = positions < prompts.lengths[:, None]
            for block in range(adapter.depth):
                after = adapter.decoder.block(block, hidden, rope=rope, mask=prompts.mask)
                turned = 1 - torch.cosine_similarity(hidden.double(), after.double(), dim=-1)
                found[prompts.samples, block] = ((turned * real).sum(1) / prompts.lengths).cpu().numpy()
                hidden = after
    return found


class _Walk:
    """One batch of prompts down the trie of kept blocks.

    Attributes:
        said: at each end of a list, the tokens of every row.
    """

    def __init__(self, adapter: Adapter, prompts: Prompts, max_new_tokens: int) -> None:
        self._adapter, self._decoder, self._most = adapter, adapter.decoder, max_new_tokens
        self._prompts = prompts
        self._rope = self._decoder.rope(prompts.hidden, prompts.positions())
        self._cache = _Cache(spare=max_new_tokens - 1)
        self.said: dict[Path, list[list[int]]] = {}

    def down(self, hidden: Tensor, paths: list[Path], depth: int = 0) -> None:
        """Finish sorted lists that share their first `depth` blocks, after which the hidden states are these."""
        if len(paths[0]) == depth:
            self.said[paths[0]] = self._decode(hidden, paths[0])
            paths = paths[1:]
        for block, several in groupby(paths, key=itemgetter(depth)):
            branch = list(several)
            # after the last block of a list nobody looks at any token but the last
            ends = len(branch) == 1 and len(branch[0]) == depth + 1
            with self._decoder.only(block, self._prompts.lengths - 1) if ends else nullcontext():
                # what the cache had of this block was a sibling's, and its lists are finished
                after = self._decoder.block(block, hidden, rope=self._rope, mask=self._prompts.mask, cache=self._cache)
            self.down(after, branch, depth + 1)

    def _decode(self, hidden: Tensor, path: Path) -> list[list[int]]:
        """Answer tokens of every row, from the hidden states of the prompts after the last block of a list."""
        lengths, longest = self._prompts.lengths, hidden.shape[1]
        rows = list(range(len(hidden)))
        said: list[list[int]] = [[] for _ in rows]
        going = set(rows)
        cache = self._cache.after(longest, path)
        last = hidden[rows, lengths - 1]
        for step in range(self._most):
            tokens = self._decoder.logits(last).argmax(-1)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if row in going:
                    said[row].append(token)
                    if token in self._adapter.end_ids:
                        going.remove(row)
            if not going or step + 1 == self._most:
                break
            if 2 * len(going) <= len(rows):  # by halves, since taking rows out copies the others
                stay = [place for place, row in enumerate(rows) if row in going]
                rows, tokens, lengths = [rows[place] for place in stay], tokens[stay], lengths[stay]
                cache = cache.take(stay)
            last = self._next(tokens, lengths + step, cache, lengths, longest, path)
        return said

    def _next(
        self, tokens: Tensor, positions: Tensor, cache: _Cache, lengths: Tensor, longest: int, path: Path
    ) -> Tensor:
        """Hidden states (rows, width) of one more token a row."""
        hidden: Tensor = self._adapter.model.get_input_embeddings()(tokens[:, None])
        rope = self._decoder.rope(hidden, positions[:, None])
        slots = torch.arange(cache.filled + 1, device=hidden.device)
        mask = ((slots < lengths[:, None]) | (slots >= longest))[:, None, None]
        for block in path:
            hidden = self._decoder.block(block, hidden, rope=rope, mask=mask, cache=cache)
        cache.filled += 1
        return hidden[:, 0]


class _Cache:
    """Keys and values by block, with spare room behind the prompt.

    The lists that share a block share its tensors. They are decoded one after the other, and each writes its answer
    over the one before.
    """

    def __init__(self, *, spare: int) -> None:
        self.filled = 0
        """Tokens of a row that the cache holds."""
        self._spare = spare
        self._rooms: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, block: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Add those of the newest tokens, (rows, heads, new, width of a head), and give back all; a block calls it."""
        if not self.filled:
            rows, heads, new, width = keys.shape
            self._rooms[block] = (
                keys.new_empty(rows, heads, new + self._spare, width),
                values.new_empty(rows, heads, new + self._spare, values.shape[-1]),
            )
        end = self.filled + keys.shape[2]
        for room, fresh in zip(self._rooms[block], (keys, values), strict=True):
            room[:, :, self.filled : end] = fresh
        all_keys, all_values = self._rooms[block]
        return all_keys[:, :, :end], all_values[:, :, :end]

    def after(self, prompt: int, path: Path) -> _Cache:
        """The same tensors of these blocks, from the end of the prompt on."""
        found = _Cache(spare=self._spare)
        found.filled, found._rooms = prompt, {block: self._rooms[block] for block in path}
        return found

    def take(self, rows: list[int]) -> _Cache:
        """A copy with these rows only."""
        found = _Cache(spare=self._spare)
        found.filled = self.filled
        found._rooms = {block: (keys[rows], values[rows]) for block, (keys, values) in self._rooms.items()}
        return found


@contextmanager
def _whole(adapter: Adapter, top_k: int) -> Iterator[None]:
    """Every block at this top-k, for computing them one by one, with the experts in whichever way is faster."""
    stack = adapter.model.model.language_model
    experts = max((gate.num_experts for gate in map(gate_of, stack.layers) if gate is not None), default=0)
    dense = top_k > SPARSE_SHARE * experts
    with torch.inference_mode(), adapter.knobs(top_k, range(adapter.depth)):
        if dense:
            stack.set_experts_implementation(DENSE)
        try:
            yield
        finally:
            if dense:
                stack.set_experts_implementation(SPARSE)
