"""`python -m suite`: look at the machine and at what was run. Reads records; never loads a model.

Exit codes: 0 all is well; 1 doctor found a failure; 2 the question cannot be answered (a sentence says why).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from suite.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = parser().parse_args(arguments)
    commands = {
        "doctor": doctor,
        "ls": ls,
        "table": table,
        "report": report,
        "diff": diff,
        "workspace": workspace,
        "plan": plan,
    }
    try:
        return commands[options.command](options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    sweep = argparse.ArgumentParser(add_help=False)
    sweep.add_argument("sweep", nargs="?", metavar="SWEEP", help="folder of a sweep or job (default: the newest)")
    sweep.add_argument("--baseline", metavar="JOB", help="compare the jobs with this one (default: the first)")
    sweep.add_argument("--metrics", metavar="A,B", type=_names, default=(), help="metrics to show and compare")

    top = argparse.ArgumentParser(prog="python -m suite", description="Look at the machine and at what was run.")
    top.add_argument("--root", type=Path, default=Path(), help="folder with outputs/ and multirun/ (default: here)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("doctor", help="check this machine: Python, torch, GPU, memory, disk, cache, trackers")
    commands.add_parser("ls", help="list the recorded jobs, the newest last")
    shown = commands.add_parser("table", parents=[sweep], help="print a sweep; write table.csv and table.parquet")
    shown.add_argument("--latex", action="store_true", help="print a booktabs table for a paper instead")
    page = commands.add_parser("report", parents=[sweep], help="write report.html (and the tables) beside a sweep")
    page.add_argument("--figure", metavar="FILE", type=Path, help="also write the figure by itself, as an SVG")
    page.add_argument("--plot", metavar="X,Y", type=_names, help="the two metrics of the figure")
    view = commands.add_parser("workspace", help="print the wandb workspace of a sweep as JSON, or save it")
    view.add_argument("sweep", nargs="?", metavar="SWEEP", help="folder of a sweep (default: the newest)")
    view.add_argument("--entity", metavar="NAME", required=True, help="wandb user or team")
    view.add_argument("--project", metavar="NAME", default="suite", help="wandb project (default: suite)")
    view.add_argument("--group", metavar="NAME", help="tracker.group of the sweep, if it was given")
    view.add_argument("--save", action="store_true", help="save it on the server and print its address")
    two = commands.add_parser("diff", help="what differs between two jobs")
    for name in ("a", "b"):
        two.add_argument(name, metavar=name.upper(), help="job folder, or the first 8 digits of a fingerprint")
    cards = commands.add_parser(
        "plan", help="which model would go on which card, e.g. models=qwen2_5 hardware=rtx3060x8"
    )
    cards.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of models, hardware and gpu_mode")
    return top


def doctor(options: argparse.Namespace) -> int:
    """Print every check with its fix; 1 if one failed."""
    from rich.console import Console
    from rich.text import Text

    from suite.doctor import examine

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    console, checks = Console(highlight=False), examine(options.root)
    width = max(map(len, checks))
    for name, check in checks.items():
        line = Text(f"{check.level:<5}", colours[check.level]).append(f"{name:<{width}}  {check.found}", "default")
        console.print(line, soft_wrap=True)
        if check.fix:
            console.print(Text(f"{'':<5}{'':<{width}}  {check.fix}", "dim"), soft_wrap=True)
    return 1 if any(check.level == "fail" for check in checks.values()) else 0


def ls(options: argparse.Namespace) -> int:
    """List the jobs of outputs/ and multirun/."""
    from suite.report.collect import all_jobs
    from suite.report.table import show_list

    show_list(all_jobs(options.root))
    return 0


def table(options: argparse.Namespace) -> int:
    """Print a sweep's table and write it as files."""
    from suite.report.export import write_table
    from suite.report.table import show_sweep

    folder = _sweep(options)
    if options.latex:
        from suite.report.latex import latex

        print(latex(folder, metrics=options.metrics), end="")
        return 0
    show_sweep(folder, baseline=options.baseline, metrics=options.metrics)
    print(*write_table(folder), sep="\n")
    return 0


def report(options: argparse.Namespace) -> int:
    """Write a sweep's page and tables."""
    from suite.report.export import write_table
    from suite.report.html import write_report

    if options.plot is not None and len(options.plot) != 2:
        raise UserError(f"--plot {','.join(options.plot)} must name two metrics, such as --plot cloud_call_rate,bleu.")
    folder = _sweep(options)
    if options.figure is not None:
        _write_figure(folder, options.plot, options.figure)
    page = write_report(folder, baseline=options.baseline, metrics=options.metrics, axes=options.plot)
    print(*write_table(folder), page, sep="\n")
    return 0


def _write_figure(folder: Path, axes: tuple[str, str] | None, target: Path) -> None:
    from suite.report.collect import read_sweep
    from suite.report.plot import figure

    svg = figure(read_sweep(folder), axes)
    if svg is None:
        raise UserError(
            f"--figure {target}: {folder} has no two jobs with two metrics in common, so there is no figure."
        )
    target.write_text(svg, encoding="utf-8")


def diff(options: argparse.Namespace) -> int:
    """Print what differs between two jobs."""
    from suite.report.collect import locate
    from suite.report.table import show_difference

    show_difference(locate(options.root, options.a), locate(options.root, options.b))
    return 0


def plan(options: argparse.Namespace) -> int:
    """Print where each gpu_mode would put the models."""
    from suite.models.forecast import forecast

    print(*forecast(options.overrides), sep="\n")
    return 0


def workspace(options: argparse.Namespace) -> int:
    """Print what a wandb workspace of a sweep would be, or save it."""
    from suite.tracking.schema import TrackerConfig
    from suite.tracking.workspace import specification, workspace_of

    cfg = TrackerConfig(name="wandb", entity=options.entity, project=options.project, group=options.group)
    view = workspace_of(cfg, _sweep(options))
    print(view.save().url if options.save else specification(view))
    return 0


def _sweep(options: argparse.Namespace) -> Path:
    from suite.report.collect import latest

    if options.sweep is None:
        return latest(options.root)
    typed = Path(options.sweep)
    return typed if typed.is_dir() else options.root / typed


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    sys.exit(main())
