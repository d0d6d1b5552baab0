"""Opening a tracker, and the rule they all follow: a view of the run that may break, but never breaks the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from suite.tracking.schema import TrackerConfig
from suite.tracking.secrets import scrub
from suite.tracking.view import JobInfo

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a run calls. Used as a context manager: leaving it without `finish` closes the tracker as failed."""

    def log_sample(self, row: Mapping[str, Any]) -> None:
        """Take one line of samples.jsonl."""

    def finish(self, record: Mapping[str, Any], failed: bool) -> None:
        """Take the content of record.json and close."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Backend(Protocol):
    """A tracker that may raise; `GuardedTracker` is what keeps that from the run."""

    def log_sample(self, row: Mapping[str, Any]) -> None:
        """Take one line of samples.jsonl."""

    def close(self, record: Mapping[str, Any] | None, failed: bool) -> None:
        """Write what is left and close, whatever happens. `record` is None when the run never finished."""


class GuardedTracker:
    """Runs a backend; its first failure is logged as a warning, after which it is only closed."""

    def __init__(self, open_backend: Callable[[], Backend | None]) -> None:
        self._backend: Backend | None = None
        self._broken = False
        self._attempt(lambda: setattr(self, "_backend", open_backend()))

    def _attempt(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            if not self._broken:
                log.warning("The tracker failed and the run goes on without it: %s", scrub(str(error)))
            self._broken = True

    def log_sample(self, row: Mapping[str, Any]) -> None:
        """Pass one line of samples.jsonl on."""
        backend = self._backend
        if backend is not None and not self._broken:
            self._attempt(lambda: backend.log_sample(scrub(row)))

    def finish(self, record: Mapping[str, Any], failed: bool) -> None:
        """Pass the record on and close. A second call does nothing."""
        self._close(record, failed)

    def _close(self, record: Mapping[str, Any] | None, failed: bool) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            self._attempt(lambda: backend.close(scrub(record), failed))

    def __enter__(self) -> Self:
        """The tracker is already open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close as failed unless `finish` was called."""
        self._close(None, failed=True)


def open_tracker(cfg: TrackerConfig, *, job: JobInfo) -> Tracker:
    """The tracker of one job. Never raises: a tracker that cannot be opened is replaced by none, with a warning."""

    def open_backend() -> Backend | None:
        if cfg.name == "none":
            return None
        if cfg.name == "trackio":
            from suite.tracking.trackio_run import TrackioRun

            return TrackioRun(cfg, job)
        from suite.tracking.wandb_run import WandbRun  # wandb takes half a second to import

        return WandbRun(cfg, job)

    return GuardedTracker(open_backend)


def show_sweep(cfg: TrackerConfig, folder: Path) -> None:
    """Show a sweep that is over, as a whole, from its records. Never raises: what fails costs a warning."""
    try:
        if cfg.name == "wandb":
            from suite.tracking import wandb_run

            wandb_run.show_sweep(cfg, folder)
        elif cfg.name == "trackio":
            from suite.tracking import trackio_run

            trackio_run.show_sweep(cfg, folder)
    except Exception as error:
        log.warning("The tracker shows the jobs of this sweep but not the whole: %s", scrub(str(error)))
