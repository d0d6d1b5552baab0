"""README.md, docs/ and the other pages: links lead somewhere, what is named is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FOLDERS = "docs|conf|suite|edgecloud|argo|controller|zoo|bench|tests"
NAMED = re.compile(rf"(?<![\w/{{=.~-])((?:{FOLDERS})/[\w/.-]+\.(?:md|py|svg|yaml))")
EXPERIMENT = re.compile(r"experiment=(\w+)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, place = link.partition("#")
        target = page.parent / name if name else page
        known = target.is_file() and (
            not place or place in map(anchor, HEADING.findall(target.read_text(encoding="utf-8")))
        )
        lost += [] if known else [link]
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_experiments_that_are_named_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    own = set(re.findall(r"^`([\w./]+)`:$", text, re.MULTILINE))  # which the reader is to write
    assert [name for name in NAMED.findall(text) if name not in own and not (ROOT / name).is_file()] == []
    known = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")} | {"NAME"}
    assert sorted(set(EXPERIMENT.findall(text)) - known) == []


def test_every_page_is_found_from_the_readme() -> None:
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked


def test_version_and_licence_are_said_alike() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
