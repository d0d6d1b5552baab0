"""`python -m zoo list | card NAME | build NAME`: what is embedded, what it is worth, and how to make it again."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from suite.errors import UserError, nearest
from suite.paths import cache_dir, zoo_dir

ROOT = zoo_dir()


def entries() -> list[str]:
    """Names of the embedded models and data sets: every folder here with a card or a recipe."""
    return sorted({path.parent.name for file in ("CARD.md", "recipe.py") for path in ROOT.glob(f"*/{file}")})


def folder_of(name: str) -> Path:
    """Folder of one entry.

    Raises:
        UserError: no entry has this name.
    """
    known = entries()
    if name not in known:
        raise UserError(f"The zoo has no '{name}'; it holds {', '.join(known)}.{nearest(name, known)}")
    return ROOT / name


def overview() -> str:
    """One line an entry: its name, whether a recipe can rebuild it, and the title of its card."""
    lines = []
    for name in entries():
        card = ROOT / name / "CARD.md"
        title = card.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") if card.is_file() else "(no card)"
        kind = "recipe" if (ROOT / name / "recipe.py").is_file() else "no recipe"
        lines.append(f"{name:<16} {kind:<10} {title}")
    return "\n".join(lines)


def card(name: str) -> str:
    """The card of one entry.

    Raises:
        UserError: no such entry, or it has no card.
    """
    path = folder_of(name) / "CARD.md"
    if not path.is_file():
        raise UserError(f"zoo/{name} has no CARD.md; see its recipe, zoo/{name}/recipe.py.")
    return path.read_text(encoding="utf-8").rstrip()


def build(name: str, workdir: Path | None, *, quick: bool) -> None:
    """Run `build` of the entry's recipe in `workdir`, by default the entry's folder in the user cache.

    Raises:
        UserError: no such entry, or it has no recipe.
    """
    if not (folder_of(name) / "recipe.py").is_file():
        raise UserError(f"zoo/{name} has no recipe to run; `python -m zoo card {name}` says how it was made.")
    workdir = workdir or cache_dir() / "zoo" / name
    workdir.mkdir(parents=True, exist_ok=True)
    importlib.import_module(f"zoo.{name}.recipe").build(workdir, quick=quick)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m zoo", description="Embedded models and data: show or rebuild them.")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every embedded model and data set")
    shown = commands.add_parser("card", help="print a card: origin, licence, measured quality, limits")
    built = commands.add_parser("build", help="rebuild from its recipe")
    for command in (shown, built):
        command.add_argument("name", metavar="NAME", help="a name from `list`")
    built.add_argument("--workdir", type=Path, metavar="DIR", help="working folder; the user cache if not given")
    built.add_argument("--quick", action="store_true", help="a miniature run that shows the recipe works")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input costs one sentence and exit status 2."""
    args = parser().parse_args(argv)
    try:
        if args.command == "build":
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")  # builds take minutes to hours
            build(args.name, args.workdir, quick=args.quick)
        else:
            print(overview() if args.command == "list" else card(args.name))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
