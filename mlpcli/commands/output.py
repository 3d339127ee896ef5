"""Print results to stdout, messages to stderr, JSON as one document."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlpcli.errors import RunError, UsageError, shown

if TYPE_CHECKING:
    from mlpcli.config import DataConfig


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
    """Print ``document`` to stdout as the one JSON document of the command; ``indent`` None is for large arrays.

    Bytes of a path that are no UTF-8 become U+FFFD: JSON is Unicode text, and a strict reader refuses their surrogates.
    """
    text = json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=False)
    result(re.sub(r"[^\n\x20-\x7e]", lambda found: _in_json(found[0]), text))


def _in_json(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return "\N{REPLACEMENT CHARACTER}"
    return character if character.isprintable() else json.dumps(character)[1:-1]


def check_file(path: Path, *inputs: str | Path, data: DataConfig | None = None) -> None:
    """Check, before the work, that a result may be written to the file ``path``.

    ``data`` describes the data set that is read, if any. Raises ``RunError`` if the file cannot be there,
    ``UsageError`` if it is one of ``inputs``, among the files of ``data``, or a run's own file.
    """
    from mlpcli.datasets.load import is_part_of
    from mlpcli.runs.directory import own_file_of

    with _writing(path):
        if path.exists() and not path.is_file():  # a folder or a device must not be replaced
            raise RunError(f"{shown(path)}: cannot be written: is not a regular file")
        if not stat.S_ISDIR(path.parent.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        read = any(_is_same(path, Path(each)) for each in inputs)
        if read or (data is not None and is_part_of(path, data.dataset, data.folder)):
            raise UsageError(f"{shown(path)}: is read by this command, and would be replaced; name another file")
        if run := own_file_of(path):
            raise UsageError(f"{shown(path)}: is a file of the run {shown(run)}; name another file")


def write_file(path: Path, data: bytes) -> None:
    """Write a result to the file ``path``, whole or not at all; an existing one is replaced.

    Raises the errors of :func:`check_file`, and ``RunError`` if the file cannot be written.
    """
    from mlpcli.files import write_atomically

    check_file(path)
    with _writing(path):
        write_atomically(path, [data])


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{shown(path)}: cannot be written: {reason}") from error


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


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
