"""A replay cannot be told from a live run: every token, counter and position, over hundreds of settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from edgecloud import gates, verify
from edgecloud.costs import Costs
from edgecloud.decode import Ending, Output, speculate
from edgecloud.lm import CachedLM, Prompt
from edgecloud.replay import RecordedCloud, RecordedDrafter, Tape
from edgecloud.sampling import Luck
from edgecloud.trace import SampleTrace, Trace
from suite.errors import UserError
from tests import tiny
from tests.loop import Way, together

EOS = frozenset({2, 7})
PROMPTS = {f"p{i}": Prompt(tokens=[1 + (7 * i + 3 * j) % 39 for j in range(3 + 2 * i)]) for i in range(3)}
GATES: list[tuple[gates.Gate, list[float]]] = [
    (gates.always, [0.0]),
    (gates.entropy, [0.0, 0.3, 0.8, 1.5, math.inf]),
    (gates.confidence, [0.4, 0.8]),
    (gates.adaedl, [0.4, 0.7]),
    (gates.uhlm, [0.2, 0.5]),
    (gates.random, [0.3, 0.8]),
    (gates.oracle, [0.5, 2.0]),
]
VERIFIERS: list[dict[str, Any]] = [
    {"verifier": verify.lossless},
    {"verifier": verify.rank, "rank_threshold": 1},
    {"verifier": verify.rank, "rank_threshold": 3},
    {"verifier": verify.bild, "surprise_threshold_nats": 2.0},
]


def settings() -> Iterator[tuple[Way, Ending]]:
    """Every gate and verifier with draft lengths fixed and adaptive, stopped early or not, long and short outputs."""
    for (gate, thresholds), how, k in product(GATES, VERIFIERS, (1, 2, 3, 5)):
        for threshold in thresholds:
            way = Way(gate=gate, threshold=threshold, k=k, **how)
            yield way, Ending(max_new_tokens=14, eos=EOS)
            yield replace(way, heuristic=True), Ending(max_new_tokens=5 + k, eos=EOS)
            stopping = replace(way, draft_stop=gates.entropy, draft_stop_threshold=0.7)
            yield stopping, Ending(max_new_tokens=9, stop=lambda tokens: 11 in tokens[4:])


class Player:
    """Decodes as `together` does, from a trace."""

    def __init__(self, trace: Trace, models: Callable[[], tuple[CachedLM, CachedLM]] | None) -> None:
        self.trace, self.tape = trace, Tape(trace.costs, models)

    def __call__(self, name: str, way: Way, ending: Ending) -> Output:
        prompt = PROMPTS[name]
        sample = self.trace.samples.get(name) or self.trace.add(
            SampleTrace(id=name, asked=name, prompt=prompt.tokens, features_ms=None)
        )
        self.tape.begin(sample, lambda: prompt)
        drafter = RecordedDrafter(
            self.tape, way.stops if way.draft_stop else None, lots=gates.random in (way.gate, way.draft_stop)
        )
        cloud = RecordedCloud(self.tape, way.verifier, way.how, ending.eos)
        out = speculate(
            drafter, cloud, Prompt(tokens=sample.prompt), way.rules, ending, Luck(0, name), clock=self.tape.clock
        )
        self.trace.save(sample)
        return out


def told(out: Output) -> dict[str, Any]:
    """All of an output but its times; a model that reads two tokens at once may round an entropy another way."""
    turns = [{name: value for name, value in asdict(turn).items() if not name.endswith("_s")} for turn in out.rounds]
    return {
        "tokens": out.tokens,
        "sources": out.sources,
        "entropies": [value if value is None else round(value, 4) for value in out.entropies],
        "counters": asdict(out.counters),
        "rounds": turns,
    }


def pair(noise: float = 0.2) -> tuple[CachedLM, CachedLM]:
    cloud = tiny.llama(1)
    return CachedLM(tiny.related(cloud, 2, noise=noise)), CachedLM(cloud)


@pytest.fixture
def new(tmp_path: Path) -> Trace:
    trace = Trace(tmp_path / "t.jsonl", {"models": "tiny"})
    trace.begin({})
    return trace


def test_over_600_settings_equal_live_in_every_token_and_counter_while_recording_and_covered(new: Trace) -> None:
    edge, cloud = pair()
    live = [(f"p{i % len(PROMPTS)}", way, end) for i, (way, end) in enumerate(settings())]
    assert len(live) >= 600
    wanted = [told(together(edge, cloud, PROMPTS[name], way, end, Luck(0, name))) for name, way, end in live]
    kinds = {source for one in wanted for source in one["sources"]}
    assert kinds == {"edge", "accepted", "corrected", "bonus"}

    recording = Player(new, lambda: (edge, cloud))
    for (name, way, end), one in zip(live, wanted, strict=True):
        assert told(recording(name, way, end)) == one, (name, way)
    covered = Player(Trace(new.path, new.made_of), None)  # from the file, and no models behind it
    for (name, way, end), one in zip(live, wanted, strict=True):
        assert told(covered(name, way, end)) == one, (name, way)
        assert covered.tape.live == covered.tape.calls == 0


def play(trace: Trace, models: Any, **changes: Any) -> Player:
    """A player that has decoded p0 in one way."""
    player = Player(trace, models)
    player("p0", Way(**changes), Ending(max_new_tokens=10))
    return player


def test_coverage_tells_what_the_trace_answered_and_what_the_models_had_to_be_asked(new: Trace) -> None:
    models = pair()
    first = play(new, lambda: models).tape
    assert first.live == first.consulted > 0 and first.calls > 0
    again = play(new, lambda: models).tape
    assert (again.live, again.calls, again.consulted) == (0, 0, first.consulted)
    other = play(new, lambda: models, gate=gates.entropy, threshold=math.inf).tape  # leaves the cloud's path
    assert 0 < other.live < other.consulted


def test_a_covered_replay_asks_for_no_model(new: Trace) -> None:
    models = pair()
    play(new, lambda: models)
    loaded: list[str] = []
    play(new, lambda: loaded.append("loaded") or models)
    assert not loaded


def test_a_trace_that_ends_refuses_the_sample_where_it_may_not_grow(new: Trace) -> None:
    models = pair()
    play(new, lambda: models)
    with pytest.raises(UserError, match=r"The trace of p0 ends after \d+ tokens .* task.on_trace_end=live"):
        play(new, None, gate=gates.entropy, threshold=math.inf)


def test_a_prompt_that_is_not_the_recorded_one_is_never_played_on(new: Trace) -> None:
    models = pair()
    play(new, lambda: models)
    player = Player(new, lambda: models)
    player.tape.begin(new.samples["p0"], lambda: Prompt(tokens=[1]))
    with pytest.raises(UserError, match="another prompt of p0"):
        player.tape.proposal(new.samples["p0"].root.child(39).child(38), [39, 38])


def test_times_are_the_models_as_measured_and_the_loop_takes_none(new: Trace) -> None:
    models = pair()
    play(new, lambda: models)
    sample = new.samples["p0"]
    sample.first = {"edge": (3, 0.5), "cloud": (7, 2.0)}
    new.costs |= {"edge": Costs(), "cloud": Costs()}
    for n in (1, 5):
        new.costs["edge"].add(n, 0.01 * n)
        new.costs["cloud"].add(n, 0.1 + 0.02 * n)
    out = Player(new, None)("p0", Way(k=4), Ending(max_new_tokens=10))
    first, second, *_ = out.rounds
    assert first.edge_s == pytest.approx(0.5 + 3 * 0.01)  # the first call as it was, three tokens more
    assert first.cloud_s == pytest.approx(2.0 + 0.02 * (first.cloud_positions - 7))
    assert second.cloud_s == pytest.approx(0.1 + 0.02 * second.cloud_positions)
    assert out.times_s[0] == pytest.approx(first.edge_s + first.cloud_s)
    assert out.times_s[-1] == pytest.approx(out.edge_s + out.cloud_s)
    assert sum(turn.loop_s for turn in out.rounds) == pytest.approx(0.0, abs=1e-9)


def test_a_guess_while_the_cloud_judges_costs_positions_as_it_does_live(new: Trace) -> None:
    edge, cloud = pair(noise=0.1)
    way, end = Way(k=1), Ending(max_new_tokens=14, eos=EOS)
    rules, guesses = replace(way.rules, overlap=True), set[bool | None]()
    for name, prompt in PROMPTS.items():
        live = speculate(*way.parts(edge, cloud), prompt, rules, end, Luck(0, name))
        guesses |= {turn.guess_right for turn in live.rounds}
        player = Player(new, lambda: pair(noise=0.1))
        sample = new.add(SampleTrace(id=name, asked="", prompt=prompt.tokens))
        player.tape.begin(sample, lambda prompt=prompt: prompt)
        drafter, judge = RecordedDrafter(player.tape), RecordedCloud(player.tape, way.verifier, way.how, EOS)
        played = speculate(drafter, judge, prompt, rules, end, Luck(0, name), clock=player.tape.clock)
        assert told(played) == told(live)
        assert drafter.computed == edge.computed
    assert guesses >= {True, False}


def test_nobody_is_asked_what_follows_the_end_of_an_output(new: Trace) -> None:
    models, way = pair(), Way(k=3)
    whole = together(*models, PROMPTS["p0"], way, Ending(max_new_tokens=14), Luck(0, "p0"))
    end = whole.tokens[whole.sources.index("accepted")]
    player = Player(new, lambda: models)
    out = player("p0", way, Ending(max_new_tokens=14, eos=frozenset({end})))
    assert out.tokens[-1] == end and out.sources[-1] == "accepted"
    node = new.samples["p0"].root
    for token in out.tokens:
        node = node.children[token]
    assert node.proposal is None and node.answer is None
