"""Print results to stdout, messages to stderr, JSON as one document."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from mlpcli.errors import RunError


def say(message: str) -> None:
    """Print a message for the user to stderr; failures to write it are ignored."""
    with suppress(OSError):
        click.echo(harmless(message), err=True)


def result(text: str) -> None:
    """Print a result to stdout. Raises ``RunError`` if it cannot be written, for instance on a full disk."""
    try:
        click.echo(harmless(text))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"stdout: cannot be written: {error.strerror or error}") from error


def result_json(document: dict[str, Any] | list[Any], indent: int | None = 2) -> None:
    """Print ``document`` to stdout as the one JSON document of the command; ``indent`` None is for large arrays."""
    text = json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=False)
    result(re.sub(r"[^\n\x20-\x7e]", lambda found: _in_json(found[0]), text))


def _in_json(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]


def write_file(path: Path, data: bytes) -> None:
    """Write a result to the file ``path``, whole or not at all; an existing one is replaced. Raises ``RunError``."""
    from mlpcli.files import write_atomically

    try:
        if path.exists() and not path.is_file():  # a folder or a device must not be replaced
            raise RunError(f"{path}: cannot be written: is not a regular file")
        write_atomically(path, [data])
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{path}: cannot be written: {reason}") from error


# Escape sequences of colours, which are allowed.
_UNSEEN = re.compile(r"\x1b\[[0-9;]*m|[^\n\t\x20-\x7e]")


def harmless(text: str) -> str:
    """Escape control characters in ``text`` except colours: names may come from anybody."""

    def escaped(found: re.Match[str]) -> str:
        what = found[0]
        return what if what.isprintable() or len(what) > 1 else what.encode("unicode_escape").decode()

    return _UNSEEN.sub(escaped, text)


def colour(text: str, name: str) -> str:
    """Return ``text`` in a colour if stdout is a terminal and ``NO_COLOR`` is not set."""
    plain = bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
    return text if plain else click.style(text, fg=name)
