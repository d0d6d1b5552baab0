"""The text side of a vision-language model: its prompt around the image, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suite.errors import UserError
from suite.models.loading import Loaded

ANSWER = "<|answer|>"
"""Marks where the answer begins in the embedded model, which knows no chat template."""
PLAIN = "USER: {image}\n{question} ASSISTANT:"
"""Llava 1.5's prompt, for a model whose tokenizer has neither that mark nor a chat template."""


class Words:
    """Tokenizer and prompt of one model."""

    def __init__(self, loaded: Loaded, *, room: int) -> None:
        """Of a model where `room` text tokens fit into a prompt."""
        self._tok: Any = loaded.tokenizer
        self._id = loaded.spec.id
        self._mark: int | None = self._tok.get_vocab().get(ANSWER)
        config = loaded.model.config
        self._place = getattr(self._tok, "image_token", None) or self._tok.convert_ids_to_tokens(config.image_token_id)
        # what Molmo2's processor puts first: the end token, for want of one that begins
        self._opening = self._tok.bos_token or (self._tok.eos_token if config.model_type == "molmo2" else None)
        self.before = torch.tensor(self._prompt("?")[0], dtype=torch.long)
        self._room = room - len(self.before)

    def text(self, question: str) -> Tensor:
        """Ids (length,) of the prompt after the image.

        Raises:
            UserError: the question is empty, too long, or holds the model's own mark of an image.
        """
        _, ids = self._prompt(_checked(question))
        if len(ids) > self._room:
            raise UserError(
                f"the question '{question[:40]}...' has {len(ids)} tokens; the model has room for {self._room}: ask "
                "a shorter one."
            )
        return torch.tensor(ids, dtype=torch.long)

    def words(self, question: str, ids: Tensor) -> list[int]:
        """Ids of the question alone, whose prompt has `ids` from `text`.

        Where the prompt is the question and a mark, they are in it; a chat template may split the words otherwise.
        """
        if self._mark is not None:
            found: list[int] = ids.tolist()
            return found[:-1]
        return self._ids(f" {_checked(question)}")

    def __len__(self) -> int:
        """Tokens in all, added ones included."""
        return len(self._tok)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, without its end."""
        return str(self._tok.decode(list(ids), skip_special_tokens=True)).strip()

    def _prompt(self, question: str) -> tuple[list[int], list[int]]:
        """Ids before and after the image."""
        if self._mark is not None:
            return [], [*self._ids(f" {question}"), self._mark]
        return self._chat(question)

    def _chat(self, question: str) -> tuple[list[int], list[int]]:
        """As the model's chat template writes it, cut at the image's place."""
        if self._tok.chat_template is None:
            text = PLAIN.format(image=self._place, question=question)
        else:
            turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
            text = self._tok.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        if self._opening and not text.startswith(self._opening):
            text = self._opening + text
        ids, place = self._ids(text), self._tok.convert_tokens_to_ids(self._place)
        if ids.count(place) != 1:
            raise UserError(
                f"models.vlm.id={self._id}: the prompt holds {ids.count(place)} marks of an image ({self._place}) "
                "instead of one; look at its chat template and at the question."
            )
        cut = ids.index(place)
        return ids[:cut], ids[cut + 1 :]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tok(text, add_special_tokens=False)["input_ids"]
        return ids


def _checked(question: str) -> str:
    if not question.strip():
        raise UserError("the question is empty; every sample needs one.")
    return question.strip()
