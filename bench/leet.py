"""The picture of docs/dashboards.md: a sweep of six jobs in `wandb leet`, captured from a real terminal session.

`python -m bench.leet docs/wandb_leet.svg` runs the sweep and writes the picture; a folder named after it shows the
wandb/ folder of a sweep of yours instead.  Needs pyte, of the extra `dev`.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COLUMNS, ROWS = 150, 40
SWEEP = ("task=argo", "task.mode=small", "task.strategy=always_reason,always_retrieve,fixed_k", "task.cost_ratio=1,5")
DOWN = "\x1b[B"
QUIET_S, MOST_S = 1.5, 60.0
"""The screen is done when nothing was drawn for so long; a session is given up after so long."""
NAMES = {"brown": "yellow", "default": None}  # what pyte calls a colour -> what rich does


def main() -> None:
    """Run the sweep if no folder is named, capture, write the picture."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[2]) if len(sys.argv) > 2 else run_sweep(Path(scratch))
        runs = len([*folder.glob("wandb/*run-*/")])  # the first in the list is that of the whole sweep, without curves
        screen = capture(folder, [" ", *[DOWN, " "] * (runs - 1)])
    hide(screen, f"{folder.resolve()}/")
    Path(sys.argv[1]).write_text(draw(screen), encoding="utf-8")
    print(sys.argv[1])


def run_sweep(folder: Path) -> Path:
    """The sweep, tracked offline in `folder`."""
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *SWEEP, "tracker=wandb"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def capture(folder: Path, keys: list[str]) -> pyte.Screen:
    """What `wandb leet` shows in `folder` after some keys."""
    screen = pyte.Screen(COLUMNS, ROWS)
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
        os.execv(sys.executable, [sys.executable, "-m", "wandb", "leet", "wandb"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    stream = pyte.ByteStream(screen)
    _watch(terminal, stream, first=True)
    for key in keys:
        os.write(terminal, key.encode())
        _watch(terminal, stream)
    os.close(terminal)
    os.killpg(child, signal.SIGKILL)  # under nohup the end of its terminal would not end it
    os.waitpid(child, 0)
    return screen


def _watch(terminal: int, stream: pyte.ByteStream, first: bool = False) -> None:
    """Draw what comes until nothing comes; a program that has just been started is given time to begin."""
    start = time.monotonic()
    while time.monotonic() - start < MOST_S:
        patience = MOST_S if first else QUIET_S
        if not select.select([terminal], [], [], patience)[0]:
            return
        stream.feed(os.read(terminal, 65536))
        first = first and not "".join(stream.listener.display).strip()


def hide(screen: pyte.Screen, path: str) -> None:
    """Blank out where the folder lies on this machine."""
    for row, line in enumerate(screen.display):
        for column in range(start := line.find(path), start + len(path)) if path in line else ():
            screen.buffer[row][column] = screen.buffer[row][column]._replace(data=" ")


def draw(screen: pyte.Screen) -> str:
    """The screen as an SVG."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for row in range(ROWS):
        line = Text(no_wrap=True)
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            style = Style(color=_colour(cell.fg), bgcolor=_colour(cell.bg), bold=cell.bold, reverse=cell.reverse)
            line.append(cell.data, style)
        console.print(line, soft_wrap=True)
    return console.export_svg(title="wandb leet", unique_id="leet")


def _colour(name: str) -> str | None:
    if len(name) == 6 and set(name) <= set("0123456789abcdef"):
        return f"#{name}"
    return NAMES.get(name, name.replace("bright", "bright_"))


if __name__ == "__main__":
    main()
