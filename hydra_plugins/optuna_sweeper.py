"""A sweep whose settings Optuna chooses, one batch after the other, by the records of the jobs before.

Everything else is the checked sweeper's: jobs are checked, found again, launched and shown as those of a grid. What is
chosen depends on the seed and on the records alone, so the same command goes on where a killed one stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from hydra_plugins.checked_sweeper import CheckedSweeper, deletions
from suite.errors import ConfigError, UserError, check_choice, check_range

DIRECTIONS = ("minimize", "maximize")
FIRST_AT_RANDOM = 10
"""Trials before the sampler has seen enough to choose by."""


class OptunaSweeper(CheckedSweeper):
    """Tree-structured Parzen estimator over the axes that were typed.

    `a,b` and `choice(a,b)` are choices, `range(a,b,step)` a grid, `interval(a,b)` a stretch of numbers, whole ones if
    both ends are whole, and `tag(log,interval(a,b))` one that is searched by magnitude.
    """

    def __init__(
        self,
        objectives: dict[str, str] | None,
        n_trials: int,
        max_batch_size: int | None,
        seed: int,
        params: dict[str, str] | None = None,
    ) -> None:
        """Check the options; Optuna is not loaded yet."""
        super().__init__(max_batch_size or 1, params)
        if find_spec("optuna") is None:
            raise UserError("This sweeper needs optuna: pip install optuna.")
        if not objectives:
            raise ConfigError("hydra.sweeper.objectives is not set; name metrics, such as {bleu: maximize}.")
        for name, direction in objectives.items():
            check_choice(f"hydra.sweeper.objectives.{name}", str(direction), DIRECTIONS)
        check_range("hydra.sweeper.n_trials", n_trials, 1)
        self.objectives, self.n_trials, self.seed = dict(objectives), n_trials, seed

    def candidates(self, overrides: list[Override]) -> list[list[str]]:
        """The ends of every axis, and every choice: if these can run, so can what lies between."""
        import optuna

        self.axes = {o.get_key_element(): _axis(o) for o in overrides if o.is_sweep_override()}
        if not self.axes:
            raise ConfigError("Nothing is left to Optuna; give an axis, such as 'task.k=range(1,9)'.")
        fixed = [o for o in overrides if not o.is_sweep_override()]
        texts, bare = [f"{o.get_key_element()}={o.get_value_element_as_str()}" for o in fixed], deletions(fixed)
        self.fixed = [bare.get(text, text) for text in texts]
        ends = {
            name: list(axis.choices)
            if isinstance(axis, optuna.distributions.CategoricalDistribution)
            else [axis.low, axis.high]
            for name, axis in self.axes.items()
        }
        first = {name: values[0] for name, values in ends.items()}
        points = [first, *({**first, name: value} for name, values in ends.items() for value in values[1:])]
        return [self._line(point) for point in points]

    def total(self, candidates: list[list[str]]) -> int:
        """How many jobs will run."""
        return self.n_trials

    def remark(self) -> str:
        """See `CheckedSweeper.remark`."""
        return f"These are the ends of the axes; {self.n_trials} trials between them are chosen as they go.\n"

    def batches(self, candidates: list[list[str]]) -> Iterator[Sequence[Sequence[str]]]:
        """See `CheckedSweeper.batches`."""
        import optuna

        from suite import job

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=FIRST_AT_RANDOM, constant_liar=True)
        study = optuna.create_study(directions=list(self.objectives.values()), sampler=sampler)
        while len(study.trials) < self.n_trials:
            count = min(self.max_batch_size or 1, self.n_trials - len(study.trials))
            trials = [study.ask(self.axes) for _ in range(count)]
            lines = [self._line(trial.params) for trial in trials]
            job.siblings[:] = [self._checked(line) for line in lines]
            yield lines
            for trial in trials:
                values = self._values(trial.number)
                study.tell(trial, values, state=None if values else optuna.trial.TrialState.FAIL)
        self._show(study)

    def _line(self, point: dict[str, Any]) -> list[str]:
        return [*self.fixed, *(f"{name}={value}" for name, value in point.items())]

    def _values(self, number: int) -> list[float] | None:
        """The objectives of a job; None where it failed or could not measure one.

        Raises:
            ConfigError: the record has no such metric.
        """
        from suite.errors import nearest
        from suite.records.store import read_record

        record = read_record(self.jobs[number].folder)
        if record is None or record["status"] != "completed":
            return None
        for name in self.objectives:
            if name not in record["metrics"]:
                known = list(record["metrics"])
                raise ConfigError(
                    f"hydra.sweeper.objectives.{name}: the jobs bring no such metric.{nearest(name, known)} "
                    f"They bring {', '.join(known)}."
                )
        values = [record["metrics"][name]["value"] for name in self.objectives]
        return None if None in values else values

    def _show(self, study: Any) -> None:
        """The best trials, a line each."""
        best = study.best_trials
        if not best:
            print(f"No trial measured {' and '.join(self.objectives)}; name other objectives, or see the failures.")
            return
        print("Pareto front:" if len(self.objectives) > 1 else "Best:")
        for trial in sorted(best, key=lambda trial: trial.values):
            reached = ", ".join(
                f"{name} {value:.4g}" for name, value in zip(self.objectives, trial.values, strict=True)
            )
            print(f"  job {trial.number}: {' '.join(self._line(trial.params)[len(self.fixed) :])}  ({reached})")


def _axis(override: Override) -> Any:
    """The distribution that an axis means."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(value.start, value.end, log=log)
    if isinstance(value, RangeSweep):
        assert value.start is not None and value.stop is not None
        steps = list(value.range())
        if all(isinstance(step, int) for step in steps):
            return IntDistribution(steps[0], steps[-1], step=value.step)
        return FloatDistribution(steps[0], steps[-1], step=value.step)
    assert isinstance(value, ChoiceSweep)
    return CategoricalDistribution(list(override.sweep_string_iterator()))
