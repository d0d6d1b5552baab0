"""What the tower and the projector learn alone: to say what lies under every vision token.

Without this start the decoder learns which answers are frequent, finds the image useless, and stays there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.molmoe_tiny import corpus
from zoo.molmoe_tiny.batches import Batch

NOTHING = 0.15
"""Weight of a vision token that shows nothing, in the loss."""
SHARP = 4.0
"""What a word's match with a vision token is multiplied by at the start."""


class Eyes(nn.Module):
    """The heads that say what a vision token must contain, most of them in the decoder's own words.

    A token that shows a red circle must look like the embeddings of " red" and " circle". So question and image speak
    one language before the decoder learns anything, and matching them is one thing to learn, not one a word.
    """

    def __init__(self, model: Any, tok: Any) -> None:
        super().__init__()
        self._embedding = [model.get_input_embeddings()]  # in a list: its weights are the model's
        width = model.config.text_config.hidden_size
        self.words = {name: [tok(text)["input_ids"][0] for text in texts] for name, texts in corpus.WORDS.items()}
        self.turn = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.full((len(self.words),), SHARP))
        self.nothing = nn.Parameter(torch.zeros(len(self.words)))
        self.plain = nn.ModuleDict(
            {name: nn.Linear(width, size) for name, size in corpus.LABELS.items() if name not in self.words}
        )

    def forward(self, seen: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the heads; seen is (..., width), labels (..., len(corpus.LABELS))."""
        total = seen.new_zeros(())
        for logits, truth in zip(self.logits(seen), labels.flatten(0, -2).T, strict=True):
            weight = torch.ones(logits.shape[-1])
            weight[0] = NOTHING
            total = total + F.cross_entropy(logits, truth, weight)
        return total / len(corpus.LABELS)

    def logits(self, seen: Tensor) -> tuple[Tensor, ...]:
        """Scores of each head, (tokens, its answers)."""
        tokens = seen.flatten(0, -2)
        turned = self.turn(tokens)
        return tuple(self._head(name, turned if name == "next" else tokens).float() for name in corpus.LABELS)

    def _head(self, name: str, tokens: Tensor) -> Tensor:
        if name in self.plain:
            told: Tensor = self.plain[name](tokens)
            return told
        place = list(self.words).index(name)
        scores = self.scale[place] * (tokens @ self._embedding[0].weight[self.words[name]].T.to(tokens.dtype))
        return torch.cat([self.nothing[place].expand(len(tokens), 1).to(scores.dtype), scores], dim=1)


def see(model: Any, batch: Batch) -> Tensor:
    """Vision tokens of all three grids, (images, 224, width)."""
    features = model.model.vision_tower(batch.pixels).last_hidden_state
    return model.model.multi_modal_projector(features).view(len(batch.ids), -1, model.config.text_config.hidden_size)
