"""Write the README's figures anew, each from the command that makes it.

    make figures        about 50 minutes on 2 idle cores; jobs that are finished already cost nothing

A block of the README between `<!-- NAME -->` and `<!-- /NAME -->` becomes the output of its command.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = "docs/specdec_tuning.svg"
TERMINAL = "docs/wandb_leet.svg"
PREPARE = (
    "launch.py -m experiment=specdec_tuning",
    f"-m suite report --plot cloud_call_rate,cider --figure {PICTURE}",
    "launch.py experiment=specdec_what_if hydra.run.dir=outputs/readme_what_if",
    "launch.py experiment=argo_graphs task.mode=full dataset.difficulty=mixed hydra.run.dir=outputs/readme_argo",
    "launch.py experiment=controller_all hydra.run.dir=outputs/readme_controller",
    f"-m bench.leet {TERMINAL}",
    "launch.py -m experiment=specdec_three_way",
)
PICTURES = {
    "readme_what_if/plots/what_if.svg": "specdec_what_if.svg",
    "readme_argo/plots/graph_1a.svg": "argo_graph_1a.svg",
    "readme_controller/plots/c8_tradeoff.svg": "controller_tradeoff.svg",
}
BLOCKS = {"run": "-m suite table", "bench": "-m bench.specdec"}


def python(arguments: str) -> str:
    """Output of a command, tables 100 characters wide."""
    print(f"python {arguments}", file=sys.stderr)
    environment = os.environ | {"COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, *arguments.split()], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def replaced(text: str, name: str, output: str) -> str:
    """`text` with the block `name` holding `output`."""
    lines = "\n".join(line.rstrip() for line in output.strip().splitlines())
    block = f"<!-- {name} -->\n```\n{lines}\n```\n<!-- /{name} -->"
    found = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
    if not found.search(text):
        raise SystemExit(f"README.md has no block '{name}'; put <!-- {name} --> and <!-- /{name} --> where it belongs.")
    return found.sub(lambda _: block, text)


def main() -> None:
    """Run every command, then write README.md."""
    (ROOT / PICTURE).parent.mkdir(exist_ok=True)
    for arguments in PREPARE:
        python(arguments)
    for made, picture in PICTURES.items():
        shutil.copy(ROOT / "outputs" / made, ROOT / "docs" / picture)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, arguments in BLOCKS.items():
        text = replaced(text, name, python(arguments))
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
