"""Keys and passwords stay out of records, trackers, config dumps and logs.

What is typed is refused before any file is made; what comes another way (a YAML file, the environment, a server's
error message) is masked where it would be written. A secret is told by its name, by its shape, or because the
environment holds it under a secret's name.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suite.errors import UserError

NAMES = r"(?:api_?key|access_?key|token|secret|password|passwd|credentials?)"
# `max_new_tokens` and `ms_per_token` must survive: only text under a key that ends like a secret's name is hidden.
SECRET_KEY = re.compile(rf"(^|[._-]){NAMES}$", re.IGNORECASE)
SECRET_TEXT = re.compile(r"\b(?:hf_|sk-|ghp_|glpat-|wandb_v1_)[A-Za-z0-9_-]{12,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
SECRET_LINE = re.compile(rf"(?im)^(\W*(?:[\w.]*[._-])?{NAMES}\s*[:=]\s*)(?!null\s*$|'?\${{)\S.*$")
SECRET_INSIDE = re.compile(rf"[{{,]\s*['\"]?(?:[\w.]*[._-])?{NAMES}['\"]?\s*:", re.IGNORECASE)
SHORTEST = 8
"""Characters; a shorter value of the environment is no key, and masking it would blot out ordinary words."""


def scrub(value: Any, key: str = "") -> Any:
    """`value` with secrets replaced by `***`: text under a secret's name, and text that is or looks like one."""
    return _scrub(value, key, _of_environment())


def _scrub(value: Any, key: str, known: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _scrub(item, str(name), known) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrub(item, key, known) for item in value]
    if isinstance(value, str) and value:
        return "***" if SECRET_KEY.search(key) else _mask(value, known)
    return value


def _of_environment() -> list[str]:
    return [value for name, value in os.environ.items() if len(value) >= SHORTEST and SECRET_KEY.search(name)]


def _mask(text: str, known: Sequence[str]) -> str:
    for secret in known:
        text = text.replace(secret, "***")
    return SECRET_TEXT.sub("***", text)


def command_line(arguments: Sequence[str]) -> list[str]:
    """A command line or a job's overrides with the values of secrets masked."""
    parts = [argument.partition("=") for argument in arguments]
    return [f"{key}={scrub(value, key.lstrip('+'))}" if equals else str(scrub(key)) for key, equals, value in parts]


def refuse_secrets(arguments: Sequence[str]) -> None:
    """Stop before a typed secret is copied into the many files that a launch makes.

    Raises:
        UserError: naming the argument, not its value.
    """
    for argument, masked in zip(arguments, command_line(arguments), strict=True):
        key, _, value = argument.partition("=")
        named = masked != argument and value != "null" and not value.startswith("${")
        if named or SECRET_INSIDE.search(value):
            raise UserError(
                f"{key.lstrip('+')} holds a secret, and what is typed ends up in files; put it into the environment "
                "(WANDB_API_KEY, HF_TOKEN, OPENAI_API_KEY ...) and leave it out here."
            )


def mask_files(folder: Path) -> None:
    """Mask the YAML files that Hydra has written into `folder`."""
    for path in folder.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        if (masked := SECRET_LINE.sub(r"\1'***'", _mask(text, _of_environment()))) != text:
            path.write_text(masked, encoding="utf-8")


class MaskingFormatter(logging.Formatter):
    """Log lines and tracebacks without secrets; the format of a job's log, see conf/config.yaml."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return _mask(super().format(record), _of_environment())
