"""What can be typed, at random: it is composed and checked, or refused in a sentence. Nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import launch
from suite.config import CONF, check_text, explain, plain, typed
from suite.errors import UserError
from suite.job import plan
from tests.faults.fuzzing import fuzz, many

TASKS = ("specdec", "specdec_what_if", "argo", "argo_graphs", "argo_calibration", "controller", "controller_smoke")
NUMBERS = ("0", "1", "-1", "2", "3.5", "1e400", "inf", "nan", "99999999999999999999", "1e-320", "0x10")
WORDS = ("cpu", "cuda", "greedy", "entropy", "argo", "small", "float32", "x", "a b", "true", "null", "../..", "/", "é")
SIGNS = ("''", "[]", "[1]", "[1,2]", "[a]", "{}", "{a:1}", "\\", "'", "${seed}", "${nothing}", "???", "~", "=", ",")
VALUES = (*NUMBERS, *WORDS, *SIGNS, "\udcff", "'\udcff'")
TYPED = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
"""No system hands a NUL over, or half of a surrogate pair other than those in `VALUES`."""


@pytest.fixture(scope="module")
def composed() -> Iterator[dict[str, DictConfig]]:
    """Each task's configuration; composing one takes Hydra a tenth of a second."""
    for module in launch.SCHEMAS:
        module.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        found = {}
        for task in TASKS:
            found[task] = loader.load_configuration("config", [f"task={task}"], RunMode.RUN)
            with open_dict(found[task]):
                del found[task]["hydra"]
        yield found


def keys(tree: Any, prefix: str = "") -> Iterator[str]:
    """Every key there is, dotted."""
    for key in tree if isinstance(tree, DictConfig) else ():
        yield f"{prefix}{key}"
        child = tree._get_node(key)
        yield from keys(child, f"{prefix}{key}.")


@many(4500)
def test_values_of_any_option(inputs: int, composed: dict[str, DictConfig], figures: Counter[str]) -> None:
    known = {task: sorted(keys(cfg)) for task, cfg in composed.items()}
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(config_loader=loader)

    @st.composite
    def lines(draw: st.DrawFn) -> tuple[str, list[str]]:
        task = draw(st.sampled_from(TASKS))
        said = []
        for _ in range(draw(st.integers(1, 3))):
            key = draw(st.sampled_from(known[task]) | TYPED)
            value = draw(st.sampled_from(VALUES) | st.integers().map(str) | st.floats().map(str) | TYPED)
            if loader.repository.group_exists(key) and not value.startswith("{"):
                continue  # Hydra takes it for the choice of a file, and looks for that
            said.append(f"{draw(st.sampled_from(['', '', '', '+', '++', '~']))}{key}={value}")
        return task, said

    def check(line: tuple[str, list[str]]) -> None:
        task, said = line
        try:
            check_text(said)
            overrides = parser.parse_overrides(said)
            cfg = OmegaConf.create(composed[task])
            launch_merge(cfg, overrides)
            config = typed(cfg)
            assert config.task is not None and plain(cfg)
            plan(cfg, said)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error)) from error

    ends = fuzz(inputs, figures, lines(), check)
    assert ends["sentences"]


def launch_merge(cfg: DictConfig, overrides: list[Any]) -> None:
    """As Hydra puts typed values into a composed configuration."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    ConfigLoaderImpl._apply_overrides_to_config(overrides, cfg)
