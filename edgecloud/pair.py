"""The models of a method, ready to decode: loaded, wrapped, and checked to speak the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgecloud.lm import THINKER, CachedLM
from edgecloud.omni import AudioProcessor
from edgecloud.schema import SpecDecConfig
from suite.context import RunContext
from suite.errors import UserError
from suite.models.loading import Loaded

TAIL = 48  # tokens decoded to look for a stop string; none is longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The models a method uses; the other is None.

    Attributes:
        processor: makes prompts: an `AudioProcessor` where the model hears, else the tokenizer.
        tokenizer: turns tokens into text.
        eos: tokens that end an output.
        facts: what the record says about each model.
    """

    edge: CachedLM | None
    cloud: CachedLM | None
    processor: Any
    tokenizer: Any
    eos: frozenset[int]
    facts: dict[str, Any]


def load_pair(ctx: RunContext, task: SpecDecConfig) -> Pair:
    """Load what `task.method` needs: the edge on `hardware`, the cloud (and a co-located edge) on `cloud_hardware`.

    Raises:
        UserError: the two tokenizers differ, or a model that hears comes without its feature extractor.
    """
    edge_hardware = task.cloud_hardware if task.method == "colocated" else ctx.config.hardware
    hardware = {"edge": edge_hardware, "cloud": task.cloud_hardware}
    loaded = {name: ctx.model(name, hardware[name]) for name in task.decoders()}
    tokenizers = {name: model.tokenizer for name, model in loaded.items()}
    # models of one family pad their vocabularies differently: only ids that the tokenizer knows are ever decoded
    vocab = min(len(tokenizer) for tokenizer in tokenizers.values())
    vocab = min(vocab, *(model.model.config.get_text_config(decoder=True).vocab_size for model in loaded.values()))
    if len(loaded) == 2:
        _check_same(tokenizers["edge"], tokenizers["cloud"])
    models = {name: CachedLM(one.model, vocab=vocab, engine=task.engine) for name, one in loaded.items()}
    last = loaded["cloud"] if "cloud" in loaded else loaded["edge"]
    hears = last.model.config.model_type == THINKER
    return Pair(
        edge=models.get("edge"),
        cloud=models.get("cloud"),
        processor=AudioProcessor.load(last.folder, last.tokenizer) if hears else last.tokenizer,
        tokenizer=last.tokenizer,
        eos=_end_tokens(last),
        facts={name: _facts(one, models[name], hardware[name].name) for name, one in loaded.items()},
    )


def stopper(texts: list[str], tokenizer: Any) -> Callable[[list[int]], bool] | None:
    """Whether one of `texts` stands at the end of the emitted tokens; None when there is nothing to look for."""
    if not texts:
        return None

    def stop(tokens: list[int]) -> bool:
        tail = tokenizer.decode(tokens[-TAIL:], skip_special_tokens=True)
        return any(text in tail for text in texts)

    return stop


def text_of(tokens: list[int], tokenizer: Any, stops: list[str]) -> str:
    """The output as text, special tokens left out, cut before the first stop string."""
    text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    cut = min((text.find(stop) for stop in stops if stop in text), default=len(text))
    return text[:cut].strip()


def _check_same(edge: Any, cloud: Any) -> None:
    a, b = edge.get_vocab(), cloud.get_vocab()
    differing = next((token for token in a if token in b and a[token] != b[token]), None)
    if differing is not None or len(a.keys() & b.keys()) < 0.99 * min(len(a), len(b)):
        raise UserError(
            f"The edge's and the cloud's tokenizers differ (token {differing!r}); choose two models of one family, "
            "whose token ids mean the same."
        )


def _end_tokens(loaded: Loaded) -> frozenset[int]:
    ends = loaded.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return frozenset(token for token in (*ends, loaded.tokenizer.eos_token_id) if token is not None)


def _facts(loaded: Loaded, model: CachedLM, hardware: str) -> dict[str, Any]:
    return {
        "id": loaded.spec.id,
        "parameters": loaded.parameters,
        "dtype": loaded.dtype,
        "device": loaded.device,
        "hardware_profile": hardware,
        "engine": model.engine_name,
        "load_s": round(loaded.load_s, 3),
        "notes": list(loaded.notes),
    }
