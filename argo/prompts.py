"""What the models are told: one template for each of Decomposer, Reasoner and Synthesizer, the same for all strategies.

The templates are plain text to go on from, which small models follow best; for a chat model they are the user's turn.
Costs, strategies and U never enter a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from argo.calls import Call
from argo.corpus import Passage
from argo.questions import Question

RECENT = 4
"""Sub-questions repeated to the Decomposer and the Synthesizer, the latest ones: a small model loses itself in more."""

DECOMPOSE = """\
Split a hard question into simple search queries, one at a time.

Question: Which river flows through the city where the inventor of dynamite was born?
Query: where was the inventor of dynamite born
Found: Alfred Nobel was born in Stockholm.
Query: river that flows through Stockholm
Found: Stockholm lies where Lake Malaren meets the Baltic Sea.

Question: Is the protocol under HTTP/3 older than the one under DNS?
Query: transport protocol used by HTTP/3

Question: {question}
{notes}Query:"""

DIFFICULTIES = ("none", "one", "many")
SORT = """\
How many documents must be looked up to answer the question: none, one or many?

Question: What is two plus three?
Documents: none

Question: In which year was the company Ericsson founded?
Documents: one

Question: Which of the two standards bodies behind LTE and Wi-Fi was founded first?
Documents: many

Question: {question}
Documents:"""

CHOOSE = "Answer with the number of the right option only."
_NUMBER = re.compile(r"(?<![\d.])([1-9])(?![\d])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A sub-question, what was found, and whether that was read off passages."""

    query: str
    answer: str
    read: bool


def decompose(question: Question, notes: Sequence[Note], max_new_tokens: int, *, raw: bool) -> Call:
    """The next sub-query."""
    told = "".join(f"Query: {note.query}\nFound: {note.answer}\n" for note in notes[-RECENT:])
    prompt = DECOMPOSE.format(question=question.question, notes=told)
    return Call(prompt=prompt, max_new_tokens=max_new_tokens, raw=raw)


def reason(query: str, passages: Sequence[Passage], max_new_tokens: int) -> Call:
    """The answer to a sub-query, from passages or, without any, from the model's own knowledge."""
    prompt = f"{shown(passages)}{query}\nAnswer in one sentence."
    return Call(prompt=prompt, max_new_tokens=max_new_tokens)


def synthesize(
    question: Question, notes: Sequence[Note], passages: Sequence[Passage], *, likelihood: bool, max_new_tokens: int
) -> Call:
    """The final answer: scored options, an option's number, or a short text.

    Passages speak for themselves: of what was read off them nothing is repeated (better on the held-out questions).
    """
    thought = [note for note in notes if not note.read]
    told = "".join(f"{note.query}: {note.answer}\n" for note in thought[-RECENT:])
    head = shown(passages) + (f"{told}\n" if told else "") + f"Question: {question.question}\n"
    if question.options and likelihood:
        return Call(prompt=f"{head}Answer:", options=question.options)
    if question.options:
        listed = "".join(f"{number}. {option}\n" for number, option in enumerate(question.options, start=1))
        return Call(prompt=f"{head}{listed}{CHOOSE}\nAnswer:", max_new_tokens=max_new_tokens, stop=("\n\n",))
    return Call(prompt=f"{head}Short answer:", max_new_tokens=max_new_tokens)


def sort(question: Question, *, likelihood: bool) -> Call:
    """How many documents the question takes."""
    options = DIFFICULTIES if likelihood else ()
    return Call(prompt=SORT.format(question=question.question), options=options, max_new_tokens=8)


def sorted_as(text: str) -> str:
    """The first of `DIFFICULTIES` named in a reply; `one` where none is."""
    found = re.search("|".join(DIFFICULTIES), text.lower())
    return found.group() if found else "one"


def chosen(text: str, options: Sequence[str]) -> int | None:
    """Index of the option that a generated answer names, by its number or else by its whole text; None if neither."""
    for found in _NUMBER.finditer(text):
        if int(found.group(1)) <= len(options):
            return int(found.group(1)) - 1
    named = [index for index, option in enumerate(options) if option.lower() in text.lower()]
    return named[0] if len(named) == 1 else None


def shown(passages: Sequence[Passage]) -> str:
    """Passages as a prompt has them, the first handed on last: a small model reads best what precedes the question."""
    return "".join(f"{passage.title}: {passage.text}\n\n" for passage in reversed(passages))


def fit(
    make: Callable[[Sequence[Passage]], Call], passages: Sequence[Passage], window: int, tokens: Callable[[str], int]
) -> tuple[Call, int]:
    """The call with as many of the passages, first ones first, as the window holds, and how many were left out."""
    for kept in range(len(passages), -1, -1):
        call = make(passages[:kept])
        longest = max((len(option.encode()) for option in call.options), default=call.max_new_tokens)
        # a token is at least a byte, so most prompts need no tokenizer
        if len(call.prompt.encode()) + longest <= window or tokens(call.prompt) + longest <= window:
            break
    return call, len(passages) - kept
