"""What a task is given to work with, so that `run(cfg, ctx)` holds the study and nothing else."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from suite.config import RunConfig
from suite.errors import UserError, WriteError
from suite.hardware.meters import Meter
from suite.hardware.profile import HardwareConfig
from suite.models.loading import Loaded, load, place
from suite.processes import Share
from suite.progress import Progress
from suite.records import SampleLog
from suite.rng import generator
from suite.tracking.tracker import Tracker

log = logging.getLogger(__name__)


class HasId(Protocol):
    """A sample of any study."""

    @property
    def id(self) -> str:
        """Unique in the data set."""


S = TypeVar("S", bound=HasId)


@dataclass(slots=True)
class RunContext:
    """The suite's services for one job."""

    config: RunConfig
    folder: Path
    samples: SampleLog
    tracker: Tracker
    meter: Meter = field(default_factory=Meter)
    siblings: tuple[RunConfig, ...] = ()
    """Configurations of all jobs of the sweep, this one's too, where this process knows them; what they share can be
    computed once."""
    share: Share | None = None
    """This process's part of the samples, where several processes run the job."""

    def model(self, name: str, hardware: HardwareConfig) -> Loaded:
        """The model `models.<name>`, warm if an earlier job of this process loaded it.

        Raises:
            UserError: there is no such model, or it cannot be loaded.
        """
        if name not in self.config.models:
            raise UserError(
                f"models.{name} is not configured; this method needs it. Give models.{name}.source and .id."
            )
        spec = self.config.models[name]
        placement = place(spec, hardware=hardware, gpu_mode=self.config.gpu_mode).replicas[0]
        return load(spec, placement=placement, hardware=hardware)

    def rng(self, sample: str, purpose: str, step: int = 0) -> np.random.Generator:
        """Random numbers that depend on (seed, sample, purpose, step) alone."""
        return generator(self.config.seed, sample, purpose, step)

    def each(
        self,
        items: Sequence[S],
        work: Callable[[S], Mapping[str, Any]],
        label: str,
        *,
        workers: int = 1,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Do the samples that are not done yet, keeping each as it is finished, in the order of `items`.

        A sample whose `work` raises a `UserError` is kept as failed and the run goes on, unless `strict`.

        Args:
            items: all samples.
            work: what to do with one; the rest of its row.
            label: for the progress bar.
            workers: threads that work at the same time.
            stop: makes the `work` of all threads end soon; called when the run ends early.
        """

        def made(some: Sequence[S]) -> Generator[dict[str, Any], None, None]:
            return self._in_threads(some, work, workers, stop) if workers > 1 else (self._row(i, work) for i in some)

        todo = [item for item in items if item.id not in self.samples]
        rows = made(todo) if self.share is None else self.share.rows(todo, lambda some: [*made(some)], workers)
        done = len(items) - len(todo)
        if done:
            log.info("%s: %d of %d samples are done already", label, done, len(items))
        with closing(rows), Progress(label, len(items), done=done) as progress:
            for row in rows:
                self._keep(row)
                progress.advance()

    def _row(self, item: S, work: Callable[[S], Mapping[str, Any]]) -> dict[str, Any]:
        """A sample, done or failed."""
        try:
            return {"id": item.id, "status": "ok", "error": None, **work(item)}
        except UserError as error:
            if self.config.strict or isinstance(error, WriteError):
                raise
            log.warning("sample %s failed: %s", item.id, error)
            return {"id": item.id, "status": "failed", "error": str(error), "metrics": {}}

    def _keep(self, row: dict[str, Any]) -> None:
        self.samples.append(row)
        self.tracker.log_sample(row)

    def _in_threads(
        self, items: Sequence[S], work: Callable[[S], Mapping[str, Any]], workers: int, stop: Callable[[], None]
    ) -> Generator[dict[str, Any], None, None]:
        """The rows of `items` in their order; ended early, it keeps what was done ahead of its turn."""
        with ThreadPoolExecutor(workers) as pool:
            futures = deque(pool.submit(self._row, item, work) for item in items)
            try:
                while futures:
                    futures[0].exception()  # waits; an error or an interrupt leaves it where it is
                    yield futures.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                if futures:
                    stop()
                for future in futures:
                    if not future.cancelled() and future.exception() is None:
                        self._keep(future.result())


def ok(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of samples that did not fail."""
    return [row for row in rows if row["status"] == "ok"]
