"""A small Llama that drafts for a larger one: the large one's embedding, projected, and a head over frequent tokens.

At a few million weights almost everything is vocabulary: 49152 x 192 numbers to read a token and as many to write one.
The input embedding is therefore a donor's, `donor_embedding @ embed_project`, made when the model is loaded and never
stored, and the head scores only the `head_ids` a draft is likely to need (FR-Spec: Zhao et al. 2025,
arXiv:2502.14856). All other logits are exactly -inf, so `generate`, and `generate(assistant_model=...)` with a full
model, work unchanged. What this does not know: a loss over tokens outside the head, which is infinite.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from suite.errors import UserError
from suite.models.sources import folder
from suite.models.spec import ModelConfig


@strict
class ShortHeadConfig(LlamaConfig):  # type: ignore[no-untyped-call]
    """A Llama's config, plus where the embedding comes from and how many tokens the head knows."""

    model_type = "short_head_llama"
    num_head_tokens: int = 4096
    """Tokens the head scores; which ones is the buffer `head_ids` of the checkpoint."""
    donor: dict[str, Any] | None = None
    """Model whose input embedding (and tokenizer) this one uses: the fields of a `ModelConfig`."""
    donor_width: int = 576
    """Width of that embedding; when it equals `hidden_size` there is no projection."""
    head_from_donor: bool = False
    """The head's rows are the donor's embedding rows (equal widths only), not stored ones."""


class ShortHead(nn.Linear):
    """Logits (..., vocab) from hidden states (..., hidden): the rows of `head_ids` computed, the rest -inf."""

    head_ids: Tensor  # (num_head_tokens,) int64

    def __init__(self, hidden_size: int, num_head_tokens: int, vocab_size: int) -> None:
        super().__init__(hidden_size, num_head_tokens, bias=False)
        self.vocab_size = vocab_size
        self.register_buffer("head_ids", torch.arange(num_head_tokens))

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits over the whole vocabulary."""
        scores = super().forward(hidden)
        full = scores.new_full((*scores.shape[:-1], self.vocab_size), float("-inf"))
        return full.index_copy(-1, self.head_ids, scores)


class ShortHeadLlama(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """See the module's docstring. A fast path reads `model.head_ids` (n,) and `model.compact_head` (n, hidden)."""

    config_class = ShortHeadConfig
    config: ShortHeadConfig
    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, config: ShortHeadConfig) -> None:
        super().__init__(config)
        self.lm_head = ShortHead(config.hidden_size, config.num_head_tokens, config.vocab_size)
        self.embed_project: nn.Parameter | None = None
        if config.donor_width != config.hidden_size:
            start = torch.randn(config.donor_width, config.hidden_size) / config.donor_width**0.5
            self.embed_project = nn.Parameter(start)
        made = ["model.embed_tokens.weight", *(["lm_head.weight"] if config.head_from_donor else [])]
        self._keys_to_ignore_on_save = self._keys_to_ignore_on_load_missing = made
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def head_ids(self) -> Tensor:
        """Token ids (n,) that the head scores, in the order of `compact_head`."""
        ids: Tensor = self.lm_head.head_ids
        return ids

    @property
    def compact_head(self) -> Tensor:
        """The head's weight (n, hidden): `hidden @ compact_head.T` are the logits of `head_ids`."""
        weight: Tensor = self.lm_head.weight
        return weight

    @torch.no_grad()
    def adopt(self, donor_embedding: Tensor) -> None:
        """Fill in the weights that are not stored, from the donor's embedding (vocab, donor_width)."""
        embedding, project = self.model.embed_tokens.weight, self.embed_project
        donor = donor_embedding.to(embedding.device)
        embedding.copy_(donor if project is None else donor.float() @ project.float())
        if self.config.head_from_donor:
            self.compact_head.copy_(donor[self.head_ids])

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; then the donor's embedding is read, and only that tensor of it."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with output_loading_info=True
        model.adopt(donor_embedding(model.config))
        return loaded


def donor_embedding(config: ShortHeadConfig) -> Tensor:
    """`model.embed_tokens.weight` (vocab, donor_width) of the donor."""
    donor = folder(ModelConfig(**(config.donor or {})))
    for shard in sorted(donor.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            if "model.embed_tokens.weight" in tensors.keys():  # noqa: SIM118
                embedding: Tensor = tensors.get_tensor("model.embed_tokens.weight")
                return embedding
    raise UserError(f"{donor} cannot be the donor of a short-head draft: it has no tensor model.embed_tokens.weight.")


AutoConfig.register(ShortHeadConfig.model_type, ShortHeadConfig, exist_ok=True)
AutoModelForCausalLM.register(ShortHeadConfig, ShortHeadLlama, exist_ok=True)
