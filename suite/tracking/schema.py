"""Which tracker a run reports to: the configuration side of tracking."""

from __future__ import annotations

from dataclasses import dataclass

from suite.errors import ConfigError, check_choice

TRACKERS = ("none", "trackio", "wandb")
MODES = ("offline", "online")


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """One YAML of the `tracker` group."""

    name: str = "none"
    """`none`, `wandb` or `trackio`. The records are complete whichever it is."""
    project: str = "suite"
    """Project of the tracker."""
    entity: str | None = None
    """wandb user or team; None is the account's default."""
    mode: str = "offline"
    """wandb: `offline` writes below `dir` and needs no account; `online` uploads as the run goes."""
    dir: str = "."
    """Folder that holds the one shared `wandb/` or `trackio/` folder, relative to where the command was typed."""
    group: str | None = None
    """What stands together; None: the sweep, by its date and time."""

    def __post_init__(self) -> None:
        check_choice("tracker.name", self.name, TRACKERS)
        check_choice("tracker.mode", self.mode, MODES)
        if not self.project:
            raise ConfigError("tracker.project is empty; give the name of a project.")
