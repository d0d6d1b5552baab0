"""The typed configuration of a run: schemas for Hydra, checks before anything starts, errors in one sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import FrozenInstanceError, dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, Container, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from suite.errors import ConfigError, UserError, check_range, nearest
from suite.hardware.profile import HardwareConfig
from suite.models.plan import GpuModeConfig
from suite.models.spec import ModelConfig
from suite.tracking.schema import TrackerConfig

CONF = Path(__file__).resolve().parents[1] / "conf"
UNTRACKED = ("tracker", "verbose", "output_name", "strict", "retry_failed", "dry_run")
"""What changes no number, and so is not in a fingerprint."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything one job needs; `task` and `dataset` are typed by the study that owns them."""

    task: Any = MISSING
    models: dict[str, Any] = field(default_factory=dict)
    """`ModelConfig` by the name a method asks for: edge, cloud, scorer."""
    dataset: Any = MISSING
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    gpu_mode: GpuModeConfig = field(default_factory=GpuModeConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    seed: int = 42
    """Seed of every random draw; a draw depends on it, the sample, the purpose and the step alone."""
    verbose: bool = False
    """Print each sample's text as it is finished."""
    output_name: str | None = None
    """Prefix of the result file in the reference studies' format; None: `<method>_results`."""
    strict: bool = False
    """Stop at the first sample that fails instead of recording it and going on."""
    retry_failed: bool = False
    """Run a job whose record says `failed` once more."""
    dry_run: bool = False
    """List the jobs with what they will take, and run nothing."""

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0, 2**63 - 1)
        if self.output_name is not None and not re.fullmatch(r"[\w.-]+", self.output_name):
            raise ConfigError(f"output_name={self.output_name} must be letters, digits, '.', '_' or '-' only.")


def help_text() -> str:
    """What `launch.py --help` prints. Hydra's own page lists groups in a second; the folders say the same at once."""
    groups = {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in CONF.iterdir()}
    lines = [f"  {name}: {', '.join(choices)}" for name, choices in sorted(groups.items()) if choices]
    page = (CONF / "help.txt").read_text(encoding="utf-8")
    return page.replace("$GROUPS", "\n".join(lines)).rstrip()


def store(schema: type, *, name: str) -> None:
    """Register a frozen dataclass for a `defaults` list, where it stands as `/NAME@_here_`."""
    node = OmegaConf.structured(schema)
    _unlock(node)
    ConfigStore.instance().store(name=name, node=node)


def _unlock(node: Container) -> None:
    """OmegaConf makes nodes of frozen dataclasses read-only, nested ones too; overrides must still merge into them."""
    OmegaConf.set_readonly(node, None)
    children = (node._get_node(key) for key in node) if isinstance(node, DictConfig) else ()
    for child in children:
        if isinstance(child, Container):
            _unlock(child)


def register() -> None:
    """Register the suite's own schemas; each study registers its own beside this."""
    store(RunConfig, name="run_schema")
    store(HardwareConfig, name="hardware_schema")
    store(ModelConfig, name="model_schema")
    store(GpuModeConfig, name="gpu_mode_schema")
    store(TrackerConfig, name="tracker_schema")


def typed(cfg: DictConfig) -> RunConfig:
    """The checked configuration object.

    Raises:
        ConfigError: naming the field, its value, and what would be legal.
    """
    try:
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    except FrozenInstanceError as error:  # a `+key=value` for which no field was declared
        key = str(error).split("'")[1]
        raise ConfigError(f"There is no option '{key}' to add with +; drop it.") from error
    assert isinstance(config, RunConfig)
    for name, model in config.models.items():
        if isinstance(model, dict):  # added with `+models.NAME={...}`, where no schema stands
            try:
                config.models[name] = ModelConfig(**model)
            except TypeError as error:
                raise ConfigError(f"models.{name}: {error}; `--cfg job` shows the options of a model.") from error
        elif not isinstance(model, ModelConfig):
            raise ConfigError(f"models.{name}={model} is no model; give models.{name}.source and .id.")
    return config


def check_text(arguments: Iterable[str]) -> None:
    """Raise `ConfigError` for what was typed in another encoding: no log and no record could hold it."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{argument!r} is not UTF-8; type it, or rename the file, in UTF-8.") from error


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as JSON data, which knows no infinity: that stands as the text one types."""

    def legal(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): legal(item) for key, item in value.items()}
        if isinstance(value, list):
            return [legal(item) for item in value]
        return str(value) if isinstance(value, float) and math.isinf(value) else value

    config = legal(OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(config, dict)
    return config


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The plain configuration without what cannot change a number."""
    return {key: value for key, value in plain(cfg).items() if key not in UNTRACKED}


def explain(error: BaseException) -> str:
    """One sentence for an error Hydra or OmegaConf raised, with the nearest legal name where a name is wrong."""
    for said in (error, error.__cause__):  # Hydra wraps what a launcher or sweeper of ours says
        if isinstance(said, UserError):
            return str(said)
    if isinstance(error, OSError) and error.filename:  # Hydra's own errors of a missing choice are OSErrors too
        return f"Cannot use {error.filename} ({error.strerror}); make room or choose another folder."
    cause = error.__cause__ or error
    text = f"{error}\n{cause}"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.parent_node is not None:
        known = [str(key) for key in cause.parent_node if key != "hydra"]
        return f"There is no option '{cause.full_key}'.{nearest(str(cause.key), known)}{_known(known)}"
    if choice := re.search(r"Could not find '(\S+)/([^/']+)'\s+Available options in '\S+':\n((?:\t.+\n)+)", text):
        group, wrong, listed = choice.groups()
        known = listed.split()
        return f"{group}={wrong} does not exist.{nearest(wrong, known)}{_known(known)}"
    if group := re.search(r"Could not override '([^']+)'", text):
        known = [option.name for option in fields(RunConfig)]
        return f"There is no option '{group.group(1)}'.{nearest(group.group(1), known)}{_known(known)}"
    if value := re.search(r"(Value .+)\s+full_key: (\S+)", text):
        return f"{value.group(2)}: {value.group(1)}."
    return " ".join(str(error).split())


def _known(names: list[str]) -> str:
    return f" Known: {', '.join(sorted(names))}." if names else ""
