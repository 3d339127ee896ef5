"""Download of verified files from the first source that delivers them, stored decoded in the data folder.

A file is good if the SHA-256 of its decoded bytes is the catalogue's, wherever it comes from, compressed or not. Only a
verified file ever gets its final name: bytes are written to a temporary file, which is renamed after the check.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol

from mlpcli.datasets.bytestream import GunzipError, chunks_of, decoded, open_regular
from mlpcli.datasets.catalogue import Entry, File, Role
from mlpcli.datasets.source import Folder, Source, SourceError, UnreachableError, shown_source
from mlpcli.errors import DataError, RunError, UnavailableError
from mlpcli.files import locked, write_atomically

LOCK = ".lock"

Say = Callable[[str], None]


class Progress(Protocol):
    """A display of a download's progress: ``start``, any number of ``advance``, ``close``; then perhaps again."""

    def start(self, name: str, total: int) -> None:
        """Begin the display for ``name``, of ``total`` decoded bytes."""

    def advance(self, count: int) -> None:
        """Show that ``count`` more bytes have arrived."""

    def close(self) -> None:
        """End the display, after success or failure."""


class NoProgress:
    """A display that shows nothing."""

    def start(self, name: str, total: int) -> None:
        """See :class:`Progress`."""

    def advance(self, count: int) -> None:
        """See :class:`Progress`."""

    def close(self) -> None:
        """See :class:`Progress`."""


def silent(message: str) -> None:
    """Ignore the message."""


class Downloader:
    """A downloader of files of one data set into ``folder``, for one command.

    A source that could not be reached is not tried again. ``say`` receives messages for the user.
    """

    def __init__(
        self,
        entry: Entry,
        folder: Path,
        *,
        sources: Iterable[str] | None = None,
        offline: bool = False,
        say: Say = silent,
        progress: Progress | None = None,
    ) -> None:
        self.entry = entry
        self.folder = folder
        self._names = list(dict.fromkeys(entry.sources if sources is None else sources))
        self._sources: dict[str, Source] = {}
        self._unreachable: dict[str, str] = {}
        self._shown_lines: set[str] = set()
        self._offline = offline
        self._say = say
        self._progress = progress or NoProgress()

    def fetch(self, roles: Iterable[Role]) -> list[str]:
        """Fetch those files of ``roles`` that are not in the folder or do not verify; return their names.

        A file that does not verify is renamed to ``NAME.damaged`` and fetched again. Two processes may do this at once:
        the second waits, and finds the files good. Raises ``UnavailableError`` when no source delivers a file,
        ``DataError`` when it is damaged and must not be fetched, ``RunError`` when the folder cannot be used.
        """
        files = [self.entry.files[role] for role in roles]
        try:
            wanting = [file for file in files if self._fault(file)]
            if self._offline:
                self._refuse_to_fetch(wanting)
            if not wanting:
                return []
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                return [file.name for file in wanting if self._make_good(file)]
        except OSError as error:
            raise RunError(
                f"{error.filename or self.folder}: {error.strerror or error}: the data folder cannot be used; "
                "name another with data.folder, --folder or MLPCLI_DATA"
            ) from None

    def _fault(self, file: File) -> str | None:
        path = find(self.folder, file.name)
        return "not there" if path is None else fault(path, file)

    def _refuse_to_fetch(self, wanting: list[File]) -> None:
        for file in wanting:
            path = find(self.folder, file.name)
            if path is None:
                raise UnavailableError(
                    f"{self.folder / file.name}: not there, and offline nothing is fetched\n{self._remedies()}"
                )
            raise DataError(
                f"{path}: {fault(path, file)}; offline it is not replaced: "
                "replace it, or run the command without offline"
            )

    def _make_good(self, file: File) -> bool:
        """Fetch ``file`` unless another process has done so in the meantime. Return True if it was fetched."""
        path = find(self.folder, file.name)
        if path is not None:
            wrong = fault(path, file)
            if wrong is None:
                return False
            aside = _free_name(path)
            os.rename(path, aside)  # noqa: PTH104 - by the module, where tests inject faults
            self._say(f"{path}: {wrong}; renamed to {aside.name} and fetched again")
        self._download(file)
        return True

    def _download(self, file: File) -> None:
        reasons: dict[str, str] = {}
        for name in self._names:
            source = shown_source(name)
            try:
                if name in self._unreachable:
                    raise UnreachableError(self._unreachable[name])
                self._say_once(f"{self.entry.name}: asking {source}")
                self._store(file, self._source(name))
            except SourceError as error:
                if isinstance(error, UnreachableError):
                    self._unreachable[name] = str(error)
                reasons[source] = str(error)
            else:
                # If every source fails, the error has the reasons: each is shown once.
                for failed, reason in reasons.items():
                    self._say_once(f"{failed}: {reason}")
                self._say(f"{self.entry.name}: {file.name}, {file.size / 1e6:.1f} MB, from {source}")
                return
        tried = "".join(f"\n  {name}: {reason}" for name, reason in reasons.items()) or "\n  (there are none)"
        raise UnavailableError(f"{self.entry.name}: no source delivers {file.name}:{tried}\n{self._remedies()}")

    def _say_once(self, line: str) -> None:
        """Show ``line`` unless it was shown for another file."""
        if line not in self._shown_lines:
            self._shown_lines.add(line)
            self._say(line)

    def _source(self, name: str) -> Source:
        if name not in self._sources:
            self._sources[name] = source_of(name)
        return self._sources[name]

    def _store(self, file: File, source: Source) -> None:
        """Write ``file`` from ``source``. Raises ``SourceError`` for faults of the source, ``OSError`` for others."""
        reasons: dict[str, str] = {}
        for suffix in source.suffixes:
            self._progress.start(f"{self.entry.name}/{file.name}", file.size)
            try:
                with closing(source.read(file.name + suffix, file.size)) as chunks:
                    write_atomically(self.folder / file.name, self._counted(verified(chunks, file)))
                return
            except UnreachableError:
                raise
            except SourceError as error:
                reasons[file.name + suffix] = str(error)
            finally:
                self._progress.close()
        if len(set(reasons.values())) == 1:
            raise SourceError(*set(reasons.values()))
        raise SourceError("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._progress.advance(len(chunk))
            yield chunk

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / LOCK, wait=False))
            except BlockingIOError:
                self._say(f"{self.folder}: another process is fetching into it; waiting until it is done")
                stack.enter_context(locked(self.folder / LOCK, wait=True))
            yield

    def _remedies(self) -> str:
        names = ", ".join(file.name for file in self.entry.files.values())
        return (
            f"Put {names} (plain or .gz) into {self.folder}, or name a URL, a folder or npm:NAME@VERSION that has them "
            "with --source, or use the bundled sample, the data set mnist-sample, instead"
        )


