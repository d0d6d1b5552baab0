"""Errors meant for the person at the keyboard: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or a missing resource. `launch.py` prints the message without a traceback and exits non-zero."""


class ConfigError(UserError):
    """A configuration value that cannot be run."""


class WriteError(UserError):
    """A file or store cannot be written: the job is not failed but interrupted, and the same command goes on."""


class JobsFailed(UserError):
    """A sweep went through, and some of its jobs failed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` when a known name is close, else the empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{match[0]}'?" if match else ""


def check_choice(field: str, value: str, choices: Iterable[str]) -> None:
    """Raise `ConfigError` unless `value` is one of `choices`."""
    known = sorted(choices)
    if value not in known:
        raise ConfigError(f"{field}={value} is not one of {', '.join(known)}.{nearest(value, known)}")


def check_range(field: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise `ConfigError` unless low <= value <= high; NaN is outside every range."""
    if not low <= value <= high:
        legal = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ConfigError(f"{field}={value} must be {legal}.")
