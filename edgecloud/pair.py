"""The models of a method, ready to decode: loaded, wrapped, and checked to speak the same tokens."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgecloud.batch import BatchedLM, Batcher, Lane
from edgecloud.llama_cpp import LlamaCpp, llama_cpp_engine
from edgecloud.lm import THINKER, CachedLM
from edgecloud.omni import AudioProcessor
from edgecloud.schema import SpecDecConfig
from suite.context import RunContext
from suite.errors import UserError
from suite.models.loading import Loaded

if TYPE_CHECKING:
    from edgecloud.remote import Line
    from edgecloud.replay import Tape

TAIL = 48  # tokens decoded to look for a stop string; none is longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The models a method uses; the other is None.

    Attributes:
        processor: makes prompts: an `AudioProcessor` where the model hears, else the tokenizer.
        tokenizer: turns tokens into text.
        eos: tokens that end an output.
        facts: what the record says about each model.
        configs: their config.json, by name, of those in this process.
        vocab: token ids that count, from 0.
        placeholder: token id that stands for sound in a prompt; None where no model hears.
        line: to the cloud, where that is another process.
        batcher: brings pairs on the same weights together; None where samples are decoded one at a time.
        tape: plays both models back from a trace (replay.py); None where they decode themselves.
    """

    edge: CachedLM | None
    cloud: CachedLM | None
    processor: Any
    tokenizer: Any
    eos: frozenset[int]
    facts: dict[str, Any]
    configs: dict[str, dict[str, Any]]
    vocab: int
    placeholder: int | None
    line: Line | None = None
    batcher: Batcher | None = None
    tape: Tape | None = None

    def beside(self) -> Pair:
        """Another pair on the same weights, to decode another sample at the same time."""
        models = (self.edge, self.cloud)
        edge, cloud = (model.owner.sequence() if isinstance(model, Lane) else None for model in models)
        return replace(self, edge=edge, cloud=cloud)


def load_pair(ctx: RunContext, task: SpecDecConfig) -> Pair:
    """Load what `task.method` needs: the edge on `hardware`, the cloud (and a co-located edge) on `cloud_hardware`.

    Raises:
        UserError: the two tokenizers differ, or a model that hears comes without its feature extractor; or the cloud
            is another process, and cannot be reached or is not the one that was asked for.
    """
    edge_hardware = task.cloud_hardware if task.method == "colocated" else ctx.config.hardware
    hardware = {"edge": edge_hardware, "cloud": task.cloud_hardware}
    here = ("edge",) if task.transport == "grpc" else task.decoders()
    loaded = {name: ctx.model(name, hardware[name]) for name in here}
    tokenizers = {name: model.tokenizer for name, model in loaded.items()}
    # models of one family pad their vocabularies differently: only ids that the tokenizer knows are ever decoded
    vocab = min(len(tokenizer) for tokenizer in tokenizers.values())
    vocab = min(vocab, *(model.model.config.get_text_config(decoder=True).vocab_size for model in loaded.values()))
    if len(loaded) == 2:
        _check_same(tokenizers["edge"], tokenizers["cloud"])
    batcher = Batcher() if task.batch_size > 1 else None
    models = {name: _wrapped(one, task, vocab, batcher) for name, one in loaded.items()}
    last = loaded["cloud"] if "cloud" in loaded else loaded["edge"]
    hears = last.model.config.model_type == THINKER
    facts = {name: _facts(one, models[name], hardware[name].name) for name, one in loaded.items()}
    line = None
    if task.transport == "grpc":
        line = _dial(ctx, task, last.tokenizer, vocab, hears)
        facts["cloud"] = _card_facts(line)
    return Pair(
        edge=models.get("edge"),
        cloud=models.get("cloud"),
        processor=AudioProcessor.load(last.folder, last.tokenizer) if hears else last.tokenizer,
        tokenizer=last.tokenizer,
        eos=end_tokens(last) if line is None else frozenset(line.card.eos),
        facts=facts,
        configs={name: one.model.config.to_dict() for name, one in loaded.items()},
        vocab=vocab,
        placeholder=last.model.config.audio_token_id if hears else None,
        line=line,
        batcher=batcher,
    )


def _wrapped(loaded: Loaded, task: SpecDecConfig, vocab: int, batcher: Batcher | None) -> CachedLM:
    """The model on the engine of the task."""
    if batcher is not None:
        slots = task.batch_size
        return BatchedLM(loaded.model, slots=slots, vocab=vocab, batcher=batcher, bits=loaded.pack_bits).sequence()
    engine = llama_cpp_engine(loaded) if task.engine == "llama_cpp" else task.engine
    return CachedLM(loaded.model, vocab=vocab, engine=engine, bits=loaded.pack_bits)


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


def end_tokens(loaded: Loaded) -> frozenset[int]:
    """Tokens that end a model's output."""
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
        **({"weights": model.engine.file.name} if isinstance(model.engine, LlamaCpp) else {}),
        "load_s": round(loaded.load_s, 3),
        "notes": list(loaded.notes),
    }


def _dial(ctx: RunContext, task: SpecDecConfig, tokenizer: Any, vocab: int, hears: bool) -> Line:
    from edgecloud.remote import Line, expecting  # brings gRPC

    spec = ctx.config.models["cloud"]
    check = expecting(spec, task.cloud_hardware.dtype, tokenizer, vocab=vocab, hears=hears)
    token = os.environ.get(task.cloud_token_env) or None
    return Line(task.cloud_address, token=token, timeout_s=task.cloud_timeout_s, check=check)


def _card_facts(line: Line) -> dict[str, Any]:
    card = line.card
    return {
        "id": card.model,
        "revision": card.revision,
        "parameters": card.parameters,
        "dtype": card.dtype,
        "device": card.device,
        "hardware_profile": card.hardware,
        "engine": card.engine,
        "load_s": None,
        "notes": ["another process, over gRPC"],
    }
