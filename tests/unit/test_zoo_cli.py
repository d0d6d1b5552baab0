"""`python -m zoo`: listing, cards, running a recipe, and what a wrong name costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from suite.paths import zoo_dir
from zoo import __main__ as cli

FAKE_RECIPE = """\
from pathlib import Path

from suite.errors import UserError


def build(workdir: Path, *, quick: bool) -> None:
    if (workdir / "locked").exists():
        raise UserError("The working folder is locked.")
    (workdir / "built").write_text(f"quick={quick}")
"""


@pytest.fixture
def fake_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of three: one with card and recipe, one with a card only, one with a recipe only."""
    root = tmp_path / "zoo"
    for name in ("fake_full", "fake_data", "fake_bare", "not_an_entry"):
        (root / name).mkdir(parents=True)
    (root / "fake_full" / "CARD.md").write_text("# A full entry\n\nGrüße.\n", encoding="utf-8")
    (root / "fake_data" / "CARD.md").write_text("# Written by hand\n", encoding="utf-8")
    for name in ("fake_full", "fake_bare"):
        (root / name / "recipe.py").write_text(FAKE_RECIPE, encoding="utf-8")
    monkeypatch.setattr(cli, "ROOT", root)
    monkeypatch.setattr(zoo, "__path__", [str(root)])
    for name in ("fake_full", "fake_bare"):
        for module in (f"zoo.{name}.recipe", f"zoo.{name}"):
            monkeypatch.delitem(sys.modules, module, raising=False)
    return root


def test_list_names_every_entry_and_whether_it_has_a_recipe(fake_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in rows] == ["fake_bare", "fake_data", "fake_full"]
    about = {name: " ".join(rest.split()) for name, rest in rows}
    assert about["fake_bare"] == "recipe (no card)"
    assert about["fake_data"] == "no recipe Written by hand"
    assert about["fake_full"] == "recipe A full entry"


def test_card_is_printed_whole(fake_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["card", "fake_full"]) == 0
    assert capsys.readouterr().out == "# A full entry\n\nGrüße.\n"


@pytest.mark.parametrize("quick", [True, False])
def test_build_runs_the_recipe_in_the_given_folder(fake_zoo: Path, tmp_path: Path, quick: bool) -> None:
    workdir = tmp_path / "deep" / "work"
    assert cli.main(["build", "fake_full", "--workdir", str(workdir), *(["--quick"] if quick else [])]) == 0
    assert (workdir / "built").read_text() == f"quick={quick}"


def test_build_defaults_to_the_user_cache(fake_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "cache_dir", lambda: tmp_path / "cache")
    assert cli.main(["build", "fake_full"]) == 0
    assert (tmp_path / "cache" / "zoo" / "fake_full" / "built").is_file()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["card", "fake_ful"], "Did you mean 'fake_full'?"),
        (["build", "fake_dta"], "Did you mean 'fake_data'?"),
        (["card", "zzz"], "fake_bare, fake_data, fake_full"),
        (["card", "not_an_entry"], "no 'not_an_entry'"),
        (["card", "../zoo/fake_full"], "no '../zoo/fake_full'"),
        (["build", "fake_data"], "python -m zoo card fake_data"),
        (["card", "fake_bare"], "zoo/fake_bare/recipe.py"),
    ],
)
def test_bad_names_cost_one_sentence_and_exit_two(
    fake_zoo: Path, capsys: pytest.CaptureFixture[str], argv: list[str], says: str
) -> None:
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert captured.err.count("\n") == 1


def test_a_recipe_s_own_complaint_is_shown_without_a_traceback(
    fake_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "locked").touch()
    assert cli.main(["build", "fake_bare", "--workdir", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "The working folder is locked.\n"


def test_the_real_zoo_lists_the_prompts_from_the_shell() -> None:
    command = [sys.executable, "-m", "zoo", "list"]
    done = subprocess.run(command, cwd=zoo_dir().parent, capture_output=True, text=True, check=True)
    assert any(line.startswith("prompts ") for line in done.stdout.splitlines())


def test_every_real_entry_has_a_card_with_a_title() -> None:
    assert "prompts" in cli.entries()
    for name in cli.entries():
        assert cli.card(name).startswith("# ")


def test_listing_does_not_import_torch() -> None:
    code = "import sys; from zoo.__main__ import main; main(['list']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=zoo_dir().parent, capture_output=True, check=True)