def source_of(name: str) -> Source:
    """Return the source ``name``: a URL, a folder or ``npm:NAME@VERSION``. Raises ``SourceError`` for any other."""
    if name.startswith(("https://", "http://")):
        from mlpcli.datasets.web import Web

        return Web(name)
    if name.startswith("npm:"):
        from mlpcli.datasets.npm import Npm

        return Npm(name)
    if "://" in name and not name.startswith("file://"):
        raise UnreachableError("a source is an https://, http:// or file:// URL, a folder, or npm:NAME@VERSION")
    return Folder(name)


def find(folder: Path, name: str) -> Path | None:
    """Return the file ``name`` in ``folder``, plain or else with ``.gz``, if there is one. Raises ``OSError``."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def fault(path: Path, file: File) -> str | None:
    """Return the fault of ``path`` as a copy of ``file``, plain or gzip, or None. Raises ``OSError``."""
    try:
        with open_regular(path) as opened:
            for _ in verified(chunks_of(opened), file):
                pass
    except SourceError as error:
        return str(error)
    return None


def verified(chunks: Iterable[bytes], file: File) -> Iterator[bytes]:
    """Yield the decoded bytes of ``chunks``; raise ``SourceError`` if they are not those of ``file``.

    Never yields more than ``file.size`` bytes. They are verified only when it ends without raising.
    """
    digest = hashlib.sha256()
    length = 0
    start = b""
    try:
        for chunk in decoded(chunks):
            start = start or chunk[:64]
            length += len(chunk)
            if length > file.size:
                raise SourceError(f"{_kind(start)} of more than {file.size} bytes")
            digest.update(chunk)
            yield chunk
    except GunzipError as error:
        raise SourceError(str(error)) from None
    if length < file.size:
        raise SourceError(f"{_kind(start)} of {length} bytes instead of {file.size}")
    if digest.hexdigest() != file.sha256:
        raise SourceError(f"the wrong bytes (SHA-256 {digest.hexdigest()[:12]}..., expected {file.sha256[:12]}...)")


def _kind(start: bytes) -> str:
    return "a web page or other text" if start.lstrip()[:1] in (b"<", b"{") else "a file"


def _free_name(path: Path) -> Path:
    """Return ``NAME.damaged``, or the first of ``NAME.damaged-2``, ``-3`` ... that does not exist."""
    candidate = path.with_name(f"{path.name}.damaged")
    number = 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}.damaged-{number}")
    return candidate
