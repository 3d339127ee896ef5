"""Atomic writes of files, atomic appends of lines, and locks that the system releases when their process ends.

A run may come from a stranger, and its folder may be moved or replaced while it is open. So a :class:`Folder` is an
open directory: its files are opened relative to the descriptor, never through a symbolic link, and only if they are
regular files. All data that must not be lost are written here, one system call per line, so that a test can inject a
fault at each of them. Errors are ``OSError``; the caller, who knows what the file is for, makes the message.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

# The name of a file that is being written. It cannot be guessed, and it is short: the file's own name may have the
# maximum length.
TEMPORARY = re.compile(r"\.mlpcli-[0-9a-f]{16}\.partial")

# A line of evaluations.jsonl has some 200 bytes, and 200 more for each checkpoint.
MAX_HALF_LINE = 1 << 20

# How long to retry a lock: :meth:`Folder.is_locked` of another process holds it, shared, for some microseconds.
PROBE_SECONDS = 0.3
# Error numbers of file systems that have no locks, and of those that cannot flush a folder.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


class Folder:
    """An open directory. Its files are named relative to it, as in ``"config.yaml"`` or ``"checkpoints/last.npz"``.

    It stays the same directory wherever it is moved to; ``path`` is what it was opened as. No symbolic link in it is
    followed, and nothing but regular files is opened. A context manager. All methods raise ``OSError``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._absolute = path.absolute()  # the working directory may change
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory."""
        with suppress(OSError):  # the descriptor is released anyway, and nothing was written to it
            os.close(self._descriptor)

    def names(self) -> list[str]:
        """Return the names of all entries, sorted."""
        return sorted(os.listdir(self._descriptor))

    def has(self, name: str) -> bool:
        """Return True if anything has that name, even a dangling link."""
        try:
            with self._at(name) as (folder, last):
                os.stat(last, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def open(self, name: str) -> BinaryIO:
        """Open the file ``name`` to read."""
        with self._at(name) as (folder, last):
            return os.fdopen(_open_regular(last, os.O_RDONLY, folder), "rb")

    def read(self, name: str, limit: int) -> bytes:
        """Read the bytes of the file ``name``. Raises ``OSError``, also if it has more than ``limit`` bytes."""
        with self._at(name) as (folder, last):
            return _read_and_close(_open_regular(last, os.O_RDONLY, folder), limit)

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write ``chunks`` to ``name`` atomically: a reader finds the old file or the new one.

        A temporary file of a random name is written in the same folder, flushed to disk and renamed to ``name``. Then
        the folder, which stores the name, is flushed. If this raises, no temporary file is left, and ``name`` is the
        old file, or the new one if only the flush of the folder failed.
        """
        with self._at(name) as (folder, last):
            temporary, descriptor = _create_temporary(folder)
            try:
                try:
                    for chunk in chunks:
                        _write_all(descriptor, chunk)
                    os.fsync(descriptor)
                    os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
                finally:
                    os.close(descriptor)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            _flush_folder(folder)

    def open_new(self, name: str) -> FileIO:
        """Open a new file ``name`` for writing; an existing one is removed. Nothing is flushed to disk."""
        with self._at(name) as (folder, last):
            with suppress(FileNotFoundError):
                os.unlink(last, dir_fd=folder)
            return FileIO(_open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder), "w")

    def append_line(self, name: str, line: str) -> None:
        """Append ``line`` and a newline to ``name``, whole or not at all, and flush them to disk.

        If this raises, the line is not in the file, unless only the flush of the folder of a new file failed. Text
        after the last newline is half a line of a writer that was killed: it is removed first.
        """
        with self._at(name) as (folder, last):
            descriptor = _open_regular(last, os.O_RDWR | os.O_CREAT | os.O_APPEND, folder)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # so that no line of another writer is removed
                if os.fstat(descriptor).st_nlink > 1:  # a change would show under the other name too
                    raise OSError(errno.EMLINK, "has another name, a hard link; copy it to a file of its own", last)
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
                _flush_folder(folder)  # the file may be new, and the folder stores its name

    def make_folder(self, name: str) -> None:
        """Make the folder ``name`` and flush its name to disk. Raises ``OSError``, also if it exists."""
        with self._at(name) as (folder, last):
            os.mkdir(last, dir_fd=folder)
            _flush_folder(folder)

    def remove(self, name: str) -> None:
        """Remove the file or link ``name`` if it is there."""
        with suppress(FileNotFoundError), self._at(name) as (folder, last):
            os.unlink(last, dir_fd=folder)

    def remove_temporaries(self, below: str = ".") -> None:
        """Remove temporary files in the folder ``below``, except those that a process is writing."""
        with self._at(f"{below}/.") as (folder, _):
            for name in os.listdir(folder):
                # Only a regular file: a link of such a name is another program's.
                if TEMPORARY.fullmatch(name):
                    with suppress(OSError):
                        descriptor = _open_regular(name, os.O_RDONLY, folder)
                        try:
                            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                            os.unlink(name, dir_fd=folder)
                        finally:
                            os.close(descriptor)

    @contextmanager
    def locked(self, name: str, *, wait: bool) -> Iterator[int]:
        """Hold the lock file ``name``; the system releases it when the process ends, however it ends.

        Yields its descriptor, for :meth:`is_at`. Without ``wait``, raises ``BlockingIOError`` if another process holds
        it. Raises ``OSError`` if the file cannot be made or the file system has no locks.
        """
        with self._at(name) as (folder, last):
            descriptor = _open_regular(last, os.O_RDWR | os.O_CREAT, folder)
        try:
            _lock(descriptor, wait)
            yield descriptor
        finally:
            with suppress(OSError):  # the lock is released anyway, and the file has no data
                os.close(descriptor)

    def is_locked(self, name: str) -> bool:
        """Return True if a process holds the lock file ``name``. Makes no file, and blocks no other process."""
        try:
            with self._at(name) as (folder, last):
                descriptor = _open_regular(last, os.O_RDONLY, folder)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # a file system without locks
        finally:
            os.close(descriptor)
        return False

    def is_at(self, name: str, descriptor: int) -> bool:
        """Return True if ``descriptor`` is open on the file that is now at the path of ``name``."""
        try:
            there = os.stat(self._absolute / name, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))

    def can_flush(self) -> bool:
        """Return True if the file system can flush a folder. If not, a power failure may lose names of files."""
        return _flush_folder(self._descriptor)

    @contextmanager
    def _at(self, name: str) -> Iterator[tuple[int, str]]:
        """Open the directory of ``name``; yield its descriptor and the file's own name. Errors have the whole path."""
        below, _, last = name.rpartition("/")
        try:
            if below in ("", "."):
                yield self._descriptor, last
                return
            descriptor = _open(below, os.O_RDONLY | os.O_DIRECTORY, self._descriptor)
            try:
                yield descriptor, last
            finally:
                os.close(descriptor)
        except OSError as error:
            if os.sep not in str(error.filename):
                error.filename = str(self.path / name)
            raise


