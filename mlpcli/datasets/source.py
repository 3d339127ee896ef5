"""Sources of the files of a data set, and the simplest one, a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from mlpcli.datasets.bytestream import CHUNK_BYTES, open_regular
from mlpcli.errors import shown


class SourceError(Exception):
    """A failure of a source to deliver a file; the message is the reason, in a few words."""


class UnreachableError(SourceError):
    """A failure of a source that will not deliver any other file either."""


class Source(Protocol):
    """A source of files. ``suffixes`` are the possible endings of its file names, in the order to try."""

    suffixes: tuple[str, ...]

    def read(self, name: str, size: int) -> Generator[bytes, None, None]:
        """Yield the bytes of file ``name``, plain or gzip; they should decode to ``size`` bytes.

        Yields at most ``size`` and a small allowance. Raises :class:`SourceError`.
        """
        ...


class Folder:
    """A folder with the files, plain or .gz, named as a path or a ``file://`` URL."""

    suffixes: tuple[str, ...] = ("", ".gz")

    def __init__(self, text: str) -> None:
        self.path = _path_of(text) if text.startswith("file://") else named_path(text)

    def read(self, name: str, size: int) -> Generator[bytes, None, None]:
        """See :meth:`Source.read`."""
        if not is_folder(self.path):
            raise UnreachableError("no such folder")
        try:
            with open_regular(self.path / name) as file:
                left = bounded_size(size)
                while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk
        except FileNotFoundError:
            raise SourceError("no such file") from None
        except OSError as error:
            raise SourceError(f"cannot be read ({error.strerror or error})") from None


def named_path(text: str) -> Path:
    """Return the path for the user's ``text``, which may begin with ``~``."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - the method of Path raises for an unknown user


def is_folder(path: Path) -> bool:
    """Return True if ``path`` is a folder, without raising for an impossible path."""
    return os.path.isdir(path)  # noqa: PTH112 - the method of Path raises for a name that is too long


def bounded_size(size: int) -> int:
    """Return the maximum size of a file of ``size`` decoded bytes, compressed or not: gzip may add a little."""
    return size + size // 100 + 64 * 1024


def shown_source(name: str) -> str:
    """Return ``name`` for a message: without a password, and in one line."""
    return shown(re.sub(r"(?<=://)[^/@]*@", "***@", name))


def _path_of(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UnreachableError(f"a file URL must name a folder of this machine (file:///...), not of {parts.netloc}")
    return Path(unquote(parts.path))
