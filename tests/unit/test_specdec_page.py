"""samples.html of the captions: each token in the colour of the one who decided it."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any

from edgecloud import page
from tests.report_runs import EVIL, Words, specdec_rows


class FakeBytes:
    """A token is one byte of UTF-8; a sentence's first space vanishes, as with sentencepiece."""

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        return bytes(tokens).decode("utf-8", errors="replace").removeprefix(" ")


def split(text: str, *owners: str) -> list[tuple[str, str]]:
    tokens = list(text.encode())
    sources = [owners[i % len(owners)] for i in range(len(tokens))]
    return page.pieces(tokens, sources, FakeBytes())


def test_neighbours_of_one_source_are_one_piece_and_spaces_stay() -> None:
    tokens = list(b"ab cd")
    found = page.pieces(tokens, ["edge", "edge", "accepted", "accepted", "edge"], FakeBytes())
    assert found == [("ab", "edge"), (" c", "accepted"), ("d", "edge")]


def test_a_character_belongs_to_the_token_that_completes_it() -> None:
    assert split("情é", "edge", "accepted", "corrected") == [("情", "corrected"), ("é", "accepted")]
    assert "".join(text for text, _ in split("平静。a b 情", "edge", "bonus")) == "平静。a b 情"


def test_what_ends_within_a_character_is_shown_as_far_as_it_goes() -> None:
    tokens = list("ab情".encode())[:-1]
    assert page.pieces(tokens, ["edge"] * len(tokens), FakeBytes()) == [("ab\ufffd", "edge")]
    assert page.pieces([], [], FakeBytes()) == []


def test_page_colours_tokens_tells_costs_and_escapes(tmp_path: Path) -> None:
    page.write(tmp_path / "samples.html", specdec_rows(), Words())
    text = (tmp_path / "samples.html").read_text(encoding="utf-8")
    assert '<mark class="edge" title="edge alone">calm </mark>' in text
    assert '<mark class="corrected" title="corrected by the cloud"> voice</mark>' in text
    assert EVIL not in text and EVIL in unescape(text)
    assert "script-src 'none'" in text
    assert "tokens: 4, cloud calls: 1, 12.5 ms to the first token, 80 tokens/s" in text
    assert '<mark class="accepted">accepted by the cloud</mark> 25.0%' in text
    assert text == page.page(specdec_rows(), Words())


def test_long_jobs_show_samples_from_all_along() -> None:
    rows: list[dict[str, Any]] = [{**specdec_rows()[0], "id": f"s{i}"} for i in range(100)]
    text = page.page(rows, Words())
    assert text.count("<section>") == 34
    assert "34 of 100 samples; who decided each of the 400 tokens" in text
    assert "0 of 0 samples" in page.page([], Words())
