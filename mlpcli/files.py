"""Files that are written whole or not at all, lines that are appended whole, and a lock that dies with its owner.

Everything the program must not lose passes through here, one system call a step, so that a fault can be put at each of
them. Errors are ``OSError``s; who knows what the file was for says so to the user.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"


def read(path: Path, limit: int) -> bytes:
    """The bytes of the regular file ``path``.

    Raises ``OSError``, also for a pipe or a device, which might never end, and before memory is taken for a file of
    more than ``limit`` bytes, or of more than there is memory for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit} bytes, which none is", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(status.st_size)
    except MemoryError:
        raise OSError(errno.ENOMEM, "does not fit in memory", str(path)) from None
    finally:
        os.close(descriptor)


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write ``chunks`` to ``path`` so that a reader finds the old file or the new one, and nothing between.

    A temporary file in the same folder is written, flushed to disk and renamed over ``path``; then the folder itself is
    flushed, as the name lives there. The temporary name is ``.NAME.partial``: one writer at a time is the caller's to
    ensure (see :func:`locked`). Raises ``OSError``; no temporary file is left then, and ``path`` is as it was, or new
    where only the flush of the folder failed.
    """
    temporary = path.with_name(f".{path.name}{PARTIAL}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            for chunk in chunks:
                _write_all(descriptor, chunk)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _flush_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append ``line`` and a newline to ``path``, whole or not at all, and flush them to disk.

    Raises ``OSError``; the line is not there then, unless only the flush of the folder of a new file failed. What
    follows the last newline is the half line of a writer that was killed, and is cut off first.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # so that what is cut off is never another writer's line
        whole = _length_in_whole_lines(descriptor)
        os.ftruncate(descriptor, whole)
        try:
            _write_all(descriptor, line.encode() + b"\n")
            os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, whole)
            raise
    finally:
        os.close(descriptor)
    if whole == 0:
        _flush_folder(path.parent)  # the file may be new, and its name lives there


def make_folder(path: Path) -> None:
    """Make the folder ``path`` and flush its name to disk. Raises ``OSError``: also where there is one."""
    os.mkdir(path)
    _flush_folder(path.parent)


def remove(path: Path) -> None:
    """Remove the file ``path`` if it is there. Raises ``OSError``."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_partials(folder: Path) -> None:
    """Remove what a killed writer left in ``folder``. The caller holds the lock on it. Raises ``OSError``."""
    for leftover in folder.glob(f".*{PARTIAL}"):
        os.unlink(leftover)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock file ``path``; the system lets go of it when the process ends, however it ends.

    Without ``wait``, raises ``BlockingIOError`` when another process holds it. Raises ``OSError`` where the file cannot
    be made or the file system knows no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        with suppress(OSError):  # it is let go of even so, and holds no data
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _length_in_whole_lines(descriptor: int) -> int:
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    return os.pread(descriptor, size, 0).rfind(b"\n") + 1


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
