"""A model in this process that answers calls in batches: greedy text, and the likelihood of given options.

Generated rows share one cache, each padded on its left so that all end in the same column; a pass adds a token to each.
Rows that have ended make room for calls that wait, so the batch stays full while the longest answers are finished.
What many prompts begin with (headers.py) is computed once and kept; the rest of them a few thousand tokens at a time.
In float32 a reply does not depend on who else was in the batch. In bfloat16 and float16 rounding does, and now and then
a token, or a score by some tenths of a nat: which is why the first stored answer is the canonical one (store.py).
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from argo.calls import Call, Failure, Reply
from argo.engines import HANDED, identity, window
from argo.headers import shared_lengths
from argo.kv import Rows
from argo.tokens import Row, Wording, scored
from suite.errors import UserError
from suite.models.loading import Loaded

log = logging.getLogger(__name__)

BATCH_TOKENS = 32768  # rows x columns of a cache at most: of a 7B Qwen2.5 it is 2 GB then
PASS_TOKENS = 2048  # of a prompts' pass: more is no faster, and what it needs beside the cache grows with it
SPARE = 128  # columns that rows may go on in before all are moved to the left again
HEADERS = 8  # shared beginnings kept
LIVE_SHARE = 0.75  # places are filled or given up when no more than this share of them is going on
ATTENTION = {"full_attention", "sliding_attention"}

Outcomes = dict[int, Reply | Failure]


@dataclass(slots=True)
class Going:
    """A generation under way."""

    row: Row
    said: list[int]
    seconds: float


class Lanes:
    """Generations side by side in one cache, all to be continued in the same column.

    Attributes:
        going: what is under way at each place; None: the place is free.
        tokens: (places, 1), the last of each, not read yet.
        padding: (places, 1), columns before the first of each place's own.
        column: where `tokens` go.
    """

    def __init__(self, cache: Rows, places: int, column: int, device: str) -> None:
        self.cache, self.column = cache, column
        self.going: list[Going | None] = [None] * places
        self.tokens = torch.zeros(places, 1, dtype=torch.long, device=device)
        self.padding = torch.zeros_like(self.tokens)

    def free(self) -> list[int]:
        """Places where nothing is under way."""
        return [place for place, one in enumerate(self.going) if one is None]

    def live(self) -> list[Going]:
        """What is under way."""
        return [one for one in self.going if one is not None]

    def move(self, to: int) -> None:
        """Go on at column `to` instead."""
        self.cache.move(self.column, to)
        self.padding = (self.padding + to - self.column).clamp(min=0)  # of a free place it may be anything
        self.column = to

    def close_ranks(self) -> None:
        """Give up the free places."""
        kept = torch.tensor([place for place, one in enumerate(self.going) if one is not None])
        self.cache.keep(kept)
        kept = kept.to(self.tokens.device)
        self.tokens, self.padding, self.going = self.tokens[kept], self.padding[kept], list(self.live())


class TransformersEngine:
    """An `argo.calls.Engine`; one thread at a time.

    Args:
        loaded: a causal language model of full or sliding attention.
        prompt_format: `plain`, or else prompts become a user's turn in the tokenizer's template, but for `raw` calls.
        rows: calls computed together at most; halved for good each time memory runs out.

    Raises:
        UserError: the model cannot be run this way, or has no chat template.
    """

    def __init__(self, loaded: Loaded, *, prompt_format: str, rows: int) -> None:
        _check(loaded, prompt_format)
        self.model, self.device, self.rows, self.batch = loaded.model, loaded.device, rows, HANDED * rows
        config = self.model.config.get_text_config(decoder=True)
        self.layers = int(config.num_hidden_layers)
        limit = int(getattr(config, "max_position_embeddings", None) or loaded.tokenizer.model_max_length)
        chat, ends = prompt_format != "plain", self.model.generation_config.eos_token_id
        self.wording = Wording(loaded.tokenizer, chat=chat, ends=ends, limit=limit)
        self.window = window(limit, prompt_format)
        template = loaded.tokenizer.chat_template if chat else None
        self.identity = identity(loaded.spec, loaded.revision, loaded.dtype, template)
        self._headers: OrderedDict[tuple[int, ...], Rows] = OrderedDict()

    def tokens(self, text: str) -> int:
        """Exactly how many tokens `text` is by itself."""
        return len(self.wording.tokenizer(text, add_special_tokens=False).input_ids)

    def answer(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """See `Engine`; a call that is empty, longer than the window or too large for the memory fails."""
        made = [self.wording.row(i, call) for i, call in enumerate(calls)]
        outcomes: Outcomes = {i: row for i, row in enumerate(made) if isinstance(row, Failure)}
        rows = [row for row in made if isinstance(row, Row)]
        shared = shared_lengths([row.tokens for row in rows])
        rows = [replace(row, header=max(n, self._known(row.tokens))) for row, n in zip(rows, shared, strict=True)]
        rows.sort(key=lambda row: len(row.tokens), reverse=True)  # the largest first: what does not fit shows at once
        for work, kind in ((self._generate, False), (self._score, True)):
            while todo := [row for row in rows if bool(row.tails) is kind and row.index not in outcomes]:
                self._within_memory(work, todo, outcomes)
        return [outcomes[i] for i in range(len(calls))]

    def _within_memory(self, work: Callable[[list[Row], Outcomes], None], todo: list[Row], outcomes: Outcomes) -> None:
        """Do `work` on the rows; when memory runs out keep what is done, and see that the next attempt takes less."""
        try:
            with torch.inference_mode():
                work(list(todo), outcomes)
            return
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not isinstance(error, MemoryError) and "out of memory" not in str(error).lower():
                raise
        self._headers.clear()  # only here, for the error being handled keeps the tensors of the batch alive
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        left = [row for row in todo if row.index not in outcomes]
        if min(self.rows, len(left)) > 1:
            self.rows = min(self.rows, len(left)) // 2
            log.warning("Memory ran out: %d calls at a time from here on.", self.rows)
        else:
            outcomes[left[0].index] = Failure(
                error=f"Memory ran out over a single prompt of {len(left[0].tokens)} tokens; use a smaller model, or "
                "fewer passages (task.top_k)."
            )

    def _places(self, columns: int) -> int:
        """Rows of so many columns that are computed together."""
        return max(1, min(self.rows, BATCH_TOKENS // columns))

    def _generate(self, todo: list[Row], outcomes: Outcomes) -> None:
        """Greedy continuations of `todo`, the longest prompt first; empties it."""
        room = max(row.columns for row in todo) + SPARE
        places = min(self._places(room), len(todo))
        lanes = Lanes(Rows(self.layers, places, room), places, len(todo[0].tokens), self.device)
        while True:
            free = lanes.free()
            if todo and len(free) >= (1 - LIVE_SHARE) * places:
                lanes.move(max(lanes.column, len(todo[0].tokens)))
                self._join(todo[: len(free)], lanes)
                del todo[: len(free)]
            elif len(free) == len(lanes.going):
                return
            else:
                if not todo and len(free) >= (1 - LIVE_SHARE) * len(lanes.going):
                    lanes.close_ranks()
                if lanes.column == room:
                    lanes.move(max(len(one.row.tokens) + len(one.said) for one in lanes.live()))
                self._continue(lanes)
            for place, one in enumerate(lanes.going):
                if one is not None and self._is_done(one):
                    outcomes[one.row.index] = self.wording.reply(one.row, one.said, 1e3 * one.seconds)
                    lanes.going[place] = None

    def _join(self, rows: list[Row], lanes: Lanes) -> None:
        """Read prompts, and put them into free places so that they end where the others do."""
        free = lanes.free()
        for part in _parts(sorted(rows, key=lambda row: row.rest)):
            start, width = time.perf_counter(), max(len(row.tokens) for row in part)
            read = Rows(self.layers, len(part), width)
            first: list[int] = self._prefill(part, read, width).argmax(-1).tolist()
            places = [free.pop() for _ in part]
            for i, (place, row) in enumerate(zip(places, part, strict=True)):
                begin = lanes.column - len(row.tokens)
                lanes.cache.copy(read, i, slice(width - len(row.tokens), width), place, begin)
                lanes.tokens[place], lanes.padding[place] = first[i], begin
            share = (time.perf_counter() - start) / len(part)
            for place, row, token in zip(places, part, first, strict=True):
                lanes.going[place] = Going(row, [token], share)

    def _continue(self, lanes: Lanes) -> None:
        """One more token for each."""
        start = time.perf_counter()
        lanes.cache.at(lanes.column, slice(0, len(lanes.going)))
        logits = self._pass(lanes.cache, lanes.tokens, lanes.padding, lanes.column)
        lanes.tokens, lanes.column = logits[:, -1].argmax(-1, keepdim=True), lanes.column + 1
        said: list[int] = lanes.tokens[:, 0].tolist()
        share = (time.perf_counter() - start) / len(lanes.live())
        for one, token in zip(lanes.going, said, strict=True):
            if one is not None:
                one.said.append(token)
                one.seconds += share

    def _is_done(self, one: Going) -> bool:
        return len(one.said) >= one.row.call.max_new_tokens or self.wording.ended(one.said, one.row.call)

    def _score(self, todo: list[Row], outcomes: Outcomes) -> None:
        """Log-likelihoods of the options: the prompts are read once, and each option in turn after them."""
        todo.sort(key=lambda row: row.columns, reverse=True)
        while todo:
            start = time.perf_counter()
            batch = sorted(todo[: self._places(todo[0].columns)], key=lambda row: row.rest)
            found = self._scores(batch)
            each_ms = 1e3 * (time.perf_counter() - start) / len(batch)
            outcomes.update((row.index, scored(row, s, each_ms)) for row, s in zip(batch, found, strict=True))
            del todo[: len(batch)]

    def _scores(self, batch: list[Row]) -> list[list[float]]:
        """Of each row, the log-likelihood of each option (nats)."""
        width, longest = max(len(row.tokens) for row in batch), max(len(tail) for row in batch for tail in row.tails)
        cache = Rows(self.layers, len(batch), width + longest)
        first = self._prefill(batch, cache, width).float().log_softmax(-1)
        padding = self._padding(batch, width)
        scores: list[list[float]] = [[] for _ in batch]
        for option in range(max(len(row.tails) for row in batch)):
            tails = [row.tails[min(option, len(row.tails) - 1)] for row in batch]
            most = max(map(len, tails))
            ids = torch.tensor([tail + [0] * (most - len(tail)) for tail in tails], device=self.device)
            total = first.gather(1, ids[:, :1])[:, 0].double()
            if most > 1:
                cache.at(width, slice(0, len(batch)))
                after = self._pass(cache, ids[:, :-1], padding, width).float().log_softmax(-1)
                each = after.gather(2, ids[:, 1:, None])[..., 0]
                lengths = torch.tensor([[len(tail)] for tail in tails], device=self.device)
                real = torch.arange(1, most, device=self.device) < lengths
                total += torch.where(real, each, 0.0).sum(1, dtype=torch.float64)
            for row, found, score in zip(batch, scores, total.tolist(), strict=True):
                if option < len(row.tails):
                    found.append(score)
        return scores

    def _prefill(self, rows: list[Row], cache: Rows, width: int) -> Tensor:
        """Read the prompts into columns up to `width`; logits (rows, vocab) after them."""
        for place, row in enumerate(rows):
            if row.header:
                header = self._header(row.tokens[: row.header])
                cache.copy(header, 0, slice(0, row.header), place, width - len(row.tokens))
        logits, first = list[Tensor](), 0
        for part in _parts(rows):
            rest, last = part[-1].rest, first + len(part)
            ids = torch.tensor([([0] * rest + row.tokens)[-rest:] for row in part], device=self.device)
            cache.at(width - rest, slice(first, last))
            logits.append(self._pass(cache, ids, self._padding(part, width), width - rest, keep=[rest - 1])[:, 0])
            first = last
        return torch.cat(logits)

    def _known(self, tokens: list[int]) -> int:
        """Length of the longest beginning that is kept already."""
        return max((len(key) for key in self._headers if tuple(tokens[: len(key)]) == key != tuple(tokens)), default=0)

    def _header(self, tokens: list[int]) -> Rows:
        """The cache of a shared beginning, computed or kept."""
        key = tuple(tokens)
        if key not in self._headers:
            made, ids = Rows(self.layers, 1, len(tokens)), torch.tensor([tokens], device=self.device)
            made.at(0, slice(0, 1))
            self._pass(made, ids, torch.zeros_like(ids[:, :1]), 0, keep=[0])
            self._headers[key] = made
        self._headers.move_to_end(key)
        if len(self._headers) > HEADERS:
            self._headers.popitem(last=False)
        return self._headers[key]

    def _pass(self, cache: Rows, ids: Tensor, padding: Tensor, column: int, keep: list[int] | None = None) -> Tensor:
        """One forward pass over `ids` (rows, n) at columns from `column` on.

        Args:
            cache: that of the columns before.
            ids: tokens.
            padding: columns (rows, 1) before the first of each row's own.
            column: see there.
            keep: of the n positions, those whose logits are wanted; None: all. As a tensor: of a slice the head's
                product copies its whole weight for each row (torch 2.13, half of a prefill's time).

        Returns:
            Logits (rows, kept, vocab).
        """
        columns = torch.arange(column + ids.shape[1], device=self.device)
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=columns >= padding,
            position_ids=(columns[column:] - padding).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0 if keep is None else torch.tensor(keep, device=self.device),
        ).logits
        return logits

    def _padding(self, rows: list[Row], width: int) -> Tensor:
        return torch.tensor([[width - len(row.tokens)] for row in rows], device=self.device)


def _parts(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows, sorted by what is their own, that are read in one pass: padded to the last one's rest."""
    first = 0
    for last in range(1, len(rows) + 1):
        if last == len(rows) or (last + 1 - first) * rows[last].rest > PASS_TOKENS:
            yield rows[first:last]
            first = last


def _check(loaded: Loaded, prompt_format: str) -> None:
    """Raise `UserError` where the model cannot be run, or not in this format."""
    name, config = loaded.spec.id, loaded.model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or []) - ATTENTION
    if kinds or loaded.model._is_stateful:
        what = ", ".join(sorted(kinds)) or "a state instead of a cache"
        raise UserError(
            f"models.llm.id={name}: its layers ({what}) cannot be batched here; serve the model and set "
            "task.engine=openai, or choose one of plain attention."
        )
    if loaded.pack_bits is not None:
        raise UserError(
            f"models.llm.quantization={loaded.spec.quantization} needs a GPU for this task; set it to none."
        )
    if prompt_format != "plain" and not loaded.tokenizer.chat_template:
        raise UserError(
            f"task.prompt_format={prompt_format}, but models.llm.id={name} has no chat template; set "
            "task.prompt_format=plain."
        )
