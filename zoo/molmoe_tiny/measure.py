"""What each knob is worth: accuracy on held-out images and latency, one knob at a time with the others at full.

An answer is right when every token of it, its end included, is the likeliest one after the question and the tokens
before: what greedy decoding would have written. Blocks are kept by importance, the accuracy that is lost on `tune`
images when one block is removed.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controller import crops
from controller.knobs import DENSE, SPARSE, knobs
from controller.space import kept_blocks
from suite.stats import mean_ci, paired_difference
from zoo.molmoe_tiny import corpus, model
from zoo.molmoe_tiny.batches import Batch, Maker, mask, positions, tokens_of
from zoo.molmoe_tiny.eyes import see
from zoo.molmoe_tiny.model import DEPTHS, TOP_KS
from zoo.molmoe_tiny.questions import SETS

FULL = {"tier": "high", "top_k": max(TOP_KS), "blocks": max(DEPTHS)}
KNOBS: dict[str, Sequence[Any]] = {"tier": tuple(crops.TIERS), "top_k": TOP_KS, "blocks": DEPTHS}
CHUNK = 20
"""Images at once: the experts' buffers stay under what the C library takes from the system anew each time (32 MB)."""


class Judge:
    """Held-out images with one question each, encoded once; says which are answered right at any setting."""

    def __init__(self, made: Any, tok: Any, split: str, count: int) -> None:
        made.model.language_model.set_experts_implementation(DENSE)
        self.model = made
        maker = Maker(tok, shares={}, text=0)
        samples = [corpus.sample(split, name, i) for name in SETS for i in range(count)]
        self.sets = np.array([name for name in SETS for _ in range(count)])
        self.chunks: list[tuple[Batch, Tensor]] = []
        with torch.inference_mode():
            for start in range(0, len(samples), CHUNK):
                batch = maker.collate(samples[start : start + CHUNK])
                self.chunks.append((batch, see(made, batch)))

    def right(self, *, tier: str, top_k: int, kept: Sequence[int]) -> np.ndarray:
        """Whether each sample is answered right, (samples,) of 0 and 1."""
        told = []
        with torch.inference_mode(), knobs(self.model, top_k=top_k, kept=kept):
            for batch, seen in self.chunks:
                logits = answer(self.model, batch, seen[:, tokens_of(tier)])
                wrong = (logits.argmax(-1) != batch.ids.roll(-1, 1)[batch.scored]).float()
                rows = torch.nonzero(batch.scored)[:, 0]
                told.append(torch.zeros(len(seen)).index_add_(0, rows, wrong) == 0)
        return torch.cat(told).double().numpy()


def answer(made: Any, batch: Batch, seen: Tensor) -> Tensor:
    """Logits (answer tokens, vocabulary) from the vision tokens of one tier, (images, tokens, width)."""
    vision = torch.ones(seen.shape[:2], dtype=torch.bool)
    embeds = torch.cat([seen, made.get_input_embeddings()(batch.ids).to(seen.dtype)], dim=1)
    hidden = made.model.language_model(
        inputs_embeds=embeds, attention_mask=mask(batch.segment, vision), position_ids=positions(batch, vision),
        use_cache=False,
    ).last_hidden_state[:, seen.shape[1] :]  # fmt: skip
    logits: Tensor = made.lm_head(hidden[batch.scored]).float()
    return logits


def importance(judge: Judge) -> list[float]:
    """Accuracy lost when each block alone is removed."""
    depth = len(judge.model.model.language_model.layers)
    path = {"tier": FULL["tier"], "top_k": FULL["top_k"]}
    whole = judge.right(**path, kept=range(depth)).mean()
    without = [judge.right(**path, kept=[i for i in range(depth) if i != out]).mean() for out in range(depth)]
    return [float(whole - accuracy) for accuracy in without]


