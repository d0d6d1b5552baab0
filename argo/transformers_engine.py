"""A model in this process that answers calls in batches: greedy text, and the likelihood of given options.

Calls are sorted by length and cut into batches, bounded by count and by tokens. A row of a batch is padded on its left.
What many prompts begin with (headers.py) is computed once and kept; the rest of the prompts is computed a few thousand
tokens at a time into one cache (kv.py), and then all rows go on together, a token a pass; rows that have ended leave.
In float32 a reply does not depend on who else was in the batch. In bfloat16 and float16 rounding does, and now and then
a token, or a score by some tenths of a nat: which is why the first stored answer is the canonical one (store.py).
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from argo.calls import Call, Failure, Reply
from argo.engines import identity, window
from argo.headers import common, shared_lengths
from argo.kv import Rows
from suite.errors import UserError
from suite.models.loading import Loaded

log = logging.getLogger(__name__)

BATCH_TOKENS = 32768  # rows x columns of a batch at most: of a 7B Qwen2.5 the cache is 2 GB then
PASS_TOKENS = 2048  # of a prompt's pass: more is no faster, and what it needs beside the cache grows with it
HEADERS = 8  # shared beginnings kept
LIVE_SHARE = 0.75  # rows that have ended leave when no more than this share is going on; leaving copies the rest
TAIL = 16  # last tokens in which a stop is looked for at each token; the end looks at all
ATTENTION = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A call in tokens.

    Attributes:
        index: of the call.
        call: the call.
        tokens: what is read first; at least one.
        tails: what follows, for each option.
        header: of `tokens`, how many are shared with other calls.
    """

    index: int
    call: Call
    tokens: list[int]
    tails: list[list[int]]
    header: int

    @property
    def columns(self) -> int:
        """Places it takes in a cache."""
        return len(self.tokens) + max((len(tail) for tail in self.tails), default=self.call.max_new_tokens)

    @property
    def rest(self) -> int:
        """Tokens that are its own."""
        return len(self.tokens) - self.header


