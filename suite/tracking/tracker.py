"""Opening a tracker, and the rule they all follow: a view of the run that may break, but never breaks the run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from suite.tracking.schema import TrackerConfig

log = logging.getLogger(__name__)

# `max_new_tokens` and `ms_per_token` must survive: only text under a key that ends like a secret's name is hidden.
SECRET_KEY = re.compile(r"(^|[._-])(api_?key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
SECRET_TEXT = re.compile(r"\b(?:hf_|sk-|ghp_|glpat-)[A-Za-z0-9_-]{12,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """What a tracker shows about a job before it has results."""

    task: str
    """Task name; wandb's job type."""
    name: str
    """`output_name` of the job."""
    config: Mapping[str, Any]
    """The resolved config."""
    overrides: tuple[str, ...] = ()
    """What was typed, such as `task.k=3`; tells the jobs of a sweep apart."""
    sweep: str | None = None
    """Name of the sweep, the same for all of its jobs; None for a single run."""
    tags: tuple[str, ...] = ()
    """Free labels."""

    @property
    def title(self) -> str:
        """The name, with the overrides when the job is one of a sweep."""
        return " ".join((self.name, *self.overrides)) if self.sweep else self.name


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
        from suite.tracking.wandb_run import WandbRun  # wandb takes half a second to import

        return WandbRun(cfg, job)

    return GuardedTracker(open_backend)


def scrub(value: Any, key: str = "") -> Any:
    """`value` with secrets replaced by `***`: text under a secret's name, and text that looks like a token."""
    if isinstance(value, Mapping):
        return {name: scrub(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item, key) for item in value]
    if isinstance(value, str) and value:
        return "***" if SECRET_KEY.search(key) else SECRET_TEXT.sub("***", value)
    return value