def marginals(judge: Judge, scores: Sequence[float]) -> dict[str, Any]:
    """Accuracy by knob, setting and data set with 95 % intervals, and the difference that each knob makes."""
    found: dict[str, Any] = {}
    for knob, settings in KNOBS.items():
        at = {value: _right(judge, scores, {**FULL, knob: value}) for value in settings}
        found[knob] = {
            "settings": {str(value): _by_set(judge, right) for value, right in at.items()},
            "differences": {f"{a} to {b}": _difference(at[b], at[a]) for a, b in itertools.pairwise(settings)}
            | {f"{settings[0]} to {value}": _difference(at[value], at[settings[0]]) for value in settings[2:]},
        }
    return found


def _right(judge: Judge, scores: Sequence[float], setting: dict[str, Any]) -> np.ndarray:
    return judge.right(tier=setting["tier"], top_k=setting["top_k"], kept=kept_blocks(scores, setting["blocks"]))


def _by_set(judge: Judge, right: np.ndarray) -> dict[str, Any]:
    groups = {"all": right} | {name: right[judge.sets == name] for name in SETS}
    estimates = {name: mean_ci(values, seed=0) for name, values in groups.items()}
    return {name: {"value": e.value, "ci95": e.ci95, "n": e.n} for name, e in estimates.items()}


def _difference(more: np.ndarray, less: np.ndarray) -> dict[str, Any]:
    gap = paired_difference(more, less, seed=0)
    return {"value": gap.value, "ci95": gap.ci95, "n": gap.n}


def latency(made: Any, tok: Any, scores: Sequence[float], *, samples: int, rounds: int) -> dict[str, Any]:
    """Median milliseconds of one question with a two-token answer, by knob; settings take turns within a round.

    The same batch-of-one path that an adapter takes: crops of this tier only, sparse experts, a KV cache.
    """
    made.model.language_model.set_experts_implementation(SPARSE)
    settings = {(knob, str(value)): {**FULL, knob: value} for knob, values in KNOBS.items() for value in values}
    settings["all", "cheapest"] = {knob: values[0] for knob, values in KNOBS.items()}
    settings["all", "dearest"] = dict(FULL)
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in settings}
    asked = [corpus.sample("tune", name, i) for i in range(samples) for name in SETS]
    for turn, one in itertools.product(range(rounds + 1), asked):
        for key, setting in settings.items():
            seconds = _timed(made, tok, one, setting["tier"], setting["top_k"], kept_blocks(scores, setting["blocks"]))
            if turn:  # the first round warms up
                taken[key].append(seconds)
    found: dict[str, Any] = {}
    for (knob, value), times in taken.items():
        found.setdefault(knob, {})[value] = {"ms": 1000 * statistics.median(times), "n": len(times)}
    return found


def _timed(made: Any, tok: Any, one: corpus.Sample, tier: str, top_k: int, blocks: Sequence[int]) -> float:
    start = time.perf_counter()
    with torch.inference_mode(), knobs(made, top_k=top_k, kept=blocks):
        for _ in answers(made, tok, one.scene.image, one.questions[0].text, tier, most=2, stop=False):
            pass
    return time.perf_counter() - start


def answers(
    made: Any, tok: Any, image: Any, question: str, tier: str, *, most: int = 16, stop: bool = True
) -> Iterator[int]:
    """Greedy answer tokens, one at a time, with a KV cache; `stop` ends at the end token."""
    from transformers import DynamicCache

    pixels = torch.from_numpy(crops.crops(image[None], crops.TIERS[tier])[0])
    ids = [tok.convert_tokens_to_ids(model.IMAGE)] * (len(pixels) * crops.TOKENS) + model.asked(tok, question)
    cache = DynamicCache()
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids]), "pixel_values": pixels}
    for _ in range(most):
        logits = made(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        token = int(logits[0, -1].argmax())
        yield token
        if stop and token == tok.eos_token_id:
            return
        inputs = {"input_ids": torch.tensor([[token]])}
