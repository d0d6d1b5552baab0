"""A caption on the terminal as it is decoded, each piece in the colour of the one who decided it.

Where there are no colours (a file, a plain terminal, NO_COLOR) a mark stands before each piece instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from suite.records.samples import read_samples

# who decided a token -> colour, mark, what the legend says
LOOKS = {
    "edge": ("dim", "~", "edge alone"),
    "accepted": ("green", "+", "accepted by the cloud"),
    "corrected": ("yellow", "!", "corrected by the cloud"),
    "bonus": ("cyan", "*", "added by the cloud"),
    "cloud": ("blue", "=", "cloud alone"),
}
HALF = "\ufffd"  # what a tokenizer makes of the bytes of a character that is not whole yet


class Live:
    """Shows one output token by token: its `token` is made for `Output.on_token`.

    Attributes:
        pieces: what was shown, as (text, source).
    """

    def __init__(self, tokenizer: Any = None, console: Console | None = None) -> None:
        out = console or Console(highlight=False)
        self.tokenizer, self.console = tokenizer, out
        self.colours = out.is_terminal and out.color_system is not None and not out.no_color
        self.tokens: list[int] = []
        self.pieces: list[tuple[str, str]] = []
        self.text = ""

    def begin(self, what: str, sources: Iterable[str]) -> None:
        """The line above the caption: what it is of, and a legend of the `sources` that can occur."""
        line = Text(what)
        for source in sources:
            colour, mark, meaning = LOOKS[source]
            line.append("   ").append(f"{'■' if self.colours else mark} {meaning}", colour if self.colours else "")
        self.console.print(line, soft_wrap=True)

    def token(self, token: int, source: str) -> None:
        """One more token. A character is shown with the token that completes it, never in halves."""
        self.tokens.append(token)
        text = str(self.tokenizer.decode(self.tokens, skip_special_tokens=True))
        if not text.endswith(HALF):
            self.show(text[len(self.text) :], source)
            self.text = text

    def show(self, piece: str, source: str) -> None:
        """Print the next piece of the caption; what a model writes must not steer the terminal."""
        if not piece:
            return
        colour, mark, _ = LOOKS[source]
        new = not self.pieces or self.pieces[-1][1] != source
        self.pieces.append((piece, source))
        plain = "".join(c if c.isprintable() or c == "\n" else " " for c in piece)
        plain = plain if self.colours or not new else mark + plain
        self.console.print(Text(plain, colour if self.colours else ""), end="", soft_wrap=True)
        self.console.file.flush()

    def end(self, metrics: Mapping[str, float | None]) -> None:
        """The line below the caption, from the sample's metrics."""
        calls, emitted = metrics["calls"], metrics["emitted"]
        self.console.print(
            f"\nTTFT {metrics['ttft_ms']:.0f} ms, {metrics['otps']:.1f} tokens/s, "
            f"{calls:.0f} cloud calls for {emitted:.0f} tokens",
            soft_wrap=True,
        )


def replay(folder: Path, console: Console | None = None) -> None:
    """Show again the captions that a finished job in `folder` showed when it ran; nothing for any other job."""
    for row in read_samples(folder / "samples.jsonl"):
        if pieces := row.get("pieces"):
            live = Live(console=console)
            live.begin(row["id"], [source for source in LOOKS if source in row["sources"]])
            for piece, source in pieces:
                live.show(piece, source)
            live.end(row["metrics"])
