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
    """Print a message for a person to stderr; that nobody can read it is no reason to end what it is about."""
    with suppress(OSError):
        click.echo(harmless(message), err=True)


def result(text: str) -> None:
    """Print a result to stdout. Raises ``RunError`` where it cannot be written, as on a full disk."""
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
    """Write a result to the file ``path``, whole or not at all; one that is there is replaced. Raises ``RunError``."""
    from mlpcli.files import write_atomically

    try:
        if path.exists() and not path.is_file():  # a folder, or a device that a file must not take the place of
            raise RunError(f"{path}: cannot be written: is no regular file")
        write_atomically(path, [data])
    except (OSError, ValueError) as error:  # a name with a NUL in it is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{path}: cannot be written: {reason}") from error


# Colours, ours among them, do nothing but colour.
_UNSEEN = re.compile(r"\x1b\[[0-9;]*m|[^\n\t\x20-\x7e]")


def harmless(text: str) -> str:
    """``text`` with everything escaped that would not be seen, but steer the terminal: names may be anybody's."""

    def escaped(found: re.Match[str]) -> str:
        what = found[0]
        return what if what.isprintable() or len(what) > 1 else what.encode("unicode_escape").decode()

    return _UNSEEN.sub(escaped, text)


def colour(text: str, name: str) -> str:
    """``text`` in a colour where stdout is a terminal and ``NO_COLOR`` is not set."""
    plain = bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
    return text if plain else click.style(text, fg=name)
