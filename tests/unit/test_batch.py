"""Batches: each sequence as if it were alone, whoever else is computed with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch

from edgecloud import batch as batches
from edgecloud.batch import BatchedLM, Batcher, Feed, LeanBatch, in_lanes
from edgecloud.decode import Ending, Output, Rules, generate, speculate
from edgecloud.gates import GATES
from edgecloud.lean import LeanLlama, Sound
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling
from edgecloud.verify import VERIFIERS, Verification, in_process
from suite.errors import UserError
from tests.tiny import fresh_logits, gpt2, llama, qwen2, related, short_head, sound, thinker

MODELS = {
    "llama": lambda: llama(1),
    "llama, one group": lambda: llama(2, num_key_value_heads=1),
    "llama, no groups": lambda: llama(3, num_key_value_heads=4),
    "qwen2": lambda: qwen2(6),
    "thinker": lambda: thinker(11),
}


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("first_length", [4, 512])
@torch.inference_mode()
def test_any_ragged_walk_gives_the_logits_of_fresh_forwards(
    name: str, first_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step feeds some of four slots, in any order, after random roll-backs."""
    monkeypatch.setattr(batches, "FIRST_LENGTH", first_length)
    model, luck = MODELS[name](), torch.Generator().manual_seed(first_length)
    engine, held = LeanBatch(model, slots=4), [list[int]() for _ in range(4)]

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=luck))

    for _ in range(25):
        feeds = []
        for slot in torch.randperm(4, generator=luck)[: number(1, 4)].tolist():
            length = number(0, len(held[slot])) if number(0, 2) == 0 else len(held[slot])
            engine.rollback(slot, length)
            n = number(1, 9) if number(0, 1) else 1
            tokens = torch.randint(0, 40, (n,), generator=luck).tolist()
            held[slot] = held[slot][:length] + tokens
            feeds.append(Feed(slot, tokens, number(1, n)))
        for feed, found in zip(feeds, engine.feed(feeds), strict=True):
            same(found, fresh_logits(model, held[feed.slot], feed.keep))


@torch.inference_mode()
def test_short_head_and_sound_go_to_the_right_rows() -> None:
    head = list(range(1, 40, 3))
    model = short_head(9, head)
    found = LeanBatch(model, slots=2).feed([Feed(1, [5, 6, 7], 2), Feed(0, [8], 1)])
    same(found[0], fresh_logits(model, [5, 6, 7], 2)[:, head])
    same(found[1], fresh_logits(model, [8])[:, head])

    hearing, luck = thinker(3), torch.Generator().manual_seed(0)
    heard = [Sound([1, 3], torch.randn(2, 24, generator=luck)), Sound([0], torch.randn(1, 24, generator=luck))]
    asked = [([4, 5, 6, 7, 8], heard[0]), ([9, 1], heard[1]), ([2, 3], None)]
    together = LeanBatch(hearing, slots=3).feed([Feed(i, t, len(t), s) for i, (t, s) in enumerate(asked)])
    for (tokens, what), found_logits in zip(asked, together, strict=True):
        same(found_logits, LeanLlama(hearing).feed(tokens, len(tokens), what))


def decoded(
    edge: CachedLM, cloud: CachedLM, prompt: Prompt, case: int, *, temperature: float, rule: str = "lossless"
) -> Output:
    how = Verification(sampling=Sampling(temperature=temperature))
    rules = Rules(k=1 + case % 4, gate=GATES["always"], threshold=0.0, heuristic=case % 3 == 0)
    ending = Ending(max_new_tokens=8 + case % 9, eos=frozenset([3]))
    return speculate(*in_process(edge, cloud, VERIFIERS[rule], how), prompt, rules, ending, Luck(1, str(case)))


def prompts(number: int) -> list[Prompt]:
    luck = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 20, (number,), generator=luck).tolist()
    return [Prompt(tokens=torch.randint(4, 40, (n,), generator=luck).tolist()) for n in lengths]


def side_by_side(models: list[BatchedLM], workers: int, work: Callable[..., Any], items: list[Any]) -> list[Any]:
    """`work(*sequences, case, item)` of all items, `workers` at a time."""
    lanes = [[model.sequence() for model in models] for _ in range(workers)]
    one = in_lanes([partial(work, *lane) for lane in lanes], models[0].batcher)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, range(len(items)), items))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("workers", [2, 5])
def test_speculation_in_a_batch_emits_the_tokens_of_each_alone(workers: int, temperature: float) -> None:
    cloud_model = llama(1)
    edge_model = related(cloud_model, 2, noise=0.15)
    edge, cloud, asked = CachedLM(edge_model), CachedLM(cloud_model), prompts(24)
    alone = [decoded(edge, cloud, prompt, i, temperature=temperature) for i, prompt in enumerate(asked)]
    batcher = Batcher()
    models = [BatchedLM(model, slots=workers, batcher=batcher) for model in (edge_model, cloud_model)]

    def work(edge: CachedLM, cloud: CachedLM, case: int, prompt: Prompt) -> Output:
        return decoded(edge, cloud, prompt, case, temperature=temperature)

    together = side_by_side(models, workers, work, asked)
    assert [out.tokens for out in together] == [out.tokens for out in alone]
    assert [out.counters for out in together] == [out.counters for out in alone]
    assert sum(out.counters.corrected for out in alone) > 10


