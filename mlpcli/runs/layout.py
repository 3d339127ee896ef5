"""Names of a run's files, and the messages for failures to read or write them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlpcli.errors import RunError, shown

CONFIG = "config.yaml"
MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
STEPS = "steps.jsonl"
TEST = "test.json"
EVALUATIONS = "evaluations.jsonl"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` from reading ``path`` into a ``RunError``."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise RunError(f"{shown(_where(error, path))}: cannot be read: {_reason(error)}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` from writing to ``path`` into a ``RunError``."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise RunError(f"{shown(_where(error, path))}: cannot be written: {_reason(error)}") from error


def train_again(path: Path) -> str:
    """Return the advice for the damaged run ``path``: the command that trains it again."""
    return f"train it again: mlpcli train {quoted(path / CONFIG)}"


def resume_command(path: Path, train: str = "mlpcli train") -> str:
    """Return the command that resumes the run or checkpoint ``path``; ``train`` is the command that trained it."""
    return f"{train} --resume {quoted(path)}"


def quoted(path: Path) -> str:
    """Return ``path`` as an argument in a shell."""
    # A name that begins with a dash would be parsed as an option.
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def _where(error: Exception, path: Path) -> object:
    return getattr(error, "filename", None) or path


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error
