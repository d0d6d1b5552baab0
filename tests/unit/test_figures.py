"""Every figure and printed table of the README and docs is one that `make figures` makes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bench import readme

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MADE = {ROOT / readme.PICTURE, ROOT / readme.TERMINAL, *(ROOT / "docs" / name for name in readme.PICTURES.values())}
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*\bsrc=[\"']([^\"']+)|<source[^>]*\bsrcset=[\"']([^\"']+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_picture_is_made_by_make_figures_and_is_there(page: Path) -> None:
    for found in IMAGE.finditer(page.read_text(encoding="utf-8")):
        picture = (page.parent / next(filter(None, found.groups()))).resolve()
        assert picture in MADE, f"{page.name} shows {picture.name}, which no command of bench/readme.py makes"
        assert picture.stat().st_size > 0


def test_every_block_of_the_readme_has_its_command_and_the_other_way_round() -> None:
    blocks = re.findall(r"<!-- (\w+) -->", PAGES[0].read_text(encoding="utf-8"))
    assert sorted(blocks) == sorted(readme.BLOCKS)
    with pytest.raises(SystemExit, match="no block 'gone'"):
        readme.replaced("text", "gone", "output")


def test_a_picture_that_was_not_made_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "python", lambda arguments: "")
    with pytest.raises(FileNotFoundError, match=next(iter(readme.PICTURES))):
        readme.main()


def test_a_command_that_fails_is_an_error() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        readme.python("-m suite table /nowhere")