def test_a_clip_is_heard_by_its_own_sequence() -> None:
    model, placeholder = thinker(3), thinker(3).config.audio_token_id
    clips = [sound(seed, frames) for seed, frames in ((1, 16), (2, 24), (3, 16), (4, 40))]
    asked = [Prompt(tokens=[4, *[placeholder] * 10, 6 + i], audio=clip) for i, clip in enumerate(clips)]
    asked.append(Prompt(tokens=[4, 5, 6]))

    def work(lm: CachedLM, case: int, prompt: Prompt) -> list[int]:
        return generate(lm, prompt, Ending(max_new_tokens=12), Sampling(), Luck(0, ""), "cloud").tokens

    alone = [work(CachedLM(model), 0, prompt) for prompt in asked]
    assert side_by_side([BatchedLM(model, slots=3)], 3, work, asked) == alone


class FakeBatch:
    """Notes who was computed with whom; the answer is the slot's number."""

    def __init__(self, weights: int = 1) -> None:
        self.weights, self.calls = weights, list[list[int]]()

    def feed(self, feeds: list[Feed]) -> list[torch.Tensor]:
        self.calls.append(sorted(feed.slot for feed in feeds))
        if any(feed.tokens == [13] for feed in feeds):
            raise ZeroDivisionError("13")
        return [torch.tensor([feed.slot]) for feed in feeds]


def members(batcher: Batcher, works: list[Callable[[], Any]]) -> list[Any]:
    """All works, each by a member; they begin when all are members."""
    ready = threading.Barrier(len(works))

    def one(work: Callable[[], Any]) -> Any:
        with batcher.member():
            ready.wait()
            return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(one, work) for work in works]]


def asking(batcher: Batcher, batch: Any, slot: int, times: int, tokens: list[int] | None = None) -> Callable[[], Any]:
    return lambda: [int(batcher.compute(batch, Feed(slot, tokens or [1], 1))) for _ in range(times)]


def test_members_are_computed_together_and_leave_when_they_are_done() -> None:
    batcher, batch = Batcher(), FakeBatch()
    found = members(batcher, [asking(batcher, batch, slot, times=slot + 1) for slot in range(4)])
    assert found == [[0], [1, 1], [2, 2, 2], [3, 3, 3, 3]]
    assert batch.calls == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3]]


def test_the_model_most_wait_for_comes_first_and_of_two_the_smaller() -> None:
    batcher, small, large = Batcher(), FakeBatch(1), FakeBatch(9)
    order = list[FakeBatch]()
    for batch in (small, large):
        feed = batch.feed
        batch.feed = lambda feeds, batch=batch, feed=feed: (order.append(batch), feed(feeds))[1]  # type: ignore
    members(batcher, [asking(batcher, large, 0, 1), asking(batcher, large, 1, 1), asking(batcher, small, 2, 1)])
    members(batcher, [asking(batcher, large, 0, 1), asking(batcher, small, 1, 1)])
    assert order == [large, small, small, large]


def test_an_error_is_that_of_its_pass_and_the_others_go_on() -> None:
    batcher, good, bad = Batcher(), FakeBatch(), FakeBatch()

    def failing() -> str:
        with pytest.raises(ZeroDivisionError):
            batcher.compute(bad, Feed(0, [13], 1))  # type: ignore[arg-type]
        return "failed"

    assert members(batcher, [failing, asking(batcher, good, 1, 3), asking(batcher, good, 2, 3)]) == [
        "failed",
        [1, 1, 1],
        [2, 2, 2],
    ]


def test_who_is_no_member_is_served_at_once() -> None:
    batcher, batch = Batcher(), FakeBatch()
    assert asking(batcher, batch, 5, 2)() == [5, 5]
    assert batch.calls == [[5], [5]]


def test_stop_wakes_and_ends_all() -> None:
    batcher, batch = Batcher(), FakeBatch()
    late = threading.Event()

    def never_asks() -> None:
        late.wait(10)

    def ends() -> str:
        with pytest.raises(CancelledError):
            batcher.compute(batch, Feed(0, [1], 1))  # type: ignore[arg-type]
        late.set()
        return "ended"

    def stops() -> None:
        while not batcher._waiting:
            pass
        batcher.stop()

    assert members(batcher, [ends, never_asks, stops]) == ["ended", None, None]
    assert batch.calls == []


def test_slots_are_given_out_and_given_back() -> None:
    model = BatchedLM(llama(1), slots=1)
    first = model.sequence()
    first.logits([1, 2, 3])
    with pytest.raises(UserError, match="All 1 places on the model are taken"):
        model.sequence()
    first.close()
    same(model.sequence().logits([4, 5]), fresh_logits(llama(1), [4, 5]))


def test_a_model_of_another_architecture_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"A gpt2 model cannot decode several samples at once; set task\.batch_size=1"):
        BatchedLM(gpt2(1), slots=2)
