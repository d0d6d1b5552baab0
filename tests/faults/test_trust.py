"""Nothing that was fetched or found is ever run, no archive leaves its folder, and secrets stay where they are."""

from __future__ import annotations

import ast
import shutil
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import strategies as st

from controller.images import ImageFile
from suite.errors import UserError
from suite.models.wheels import unpack
from tests.faults.conftest import SECRETS
from tests.faults.fuzzing import fuzz, many
from tests.faults.sweeps import Whole
from tests.runs import ROOT

CODE = ("launch.py", "suite", "edgecloud", "argo", "controller", "hydra_plugins", "zoo", "bench")
RUNS_WHAT_IT_READS = (
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load"),
    *("marshal.load", "marshal.loads", "shelve.open", "joblib.load", "pandas.read_pickle", "pd.read_pickle"),
    *("yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "torch.hub.load", "torch.jit.load"),
)
LEAVES_ITS_FOLDER = ("tarfile", "shutil.unpack_archive")
OWN_CHILD = ("suite/hardware/limits.py", "suite/hardware/child.py")
"""Pickles go through a pipe to a process that this one has started, and back; none is read from a file or a socket."""


def calls(text: str) -> Iterator[tuple[str, ast.Call]]:
    """Dotted name of everything that is called."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def dangers(where: str, text: str) -> list[str]:
    """What a source file does that runs or unpacks what it reads."""
    found = []
    for name, call in calls(text):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in RUNS_WHAT_IT_READS and where not in OWN_CHILD:
            found.append(name)
        if name.startswith(LEAVES_ITS_FOLDER) or name.endswith((".extractall", ".extract")):
            found.append(name)
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only")
        if given.get("allow_pickle") == "True" or given.get("shell") == "True":
            found.append(f"{name} with allow_pickle or shell")
    return found


def test_nothing_is_unpickled_or_evaluated() -> None:
    files = [path for name in CODE for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))]
    assert len(files) > 100
    names = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    found = {name: dangers(name, text) for name, text in names.items()}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "line",
    [
        "pickle.loads(data)", "torch.load(path)", "torch.load(path, weights_only=False)", "yaml.load(text)", "eval(x)",
        "archive.extractall()", "np.load(path, allow_pickle=True)", "subprocess.run(x, shell=True)",
        "tarfile.open(path)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert dangers("suite/x.py", line)


PARTS = st.sampled_from(["..", ".", "a", "b", "", "/", "C:", "a\\..\\b", "x/../..", "..\\", "model"])


@many(1000)
def test_no_name_in_an_archive_leads_out_of_its_folder(inputs: int, tmp_path: Path, figures: Counter[str]) -> None:
    wheel, room = tmp_path / "x.whl", tmp_path / "room" / "inner"
    room.mkdir(parents=True)
    known = set(tmp_path.rglob("*")) | {wheel}

    def check(names: list[list[str]]) -> None:
        with zipfile.ZipFile(wheel, "w") as archive:
            for i, parts in enumerate(names):
                entry = zipfile.ZipInfo("/".join(parts) or "x")
                entry.external_attr = (0o120777 if i % 2 else 0o100644) << 16  # every other one says it is a link
                archive.writestr(entry, "/etc/passwd")
        shutil.rmtree(room / "out", ignore_errors=True)
        (room / "out").unlink(missing_ok=True)
        try:
            unpack(wheel, PurePosixPath("model"), room / "out")
        finally:
            made = [path for path in tmp_path.rglob("*") if path not in known]
            assert all(path.is_relative_to(room / "out") and not path.is_symlink() for path in made)
        assert ImageFile(home=wheel, name="../x.png").problem()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are there twice
        fuzz(inputs, figures, st.lists(st.lists(PARTS, min_size=1, max_size=4), min_size=1, max_size=4), check)


def test_an_image_outside_its_folder_is_not_opened(tmp_path: Path) -> None:
    home = tmp_path / "images"
    home.mkdir()
    (tmp_path / "secret.png").touch()
    for name in ("../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png", "..\\secret.png"):
        with pytest.raises(UserError, match="leads out of"):
            ImageFile(home=home, name=name).open()


def test_secrets_of_the_environment_reach_no_file(whole: Whole) -> None:
    files = [path for path in whole.folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    for path in files:
        content = path.read_bytes()
        assert not [name for name, value in SECRETS.items() if value.encode() in content], path
