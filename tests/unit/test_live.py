"""A caption as it is decoded: whole characters only, the right colour or mark, and no time of the decoding's."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from edgecloud.counters import SOURCES, Counters
from edgecloud.decode import Ending, Output, generate
from edgecloud.gates import GATES
from edgecloud.live import LOOKS, Live, replay
from edgecloud.lm import Prompt
from edgecloud.sampling import Luck, Sampling
from tests.loop import Way, together
from tests.tiny import FakeLM, script

METRICS = {"ttft_ms": 12.3, "otps": 45.67, "calls": 3.0, "emitted": 20.0}


class FakeTokenizer:
    """A token is a byte, as the worst byte-level tokenizer has it; 0 is special."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return bytes(token for token in tokens if token).decode(errors="replace")


def terminal(colours: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    kind = {"force_terminal": True, "color_system": "standard"} if colours else {"color_system": None}
    return Console(file=out, width=40, highlight=False, no_color=None, **kind), out


def show(parts: list[tuple[bytes, str]], *, colours: bool) -> str:
    console, out = terminal(colours)
    live = Live(FakeTokenizer(), console)
    for part, source in parts:
        for byte in part:
            live.token(byte, source)
    return out.getvalue()


def test_every_source_has_a_look() -> None:
    assert set(LOOKS) == set(SOURCES)


def test_half_a_character_is_never_shown() -> None:
    console, out = terminal(False)
    live, seen = Live(FakeTokenizer(), console), []
    for byte in "高a😀".encode():
        live.token(byte, "edge")
        seen.append(out.getvalue())
    assert seen == ["", "", "~高", "~高a", "~高a", "~高a", "~高a", "~高a😀"]


def test_a_character_has_the_colour_of_the_token_that_completes_it() -> None:
    high = "高".encode()
    assert show([(high[:2], "edge"), (high[2:], "corrected")], colours=False) == "!高"


def test_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = show([(b"a", "edge"), (b"b", "accepted"), (b"c", "corrected"), (b"d", "bonus")], colours=True)
    assert shown == "\x1b[2ma\x1b[0m\x1b[32mb\x1b[0m\x1b[33mc\x1b[0m\x1b[36md\x1b[0m"
    assert show([(b"e", "cloud")], colours=True) == "\x1b[34me\x1b[0m"


@pytest.mark.parametrize("colour_terminal", [True, False])
def test_marks_where_there_are_no_colours(monkeypatch: pytest.MonkeyPatch, colour_terminal: bool) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    parts = [(b"ab", "edge"), (b"c", "edge"), (b"\0", "accepted"), (b"d", "accepted"), (b"e", "edge")]
    assert show(parts, colours=colour_terminal) == "~abc+d~e"


def test_a_model_cannot_steer_the_terminal() -> None:
    assert show([(b"a\x1b[2J\x07\rb\nc", "edge")], colours=False) == "~a [2J  b\nc"


def test_long_captions_are_not_broken_by_us() -> None:
    assert show([(b"x " * 60, "cloud")], colours=False) == "=" + "x " * 60


def test_legend_and_last_line() -> None:
    console, out = terminal(False)
    live = Live(FakeTokenizer(), console)
    live.begin("a.wav", ("edge", "bonus"))
    live.token(ord("x"), "bonus")
    live.end(METRICS)
    assert out.getvalue() == (
        "a.wav   ~ edge alone   * added by the cloud\n*x\nTTFT 12 ms, 45.7 tokens/s, 3 cloud calls for 20 tokens\n"
    )


def test_a_finished_job_shows_its_caption_again(tmp_path: Path) -> None:
    console, out = terminal(False)
    live = Live(FakeTokenizer(), console)
    live.begin("a.wav", ("edge", "accepted"))
    for byte, source in ((ord("x"), "edge"), (ord("y"), "accepted")):
        live.token(byte, source)
    live.end(METRICS)
    done = {"status": "ok", "error": None, "metrics": METRICS}
    row = {"id": "a.wav", "sources": ["edge", "accepted"], "pieces": live.pieces, **done}
    lines = [json.dumps(one) + "\n" for one in (row, {"id": "b", "sources": ["edge"], **done})]
    (tmp_path / "samples.jsonl").write_text("".join(lines))
    again, replayed = terminal(False)
    replay(tmp_path, again)
    assert replayed.getvalue() == out.getvalue()
    replay(tmp_path / "nothing", again)


# ---- the hook in the decoding loop ----


@pytest.mark.parametrize("gate", ["always", "entropy"])
def test_every_token_is_told_in_order_with_its_source(gate: str) -> None:
    prompt, told, way = Prompt(tokens=[1, 2]), list[tuple[int, str]](), Way(k=3, gate=GATES[gate], threshold=0.5)
    edge = FakeLM(script(prompt.tokens, [5, 6, 9, 8, 9, 3], unsure=[1, 4]))
    cloud = FakeLM(script(prompt.tokens, [5, 6, 7, 8, 9, 3]))
    ending = Ending(max_new_tokens=12, eos=frozenset([3]))
    out = together(edge, cloud, prompt, way, ending, Luck(0, ""), lambda *what: told.append(what))
    assert told == list(zip(out.tokens, out.sources, strict=True))
    assert len(told) == 6
    told.clear()
    text = generate(cloud, prompt, ending, Sampling(), Luck(0, ""), "cloud", lambda *what: told.append(what)).tokens
    assert told == [(token, "cloud") for token in text] and len(told) == 6


def test_the_clock_stands_still_while_a_token_is_shown() -> None:
    now = [100.0]

    def slow(_: int, __: str) -> None:
        now[0] += 50

    out = Output(Ending(max_new_tokens=9), Counters(), slow, clock=lambda: now[0])
    for token in range(3):
        now[0] += 1
        out.commit(token, "edge", out.elapsed_s())
    assert out.times_s == [1, 2, 3]
