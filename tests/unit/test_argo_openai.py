"""The engine that asks a server: what it gets over, what fails one call, and what ends the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from argo import openai_engine
from argo.calls import Call, Failure, Reply
from argo.openai_engine import OpenAIEngine
from argo.schema import ArgoConfig
from suite.errors import UserError
from tests.fake_server import FakeServer, fake_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(openai_engine, "RETRIES", 2)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    with fake_server() as running:
        yield running


def engine(url: str, **changes: Any) -> OpenAIEngine:
    options: dict[str, Any] = {"server_model": "toy", "server_url": url, "server_timeout_s": 20.0} | changes
    return OpenAIEngine(ArgoConfig(engine="openai", answering="generate", prompt_format="chat", **options))


def ask(ours: OpenAIEngine, *prompts: str) -> list[Reply | Failure]:
    return ours.answer([Call(prompt=prompt) for prompt in prompts])


def test_answers_come_in_order_and_several_are_under_way(server: FakeServer) -> None:
    ours = engine(server.url, server_requests=4)
    replies = ask(ours, *(f"say number {i}" for i in range(20)))
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == [f"number {i}" for i in range(20)]
    assert 1 < server.most <= 4 and ours.batch == 16


def test_a_reply_says_what_it_took(server: FakeServer) -> None:
    calls = [Call(prompt="say yes", max_new_tokens=9), Call(prompt="endless words", max_new_tokens=9, stop=())]
    cut, whole = engine(server.url, server_requests=1).answer(calls)
    assert isinstance(cut, Reply) and isinstance(whole, Reply)
    assert (cut.text, cut.prompt_tokens, cut.completion_tokens, cut.finish) == ("yes", 7, 3, "stop")
    assert cut.latency_ms is not None and 20 <= cut.latency_ms < 20_000
    assert (whole.text, whole.finish) == ("words \nand more", "length")
    assert [(body["temperature"], body["max_tokens"], body.get("stop")) for body in server.bodies] == [
        (0.0, 9, ["\n"]),
        (0.0, 9, None),
    ]


@pytest.mark.parametrize("how", ["busy", "shaky", "trips", "slow"])
def test_what_a_server_gets_over_is_tried_again(server: FakeServer, how: str) -> None:
    (reply,) = ask(engine(server.url, server_timeout_s=0.5), f"{how} yes")
    assert isinstance(reply, Reply) and reply.text == "yes"
    assert len(server.seen) == (3 if how == "busy" else 2)


@pytest.mark.parametrize(
    ("how", "words", "requests"),
    [
        ("broken", "status 500 (out of cards)", 3),
        ("long", "status 400 (maximum context length is 10 tokens)", 1),
        ("page", "no chat completion (<html>It works!</html>)", 1),
        ("cut", "no chat completion", 1),
        ("choiceless", "no chat completion", 1),
        ("number", "no chat completion (17)", 1),
        ("silent", "answer is empty", 1),
        ("stalls", "no answer within task.server_timeout_s, 3 times", 3),
        ("drops", "connection to the server was lost", 3),
    ],
)
def test_what_it_does_not_get_over_fails_one_call(server: FakeServer, how: str, words: str, requests: int) -> None:
    replies = ask(engine(server.url, server_timeout_s=0.5, server_requests=3), "say yes", how, "say no")
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == ["yes", "no"]
    assert isinstance(replies[1], Failure) and words in replies[1].error
    assert sum(prompt == how for prompt, _ in server.seen) == requests


def test_no_server_is_one_sentence_and_only_when_asked(server: FakeServer) -> None:
    ours = engine("http://127.0.0.1:9/v1")
    assert ours.answer([]) == [] and ours.window > 1000 and ours.tokens("a few words of English") >= 5
    with pytest.raises(UserError, match=r"No server answers at task\.server_url=http://127\.0\.0\.1:9/v1"):
        ask(ours, "say yes")


def test_a_server_that_goes_away_fails_the_rest_at_once(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    ours = engine(server.url, server_requests=1)
    ask(ours, "say yes")
    server.shutdown()
    server.server_close()
    with caplog.at_level(logging.WARNING):
        replies = ask(ours, *(f"say {i}" for i in range(20)))
    assert all(isinstance(reply, Failure) and "start it and run again" in reply.error for reply in replies)
    assert sum("is gone" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("greeting", ["broken", "busy", "page", "silent", "stalls"])
def test_a_server_that_is_not_itself_yet_gets_its_calls(server: FakeServer, greeting: str) -> None:
    server.greeting = greeting
    assert isinstance(ask(engine(server.url, server_timeout_s=0.5), "say yes")[0], Reply)


def test_an_unknown_model_ends_the_run(server: FakeServer) -> None:
    with pytest.raises(UserError, match=r"refuses task\.server_model=tiger with status 404 \(.*does not exist"):
        ask(engine(server.url, server_model="tiger"), "say yes", "say no")
    assert server.seen == []


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.key = "sesame-1234"
    with pytest.raises(UserError, match=r"status 401 \(this key is not known\).*variable MY_KEY"):
        ask(engine(server.url, server_key_env="MY_KEY"), "say yes")
    monkeypatch.setenv("MY_KEY", "sesame-1234")
    with caplog.at_level(logging.DEBUG):
        ours = engine(server.url, server_key_env="MY_KEY")
        ask(ours, "say yes", "broken")
    assert ("say yes", "Bearer sesame-1234") in server.seen  # two requests are under way at once
    assert "sesame" not in caplog.text and "sesame" not in json.dumps(ours.identity) and "sesame" not in repr(ours)