def read(path: Path, limit: int) -> bytes:
    """Read the regular file ``path``, which the user named. It may be a link to one.

    Raises ``OSError``, also for a pipe or a device, which might never end, and for a file that has more than ``limit``
    bytes or does not fit in memory.
    """
    try:
        return _read_and_close(_regular(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)), limit)
    except OSError as error:
        error.filename = str(path)
        raise


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write ``chunks`` to ``path`` as :meth:`Folder.write` does. Removes temporary files of killed processes first."""
    with Folder(path.parent) as folder:
        folder.remove_temporaries()
        folder.write(path.name, chunks)


def make_folder(path: Path) -> None:
    """Make the folder ``path`` and flush its name to disk. Raises ``OSError``, also if it exists."""
    with Folder(path.parent) as above:
        above.make_folder(path.name)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock file ``path`` as :meth:`Folder.locked` does."""
    with Folder(path.parent) as folder, folder.locked(path.name, wait=wait):
        yield


def _open(name: str, flags: int, folder: int) -> int:
    try:
        # O_NONBLOCK: opening a pipe would wait for its other end.
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666, dir_fd=folder)
    except OSError:
        if _is_link(name, folder):
            raise OSError(errno.ELOOP, "is a symbolic link, which is not followed here", name) from None
        raise


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _open_regular(name: str, flags: int, folder: int) -> int:
    return _regular(_open(name, flags, folder))


def _regular(descriptor: int) -> int:
    """Return ``descriptor`` if it is open on a regular file; else close it and raise ``OSError``."""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read_and_close(descriptor: int, limit: int) -> bytes:
    try:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit} bytes, the limit")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(size)
    except MemoryError:
        raise OSError(errno.ENOMEM, "does not fit in memory") from None
    finally:
        os.close(descriptor)


def _create_temporary(folder: int) -> tuple[str, int]:
    """Return name and descriptor of a new file, locked: the lock shows that its writer is alive."""
    while True:
        name = f".mlpcli-{os.urandom(8).hex()}.partial"
        descriptor = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder
        )
        try:
            with suppress(OSError):  # without locks, the file of a killed writer stays
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # another process removed it before it was locked
                os.stat(name, dir_fd=folder, follow_symlinks=False)
                return name, descriptor
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise
        os.close(descriptor)


def _lock(descriptor: int, wait: bool) -> None:
    if wait:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    until = time.monotonic() + PROBE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(PROBE_SECONDS / 20)
        else:
            return


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _length_in_whole_lines(descriptor: int) -> int:
    """Return the number of bytes up to the last newline, included. Raises ``OSError`` if half a line is too long."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - MAX_HALF_LINE)
    newline = os.pread(descriptor, size - start, start).rfind(b"\n")
    if newline < 0 and start:
        raise OSError(errno.EFBIG, f"not a file of lines: its last {MAX_HALF_LINE} bytes have no newline")
    return start + newline + 1


def _flush_folder(descriptor: int) -> bool:
    """Flush the names in an open directory to disk; return False if its file system cannot. Raises ``OSError``."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
        return False
    return True
