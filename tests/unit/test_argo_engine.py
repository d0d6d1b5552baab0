"""The engine of this process: a batch says what each call alone would be told, by a model without any cache."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from argo import headers, transformers_engine
from argo.calls import Call, Failure, Keys, Reply
from argo.headers import common, shared_lengths
from argo.pool import ReplicaPool, Round
from argo.tokens import Row, Wording
from argo.transformers_engine import TransformersEngine
from suite.errors import UserError
from suite.models.loading import Loaded
from suite.models.spec import ModelConfig
from tests import tiny

LETTERS = " abcdefghijklmnopqrstuvwxyz.?!"
HEAD = "the same words before every prompt. " * 3


def loaded(model: Any, **changes: Any) -> Loaded:
    facts: dict[str, Any] = {
        "model": model,
        "tokenizer": tiny.tokenizer(),
        "spec": ModelConfig(source="path", id="/a/folder/toy"),
        "revision": "r",
        "dtype": "float32",
        "folder": Path("."),
        "device": "cpu",
        "load_s": 0.0,
        "parameters": 1,
    }
    return Loaded(**facts | changes)


def engine(model: Any, rows: int = 8) -> TransformersEngine:
    return TransformersEngine(loaded(model), prompt_format="plain", rows=rows)


def naive(model: Any, call: Call) -> Reply:
    """What is right: one call, one token at a time, everything computed anew."""
    words = tiny.tokenizer()
    prompt: list[int] = words(call.prompt).input_ids
    if call.options:
        scores = []
        for option in call.options:
            tail = words((" " if call.prompt[-1] not in " \n" else "") + option).input_ids
            logits = tiny.fresh_logits(model, prompt + tail, keep=len(tail) + 1).log_softmax(-1)
            scores.append(float(logits[:-1].gather(1, torch.tensor(tail)[:, None]).double().sum()))
        best = call.options[scores.index(max(scores))]
        return Reply(
            text=best, scores=tuple(scores), prompt_tokens=0, completion_tokens=0, latency_ms=None, finish="scored"
        )
    said: list[int] = []
    text, finish = "", "length"
    while len(said) < call.max_new_tokens and finish == "length":
        said.append(int(tiny.fresh_logits(model, prompt + said)[0].argmax()))
        text = words.decode(said, skip_special_tokens=True)
        if said[-1] == words.eos_token_id or any(stop in text for stop in call.stop):
            finish = "stop"
    for stop in call.stop:
        text = text.split(stop)[0]
    return Reply(
        text=text.strip(), prompt_tokens=len(prompt), completion_tokens=len(said), latency_ms=None, finish=finish
    )


def assert_same(replies: Sequence[Reply | Failure], wanted: Sequence[Reply]) -> None:
    for reply, want in zip(replies, wanted, strict=True):
        assert isinstance(reply, Reply) and reply.latency_ms is not None and reply.latency_ms > 0
        if want.scores is None:
            assert replace(reply, latency_ms=None) == want
        else:
            assert reply.scores == pytest.approx(want.scores, abs=1e-4) and reply.text == want.text


def some_calls(n: int, seed: int = 0) -> list[Call]:
    """Prompts of many lengths, some with a common head, some to be scored."""
    luck = random.Random(seed)

    def words(most: int) -> str:
        return "".join(luck.choice(LETTERS) for _ in range(luck.randint(1, most)))

    calls = []
    for i in range(n):
        prompt = HEAD * luck.randint(0, 1) + words(40)
        options = tuple(words(7) for _ in range(luck.randint(1, 5))) if i % 3 == 0 else ()
        stop = luck.choice([(), ("\n",), ("a", "e"), (". ", "th")])
        calls.append(Call(prompt=prompt, options=options, max_new_tokens=luck.randint(1, 16), stop=stop))
    return calls


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llama(3)


@pytest.mark.parametrize("make", [tiny.llama, tiny.qwen2, tiny.gpt2, lambda seed: tiny.mistral(seed, 12)])
@pytest.mark.parametrize("pass_tokens", [0, 10**6])  # headers wherever they can be, and nowhere
def test_a_batch_says_what_each_call_alone_would(make: Any, pass_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "PASS_TOKENS", pass_tokens)
    monkeypatch.setattr(transformers_engine, "PASS_TOKENS", 150)
    monkeypatch.setattr(transformers_engine, "SPARE", 5)
    model, calls = make(5), some_calls(12)
    wanted = [naive(model, call) for call in calls]
    for size in (1, 5):
        ours = engine(model, size)
        assert_same(ours.answer(calls), wanted)
        assert bool(ours._headers) == (pass_tokens == 0)
        assert_same(ours.answer(calls[::-1]), wanted[::-1])  # with the headers of before


def test_replies_end_as_they_should(model: Any) -> None:
    def said(*stop: str) -> Reply:
        (reply,) = engine(model).answer([Call(prompt="some words", max_new_tokens=12, stop=stop)])
        assert isinstance(reply, Reply)
        return reply

    whole = said()
    assert (whole.finish, whole.completion_tokens) == ("length", 12)
    letters = whole.text.replace(" ", "")
    cut = said(whole.text[4:6])
    assert cut.finish == "stop" and cut.text == whole.text[: whole.text.index(whole.text[4:6])].strip()
    assert cut.completion_tokens < 12
    assert (said(letters[0]).text, said(whole.text[4:6], letters[0]).text) == ("", "")
    model.generation_config.eos_token_id = [tiny.tokenizer()(letters[0]).input_ids[0], 1]
    try:
        assert (said().text, said().finish) == (letters[0], "stop")
    finally:
        model.generation_config.eos_token_id = None


def test_an_option_that_shares_a_token_with_the_prompt_is_scored_with_it() -> None:
    """` b` is one token: after a prompt that ends in a space, that space belongs to the option."""
    core = Tokenizer(WordLevel({"x": 0, " ": 1, " b": 2, " c": 3, ".": 4}, unk_token="."))
    core.pre_tokenizer = Split(Regex(r" [bc]|[\s\S]"), "isolated")
    model = tiny.llama(1)
    ours = TransformersEngine(
        loaded(model, tokenizer=PreTrainedTokenizerFast(tokenizer_object=core)), prompt_format="plain", rows=4
    )
    calls = [Call(prompt="xx", options=("b", "c")), Call(prompt="xx ", options=("b", "c"))]
    wanted = tiny.fresh_logits(model, [0, 0])[0].log_softmax(-1)[[2, 3]].tolist()
    for reply in ours.answer(calls):
        assert isinstance(reply, Reply) and reply.scores == pytest.approx(wanted, abs=1e-4)


def test_calls_that_cannot_be_answered_fail_alone(model: Any) -> None:
    good = Call(prompt="words", max_new_tokens=3, stop=())
    long = Call(prompt="a" * 1022, max_new_tokens=3)
    replies = engine(model).answer([good, long, Call(prompt=""), replace(long, options=("abcd",))])
    assert_same(replies[:1], [naive(model, good)])
    for reply, words in zip(replies[1:], ("1022 tokens", "prompt is empty", "window of 1024"), strict=True):
        assert isinstance(reply, Failure) and words in reply.error
    assert isinstance(engine(model).answer([replace(long, max_new_tokens=2, stop=())])[0], Reply)
    assert engine(model).answer([]) == []


class FakeSmallMemory:
    """A model in front of a memory that holds `most` rows x columns."""

    def __init__(self, model: Any, most: int, error: Exception) -> None:
        self.model, self.most, self.error, self.refused = model, most, error, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, **inputs: Any) -> Any:
        if inputs["attention_mask"].numel() > self.most:
            self.refused += 1
            raise self.error
        return self.model(**inputs)


ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()]
ERRORS += [RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: out of memory")]


@pytest.mark.parametrize("error", ERRORS)
def test_a_batch_halves_when_memory_runs_out(model: Any, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_engine, "SPARE", 0)
    calls = [Call(prompt="a" * 20 + letter, max_new_tokens=5, stop=()) for letter in LETTERS[:16]]
    small = FakeSmallMemory(model, 5 * 26, error)
    ours = engine(small, 16)
    assert_same(ours.answer(calls), [naive(model, call) for call in calls])
    assert ours.rows == 4 and small.refused == 2
    ours.answer(calls)
    assert small.refused == 2  # it remembers
    long = Call(prompt="a" * 200, max_new_tokens=5)
    failed, fine = ours.answer([long, calls[0]])
    assert isinstance(failed, Failure) and "Memory ran out over a single prompt of 200 tokens" in failed.error
    assert_same([fine], [naive(model, calls[0])])


def test_another_error_is_not_taken_for_a_lack_of_memory(model: Any) -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"):
        engine(FakeSmallMemory(model, 0, RuntimeError("shape mismatch"))).answer([Call(prompt="a")])


def test_a_chat_engine_wraps_the_prompt_in_the_template(model: Any) -> None:
    chat = TransformersEngine(loaded(model), prompt_format="chat", rows=4)
    text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    turn, raw = Call(prompt="hello", max_new_tokens=6, stop=()), Call(prompt="hello", raw=True, stop=())
    scored = Call(prompt="hello", options=("yes", "no"))
    wanted = [naive(model, call) for call in (replace(turn, prompt=text), raw, scored)]
    assert_same(chat.answer([turn, raw, scored]), wanted)
    assert chat.identity != engine(model).identity


def test_a_turn_begins_once(model: Any) -> None:
    """A tokenizer marks the beginning of plain text; a template has done so already."""
    words = tiny.tokenizer()
    mark = ("<|im_start|>", tiny.IDS["im_start"])
    words.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[mark])
    wording = Wording(words, chat=True, ends=None, limit=1000)
    turn, raw = wording.row(0, Call(prompt="hello")), wording.row(1, Call(prompt="hello", raw=True))
    assert isinstance(turn, Row) and isinstance(raw, Row)
    assert (turn.tokens.count(mark[1]), raw.tokens.count(mark[1])) == (2, 1)  # the user's and the assistant's


def test_an_empty_option_leaves_a_token_to_be_scored(model: Any) -> None:
    (reply,) = engine(model).answer([Call(prompt="the end ", options=("", "of"))])
    assert isinstance(reply, Reply) and reply.scores is not None and reply.text == ""
    assert reply.scores[0] > reply.scores[1] > -1000  # what both begin with is in both


def test_the_identity_says_what_decides_an_answer(model: Any) -> None:
    def keyed(prompt_format: str = "plain", **changes: Any) -> str:
        made = TransformersEngine(loaded(model, **changes), prompt_format=prompt_format, rows=4)
        return Keys(made.identity)(Call(prompt="a"))

    other = tiny.tokenizer()
    other.chat_template = tiny.CHAT + " "
    moved = ModelConfig(source="path", id="/another/folder/toy")
    keys = [keyed(), keyed(revision="s"), keyed(dtype="bfloat16"), keyed("chat"), keyed("chat", tokenizer=other)]
    assert len(set(keys)) == 5
    assert keyed(spec=moved) == keys[0] == keyed(tokenizer=other)  # plain prompts see no template
    assert "/a/folder" not in str(engine(model).identity)


def test_models_that_cannot_be_run_are_refused(model: Any) -> None:
    words = tiny.tokenizer()
    words.chat_template = None
    with pytest.raises(UserError, match=r"no chat template; set task\.prompt_format=plain"):
        TransformersEngine(loaded(model, tokenizer=words), prompt_format="chat", rows=4)
    packed = ModelConfig(source="path", id="toy", quantization="4bit")
    with pytest.raises(UserError, match=r"models\.llm\.quantization=4bit needs a GPU"):
        TransformersEngine(loaded(model, spec=packed), prompt_format="plain", rows=4)
    odd = tiny.llama(0)
    odd.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UserError, match=r"linear_attention.*task\.engine=openai"):
        engine(odd)


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(TOKENS, max_size=8), cost=st.integers(0, 12))
def test_headers_are_shared_leave_a_token_and_pay(rows: list[list[int]], cost: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(headers, "PASS_TOKENS", cost)
        lengths = shared_lengths(rows)
    groups: dict[tuple[int, ...], int] = {}
    for row, length in zip(rows, lengths, strict=True):
        assert 0 <= length < len(row)
        if length:
            groups[tuple(row[:length])] = groups.get(tuple(row[:length]), 0) + 1
    assert all((n - 1) * len(header) > cost for header, n in groups.items())
    # no single header for all rows would save more
    if rows:
        whole = min(min(common(rows[0], row) for row in rows), min(map(len, rows)) - 1)
        saved = sum((n - 1) * len(header) - cost for header, n in groups.items())
        assert saved >= (len(rows) - 1) * whole - cost


def test_kinds_of_prompts_get_a_header_each() -> None:
    kinds = [[1] * 5 + [2] * 300, [1] * 5 + [3] * 400]
    rows = [kind + [10 + i] * (i + 1) for i in range(6) for kind in kinds]
    assert shared_lengths(rows) == [305, 405] * 6
    assert shared_lengths(rows[:1]) == [0]


class FakeDying:
    """An engine that answers `good` batches and then raises, or raises at prompts with a `poison`."""

    window, batch = 1000, 4

    def __init__(self, inner: Any, good: int = 10**9, poison: str = "\0") -> None:
        self.inner, self.good, self.poison, self.asked = inner, good, poison, 0
        self.identity = inner.identity

    def answer(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        self.asked += 1
        if self.asked > self.good or any(self.poison in call.prompt for call in calls):
            raise RuntimeError("an illegal memory access was encountered")
        return list(self.inner.answer(calls))

    def tokens(self, text: str) -> int:
        return int(self.inner.tokens(text))


def twins(n: int) -> list[TransformersEngine]:
    return [engine(tiny.llama(3), 4) for _ in range(n)]


def test_two_replicas_say_what_one_does(model: Any) -> None:
    calls = some_calls(30)
    pool = ReplicaPool(twins(2))
    assert pool.batch == 32 and pool.window == 1024 and pool.identity == engine(model).identity
    assert_same(pool.answer(calls), [naive(model, call) for call in calls])
    assert_same(pool.answer(calls[:1]), [naive(model, calls[0])])
    assert pool.answer([]) == []


def test_a_replica_that_dies_leaves_its_work_to_the_rest(model: Any) -> None:
    one, two = twins(2)
    dying = FakeDying(one, good=2)
    pool, calls = ReplicaPool([dying, two]), some_calls(24)
    wanted = [naive(model, call) for call in calls]
    for _ in range(4):
        assert_same(pool.answer(calls), wanted)
    assert pool.alive() == {1} and dying.asked == 4  # two good ones, and two strikes


def test_a_batch_that_no_replica_can_do_fails_alone(model: Any) -> None:
    pool = ReplicaPool([FakeDying(twin, poison="!") for twin in twins(3)])
    calls = [Call(prompt="a" * (20 - i) + "!" * (i == 5), max_new_tokens=3, stop=()) for i in range(20)]
    replies = pool.answer(calls)
    failed = [i for i, reply in enumerate(replies) if isinstance(reply, Failure)]
    assert failed == [4, 5, 6, 7] and pool.alive() == {0, 1, 2}
    assert all("failed on 2 of its replicas: an illegal memory" in replies[i].error for i in failed)  # type: ignore[union-attr]
    rest = [i for i in range(20) if i not in failed]
    assert_same([replies[i] for i in rest], [naive(model, calls[i]) for i in rest])


class FakeMoody(FakeDying):
    """An engine that raises at every other batch, beginning with the first."""

    def answer(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        self.good = self.asked + self.asked % 2
        return super().answer(calls)


def test_failures_apart_kill_no_replica_and_are_not_its_own_to_repeat(model: Any) -> None:
    one, two = twins(2)
    moody, calls = FakeMoody(one), [Call(prompt="a" * n, max_new_tokens=3, stop=()) for n in range(1, 33)]
    pool = ReplicaPool([moody, two])
    pool.batch = 8  # eight batches of four
    round_ = Round(pool, calls)
    round_.work(0)
    assert moody.asked == 8 and len(round_.outcomes) == 16 and pool.alive() == {0, 1}
    round_.work(1)
    assert_same([round_.outcomes[i] for i in range(32)], [naive(model, call) for call in calls])


def test_no_replica_left_is_an_error() -> None:
    pool = ReplicaPool([FakeDying(twin, good=0) for twin in twins(2)])
    with pytest.raises(UserError, match="All 2 replicas of the model failed; the last said: an illegal memory"):
        pool.answer(some_calls(20))
    with pytest.raises(UserError, match="All 2 replicas"):
        pool.answer(some_calls(3))
