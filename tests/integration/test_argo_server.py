"""The engine `openai` against a server that people use: `transformers serve`, on a tiny random chat model."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from argo.calls import Call, Failure, Reply
from argo.openai_engine import OpenAIEngine
from argo.schema import ArgoConfig
from argo.transformers_engine import TransformersEngine
from suite.errors import UserError
from suite.hardware.profile import HardwareConfig
from suite.models.loading import load
from suite.models.plan import Placement
from suite.models.spec import ModelConfig
from tests.argo_runs import free_port, save_chat_model, transformers_serve

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None,
    reason="needs transformers[serving]",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a chat template."""
    return save_chat_model(tmp_path_factory.mktemp("served") / "toy")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The address of a server of that checkpoint."""
    port = free_port()
    with transformers_serve(folder, port, folder.parent / "server.log"):
        yield f"http://127.0.0.1:{port}/v1"


def engine(url: str, **changes: Any) -> OpenAIEngine:
    return OpenAIEngine(
        ArgoConfig(engine="openai", answering="generate", prompt_format="chat", server_url=url, **changes)
    )


def test_a_real_server_says_what_the_engine_of_this_process_says(url: str, folder: Path) -> None:
    prompts = ["hello", "what is a radio unit?", "a longer prompt, with some more words in it"]
    calls = [Call(prompt=prompt, max_new_tokens=n, stop=()) for prompt in prompts for n in (4, 16)]
    calls += [Call(prompt=prompt, max_new_tokens=16, stop=("e", "a")) for prompt in prompts]
    loaded = load(
        ModelConfig(source="path", id=str(folder)), placement=Placement(), hardware=HardwareConfig(dtype="float32")
    )
    wanted = TransformersEngine(loaded, prompt_format="chat", rows=4).answer(calls)
    served = engine(url, server_model=str(folder), server_requests=2).answer(calls)
    compared = 0
    for reply, want in zip(served, wanted, strict=True):
        assert isinstance(want, Reply)
        if not want.text:
            assert isinstance(reply, Failure) and "empty" in reply.error
            continue
        assert isinstance(reply, Reply)
        assert (reply.text, reply.finish) == (want.text, want.finish)
        assert (reply.prompt_tokens, reply.completion_tokens) == (want.prompt_tokens, want.completion_tokens)
        assert reply.latency_ms is not None and reply.latency_ms > 0
        compared += 1
    assert compared >= 6


def test_a_model_that_the_server_does_not_have(url: str) -> None:
    with pytest.raises(UserError, match=r"refuses task\.server_model=another with status 4.*another"):
        engine(url, server_model="another").answer([Call(prompt="hello")])