class TransformersEngine:
    """An `argo.calls.Engine`; one thread at a time.

    Args:
        loaded: a causal language model of full or sliding attention.
        prompt_format: `plain`, or else prompts become a user's turn in the tokenizer's template, but for `raw` calls.
        batch: calls of a batch at most; halved for good each time memory runs out.

    Raises:
        UserError: the model cannot be run this way, or has no chat template.
    """

    def __init__(self, loaded: Loaded, *, prompt_format: str, batch: int) -> None:
        _check(loaded, prompt_format)
        self.model, self.tokenizer, self.device = loaded.model, loaded.tokenizer, loaded.device
        self.chat, self.batch = prompt_format != "plain", batch
        config = self.model.config.get_text_config(decoder=True)
        self.layers = int(config.num_hidden_layers)
        self.limit = int(getattr(config, "max_position_embeddings", None) or self.tokenizer.model_max_length)
        self.window = window(self.limit, prompt_format)
        self.ends = _ends(self.model.generation_config.eos_token_id, self.tokenizer.eos_token_id)
        self.identity = identity(
            loaded.spec, loaded.revision, loaded.dtype, self.tokenizer.chat_template if self.chat else None
        )
        self._headers: OrderedDict[tuple[int, ...], Rows] = OrderedDict()

    def tokens(self, text: str) -> int:
        """Exactly how many tokens `text` is by itself."""
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)

    def answer(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """See `Engine`; a call that is empty, longer than the window or too large for the memory fails."""
        outcomes: dict[int, Reply | Failure] = {}
        rows = list[Row]()
        for i, call in enumerate(calls):
            row = self._row(i, call)
            if isinstance(row, Row):
                rows.append(row)
            else:
                outcomes[i] = row
        shared = shared_lengths([row.tokens for row in rows])
        rows = [replace(row, header=length) for row, length in zip(rows, shared, strict=True)]
        todo = sorted(rows, key=lambda row: (bool(row.tails), row.columns), reverse=True)  # the largest fails first
        while todo:
            batch = self._cut(todo)
            replies = self._tried(batch)
            if replies is None and len(batch) > 1:
                self.batch = len(batch) // 2
                log.warning("Memory ran out: batches of %d calls from here on.", self.batch)
                continue
            for i, row in enumerate(batch):
                outcomes[row.index] = replies[i] if replies else Failure(error=_too_large(row))
            del todo[: len(batch)]
        return [outcomes[i] for i in range(len(calls))]

    def _rendered(self, call: Call) -> tuple[str, bool]:
        """The whole text, and whether it is a turn of a chat."""
        if not self.chat or call.raw or call.options:
            return call.prompt, False
        turn = [{"role": "user", "content": call.prompt}]
        return str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)), True

    def _encode(self, text: str, is_turn: bool) -> list[int]:
        # a template brings its own marks of the beginning
        return list(self.tokenizer(text, add_special_tokens=not is_turn).input_ids)

    def _row(self, index: int, call: Call) -> Row | Failure:
        """The call in tokens, without a header.

        An option follows after a space, where the prompt does not end in one. Prompt and option are cut into tokens
        together, and what all options share is read, the rest is scored: a token across the boundary is in the score.
        """
        text, is_turn = self._rendered(call)
        tokens = self._encode(text, is_turn)
        gap = "" if text[-1:].isspace() else " "
        whole = [self._encode(text + gap + option, is_turn) for option in call.options]
        shared = min((min(common(tokens, option), len(option) - 1) for option in whole), default=len(tokens))
        row = Row(index=index, call=call, tokens=tokens[:shared], tails=[option[shared:] for option in whole], header=0)
        if not row.tokens:
            return Failure(error="The prompt is empty.")
        if row.columns > self.limit:
            return Failure(
                error=f"The prompt of {len(tokens)} tokens and its answer exceed the model's window of {self.limit}; "
                "use fewer passages (task.top_k)."
            )
        return row

    def _cut(self, todo: Sequence[Row]) -> list[Row]:
        """The first batch of the sorted `todo`: of one kind, bounded by count and by padded tokens.

        Within it the rows with the shortest rest come first: those read in one pass are padded to the longest of them.
        """
        first = todo[0]
        most = max(1, min(self.batch, BATCH_TOKENS // first.columns))
        batch = [row for row in todo[:most] if bool(row.tails) == bool(first.tails)]
        return sorted(batch, key=lambda row: row.rest)

    def _tried(self, batch: list[Row]) -> list[Reply] | None:
        """The replies; None when memory ran out."""
        start = time.perf_counter()
        try:
            with torch.inference_mode():
                replies = self._score(batch) if batch[0].tails else self._generate(batch)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not isinstance(error, MemoryError) and "out of memory" not in str(error).lower():
                raise
        else:
            each_ms = 1e3 * (time.perf_counter() - start) / len(batch)
            return [replace(reply, latency_ms=each_ms) for reply in replies]
        self._headers.clear()  # after the handler, whose error would keep the batch's tensors alive
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        return None

    def _generate(self, batch: list[Row]) -> list[Reply]:
        """Greedy continuations."""
        width, most = max(len(row.tokens) for row in batch), max(row.call.max_new_tokens for row in batch)
        cache = Rows(self.layers, len(batch), width + most)
        logits = self._prefill(batch, cache, width)
        said: list[list[int]] = [[] for _ in batch]
        places = list(range(len(batch)))  # the batch's row at each place of the cache
        going = [True] * len(batch)
        lengths = self._lengths(batch)
        for column in range(width, width + most):
            chosen = logits.argmax(-1)
            for place, token in enumerate(chosen.tolist()):
                i = places[place]
                if going[i]:
                    said[i].append(token)
                    going[i] = not self._ended(said[i], batch[i].call) and len(said[i]) < batch[i].call.max_new_tokens
            live = [place for place, i in enumerate(places) if going[i]]
            if not live:
                break
            if len(live) <= LIVE_SHARE * len(places):
                kept = torch.tensor(live, device=self.device)
                cache.keep(kept)
                chosen, lengths = chosen[kept], lengths[kept]
                places = [places[place] for place in live]
            logits = self._pass(cache, chosen[:, None], lengths, width, column)[:, -1]
        return [self._reply(row, tokens) for row, tokens in zip(batch, said, strict=True)]

    def _score(self, batch: list[Row]) -> list[Reply]:
        """Log-likelihoods of the options: the prompts are read once, and each option in turn after them."""
        width, longest = max(len(row.tokens) for row in batch), max(len(tail) for row in batch for tail in row.tails)
        cache = Rows(self.layers, len(batch), width + longest - 1)
        first = self._prefill(batch, cache, width).float().log_softmax(-1)
        lengths = self._lengths(batch)
        scores: list[list[float]] = [[] for _ in batch]
        for option in range(max(len(row.tails) for row in batch)):
            tails = [row.tails[min(option, len(row.tails) - 1)] for row in batch]
            ids = torch.tensor(_padded(tails, max(map(len, tails))), device=self.device)
            total = first.gather(1, ids[:, :1])[:, 0].double()
            if ids.shape[1] > 1:
                cache.at(width)
                after = self._pass(cache, ids[:, :-1], lengths, width, width).float().log_softmax(-1)
                each = after.gather(2, ids[:, 1:, None])[..., 0]
                steps = torch.arange(1, ids.shape[1], device=self.device)
                real = steps < torch.tensor([[len(tail)] for tail in tails], device=self.device)
                total += torch.where(real, each, 0.0).sum(1, dtype=torch.float64)
            for row, row_scores, score in zip(batch, scores, total.tolist(), strict=True):
                if option < len(row.tails):
                    row_scores.append(score)
        return [
            Reply(
                text=row.call.options[max(range(len(found)), key=found.__getitem__)],
                scores=tuple(found),
                prompt_tokens=len(row.tokens) + sum(map(len, row.tails)),
                completion_tokens=0,
                latency_ms=None,
                finish="scored",
            )
            for row, found in zip(batch, scores, strict=True)
        ]

    def _prefill(self, batch: list[Row], cache: Rows, width: int) -> Tensor:
        """Read the prompts into columns up to `width`; logits (rows, vocab) after them."""
        for place, row in enumerate(batch):
            if row.header:
                cache.copy(self._header(row.tokens[: row.header]), place, width - len(row.tokens))
        logits, first = list[Tensor](), 0
        while first < len(batch):
            last = first + 1
            while last < len(batch) and (last + 1 - first) * batch[last].rest <= PASS_TOKENS:
                last += 1
            rows, rest = batch[first:last], batch[last - 1].rest
            ids = torch.tensor([([0] * rest + row.tokens)[-rest:] for row in rows], device=self.device)
            cache.at(width - rest, slice(first, last))
            logits.append(self._pass(cache, ids, self._lengths(rows), width, width - rest, keep=[rest - 1])[:, 0])
            first = last
        cache.at(width, slice(0, len(batch)))
        return torch.cat(logits)

    def _header(self, tokens: list[int]) -> Rows:
        """The cache of a shared beginning, computed or kept."""
        key = tuple(tokens)
        if key not in self._headers:
            made = Rows(self.layers, 1, len(tokens))
            ids, length = torch.tensor([tokens], device=self.device), torch.tensor([[len(tokens)]], device=self.device)
            self._pass(made, ids, length, len(tokens), 0, keep=[0])
            self._headers[key] = made
        self._headers.move_to_end(key)
        if len(self._headers) > HEADERS:
            self._headers.popitem(last=False)
        return self._headers[key]

    def _pass(
        self, cache: Rows, ids: Tensor, lengths: Tensor, width: int, column: int, keep: list[int] | None = None
    ) -> Tensor:
        """One forward pass over `ids` (rows, n) at columns from `column` on.

        Args:
            cache: that of the columns before.
            ids: tokens.
            lengths: of the prompts (rows, 1), which end at column `width`.
            width: see there.
            column: see there.
            keep: of the n positions, those whose logits are wanted; None: all. As a tensor: of a slice the head's
                product copies its whole weight for each row (torch 2.13, half of a prefill's time).

        Returns:
            Logits (rows, kept, vocab).
        """
        columns = torch.arange(column + ids.shape[1], device=self.device)
        padding = width - lengths  # (rows, 1)
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=columns >= padding,
            position_ids=(columns[column:] - padding).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0 if keep is None else torch.tensor(keep, device=self.device),
        ).logits
        return logits

    def _lengths(self, rows: list[Row]) -> Tensor:
        return torch.tensor([[len(row.tokens)] for row in rows], device=self.device)

    def _ended(self, said: list[int], call: Call) -> bool:
        """Whether the last token is an end, or makes a stop."""
        if said[-1] in self.ends:
            return True
        text = self._text(said[-TAIL:]) if call.stop else ""
        return any(stop in text for stop in call.stop)

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _reply(self, row: Row, said: list[int]) -> Reply:
        ended = self._ended(said, row.call)
        text = self._text(said)
        cut = min((at for stop in row.call.stop if (at := text.find(stop)) >= 0), default=len(text))
        return Reply(
            text=text[:cut].strip(),
            prompt_tokens=len(row.tokens),
            completion_tokens=len(said),
            latency_ms=None,
            finish="stop" if ended or cut < len(text) else "length",
        )


def _check(loaded: Loaded, prompt_format: str) -> None:
    """Raise `UserError` where the model cannot be run, or not in this format."""
    config = loaded.model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or []) - ATTENTION
    if kinds or loaded.model._is_stateful:
        what = ", ".join(sorted(kinds)) or "a state instead of a cache"
        raise UserError(
            f"models.llm.id={loaded.spec.id}: its layers ({what}) cannot be batched here; serve the model and set "
            "task.engine=openai, or choose one of plain attention."
        )
    if loaded.pack_bits is not None:
        raise UserError(
            f"models.llm.quantization={loaded.spec.quantization} needs a GPU for this task; set it to none."
        )
    if prompt_format != "plain" and not loaded.tokenizer.chat_template:
        raise UserError(
            f"task.prompt_format={prompt_format}, but models.llm.id={loaded.spec.id} has no chat template; set "
            "task.prompt_format=plain."
        )


def _ends(*named: int | list[int] | None) -> frozenset[int]:
    """Token ids that end a text, from the places where they are named."""
    return frozenset(end for ends in named if ends is not None for end in ([ends] if isinstance(ends, int) else ends))


def _padded(rows: Sequence[list[int]], width: int) -> list[list[int]]:
    """Rows of one width, with zeros on the right."""
    return [row + [0] * (width - len(row)) for row in rows]


def _too_large(row: Row) -> str:
    return (
        f"Memory ran out over a single prompt of {len(row.tokens)} tokens; use a smaller model, or fewer passages "
        "(task.top_k)."
    )
