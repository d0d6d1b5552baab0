"""Calls into tokens, and tokens into replies: templates, boundaries, stops. No model here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from argo.calls import Call, Failure, Reply
from argo.headers import common

TAIL = 16  # last tokens in which a stop is looked for at each token; the end looks at all


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
    header: int = 0

    @property
    def columns(self) -> int:
        """Places it takes in a cache."""
        return len(self.tokens) + max((len(tail) for tail in self.tails), default=self.call.max_new_tokens)

    @property
    def rest(self) -> int:
        """Tokens that are its own."""
        return len(self.tokens) - self.header


class Wording:
    """A tokenizer and the form in which prompts are put to its model.

    Args:
        tokenizer: of transformers.
        chat: prompts become a user's turn in the tokenizer's template, but for raw calls and options.
        ends: token ids that end a text, beside the tokenizer's own.
        limit: tokens of prompt and answer at most.
    """

    def __init__(self, tokenizer: Any, *, chat: bool, ends: int | list[int] | None, limit: int) -> None:
        self.tokenizer, self.chat, self.limit = tokenizer, chat, limit
        named = [ends] if isinstance(ends, int) else ends or []
        self.ends = {*named, tokenizer.eos_token_id} - {None}

    def rendered(self, call: Call) -> tuple[str, bool]:
        """The whole text, and whether it is a turn of a chat."""
        if not self.chat or call.raw or call.options:
            return call.prompt, False
        turn = [{"role": "user", "content": call.prompt}]
        return str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)), True

    def row(self, index: int, call: Call) -> Row | Failure:
        """The call in tokens.

        An option follows after a space, where the prompt does not end in one. Prompt and option are cut into tokens
        together, and what all options share is read, the rest is scored: a token across the boundary is in the score.
        """
        text, is_turn = self.rendered(call)
        tokens = self._encode(text, is_turn)
        gap = "" if text[-1:].isspace() else " "
        whole = [self._encode(text + gap + option, is_turn) for option in call.options]
        shared = min((min(common(tokens, option), len(option) - 1) for option in whole), default=len(tokens))
        row = Row(index=index, call=call, tokens=tokens[:shared], tails=[option[shared:] for option in whole])
        if not row.tokens:
            return Failure(error="The prompt is empty.")
        if row.columns > self.limit:
            return Failure(
                error=f"The prompt of {len(tokens)} tokens and its answer exceed the model's window of {self.limit}; "
                "use fewer passages (task.top_k)."
            )
        return row

    def ended(self, said: list[int], call: Call) -> bool:
        """Whether the last token is an end, or makes a stop."""
        if said[-1] in self.ends:
            return True
        text = self._text(said[-TAIL:]) if call.stop else ""
        return any(stop in text for stop in call.stop)

    def reply(self, row: Row, said: list[int], latency_ms: float) -> Reply:
        """What a generation of tokens says."""
        text = self._text(said)
        cut = min((at for stop in row.call.stop if (at := text.find(stop)) >= 0), default=len(text))
        return Reply(
            text=text[:cut].strip(),
            prompt_tokens=len(row.tokens),
            completion_tokens=len(said),
            latency_ms=latency_ms,
            finish="stop" if cut < len(text) or said[-1] in self.ends else "length",
        )

    def _encode(self, text: str, is_turn: bool) -> list[int]:
        # a template brings its own marks of the beginning
        return list(self.tokenizer(text, add_special_tokens=not is_turn).input_ids)

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def scored(row: Row, scores: list[float], latency_ms: float) -> Reply:
    """The likeliest of the options, and how likely each is."""
    return Reply(
        text=row.call.options[max(range(len(scores)), key=scores.__getitem__)],
        scores=tuple(scores),
        prompt_tokens=len(row.tokens) + sum(map(len, row.tails)),
        completion_tokens=0,
        latency_ms=latency_ms,
        finish="scored",
    )
