"""Untrusted bytes, read a chunk at a time: from regular files only, and gzip is decoded only as far as it is read."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

GZIP_MAGIC = b"\x1f\x8b"
MAX_RATIO = 1032  # deflate's best: 258 bytes from two bits
CHUNK_BYTES = 256 * 1024


class GunzipError(Exception):
    """Data that are not gzip, are damaged, or end too early; the message gives the reason."""


def open_regular(path: Path) -> BinaryIO:
    """Open ``path`` to read, if it is a regular file: a pipe would wait for a writer, a device might never end.

    Raises ``OSError``.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def chunks_of(file: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of ``file`` in chunks."""
    return iter(lambda: file.read(CHUNK_BYTES), b"")


def decoded(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of ``chunks``, decoded if they begin as gzip does. Raises :class:`GunzipError`."""
    rest = iter(chunks)
    start = b""
    for chunk in rest:
        start += chunk
        if len(start) >= len(GZIP_MAGIC):
            break
    whole = chain([start], rest)
    yield from gunzip(whole) if start.startswith(GZIP_MAGIC) else whole


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the decoded bytes of ``chunks`` in chunks of at most ``CHUNK_BYTES``; gzip members are joined.

    They are decoded on request: a reader that stops also stops the decoding. Memory: two chunks.
    Raises :class:`GunzipError`, at the latest when the stream ends.
    """
    member = None
    for chunk in chunks:
        rest = chunk
        while rest:
            if member is None:
                member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            try:
                decoded_chunk = member.decompress(rest, CHUNK_BYTES)
                rest = member.unconsumed_tail
                # All input may be consumed while output is still buffered; empty input flushes it.
                while decoded_chunk:
                    yield decoded_chunk
                    decoded_chunk = b"" if member.eof or rest else member.decompress(b"", CHUNK_BYTES)
            except zlib.error as error:
                raise GunzipError(f"damaged gzip ({_reason(error)})") from None
            if member.eof:
                rest = member.unused_data
                member = None
    if member is not None:
        raise GunzipError("gzip cut short")


def _reason(error: zlib.error) -> str:
    """Return zlib's message without its prefix about functions."""
    return str(error).rpartition(": ")[2]
