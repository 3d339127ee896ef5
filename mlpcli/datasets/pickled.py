"""mnist.pkl.gz, the file of Nielsen's book and of the old tutorials: three pairs of images and labels, pickled.

A pickle is a program for a stack machine, and Python's machine runs anything it contains. The machine here builds
tuples, lists, numbers, texts and arrays of numbers, and refuses every other instruction; nothing that a file names is
imported or called. The instructions are Python's (Lib/pickle.py); an array is numpy's _reconstruct, whose state is
(version, shape, type, column by column, bytes), the type numpy.dtype(name) with a state whose second part is the byte
order.
"""

from __future__ import annotations

import codecs
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mlpcli.datasets.arrays import as_images, to_bytes, to_labels
from mlpcli.datasets.bytestream import GunzipError, chunks_of, decoded, open_regular
from mlpcli.datasets.collection import Array, Collection, Examples, FileSplit, readable, shown
from mlpcli.errors import DataError

MAX_BYTES = 1 << 30
MAX_OPCODES = 1_000_000  # instructions executed
PAIRS_OF: dict[FileSplit, tuple[int, ...]] = {"train": (0, 1), "test": (2,)}  # the file has training, validation, test


class PickleError(Exception):
    """Bytes that are not a pickle of arrays of numbers; the message gives the reason."""


class PickledFile(Collection):
    """Three pairs (images, labels) in the pickle ``path``: validation images are the last training images."""

    def __init__(self, path: Path, size: tuple[int, int] | None) -> None:
        super().__init__(path.name)
        self._path = path
        self._size = size
        self._pairs: list[tuple[Array, Array]] | None = None

    def prepare(self, split: FileSplit) -> bool:
        """See :meth:`Collection.prepare`."""
        return True

    def missing(self, split: FileSplit) -> str:
        """See :meth:`Collection.missing`."""
        return f"{shown(self._path)}: has no {split} images"

    def _examples(self, split: FileSplit) -> Examples:
        where = shown(self._path)
        if self._pairs is None:
            self._pairs = _read(self._path)
        pairs = [self._pairs[slot] for slot in PAIRS_OF[split]]
        images = np.concatenate([to_bytes(as_images(images, where, self._size), where) for images, _ in pairs])
        return Examples(images, np.concatenate([to_labels(labels, where) for _, labels in pairs]))


def _read(path: Path) -> list[tuple[Array, Array]]:
    where = shown(path)
    data = bytearray()
    try:
        with open_regular(path) as file:
            for chunk in decoded(chunks_of(file)):
                data += chunk
                if len(data) > MAX_BYTES:
                    raise DataError(f"{where}: unpacks to more than {MAX_BYTES} bytes, the limit")
        found = load(data)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise DataError(f"{where}: does not fit in memory") from None
    except (GunzipError, PickleError) as error:
        raise DataError(f"{where}: {error}") from None
    if not isinstance(found, (tuple, list)) or len(found) != 3 or not all(map(_is_pair, found)):
        raise DataError(f"{where}: is not a pickle of three pairs of images and labels, as mnist.pkl.gz is")
    return [(images, labels) for images, labels in found]


def _is_pair(value: Any) -> bool:
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(isinstance(v, np.ndarray) for v in value):
        return False
    images, labels = value
    return images.ndim in (2, 3) and labels.ndim == 1 and len(images) == len(labels) > 0


class _Name:
    """A callable of a pickle, identified by its name."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Type:
    """A numpy.dtype under construction."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.order = "|"


class _Array:
    """A numpy.ndarray under construction; ``value`` is set when its state is."""

    def __init__(self, value: Array | None = None) -> None:
        self.value = value


ARRAY, TYPE, RECONSTRUCT, FROM_BUFFER, ENCODE = "ndarray", "dtype", "_reconstruct", "_frombuffer", "encode"
_KNOWN = {
    ("numpy", "ndarray"): ARRAY,
    ("numpy", "dtype"): TYPE,
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): FROM_BUFFER,  # of protocol 5
    ("numpy._core.numeric", "_frombuffer"): FROM_BUFFER,
    ("_codecs", "encode"): ENCODE,  # Python 3 writes bytes this way for Python 2
}
_MARK = object()


def load(data: bytes | bytearray) -> Any:
    """Build the tuples of arrays of numbers in the pickle ``data``, or None. Raises ``PickleError``."""
    machine = _Machine(memoryview(data))
    try:
        return _finished(machine.run())
    except (IndexError, KeyError, ValueError, TypeError, struct.error, OverflowError, AttributeError):
        raise PickleError("is damaged, or not a pickle of arrays of numbers") from None


def _finished(value: Any, depth: int = 0) -> Any:
    """Return ``value`` with finished arrays; lists and tuples may be nested only a few levels deep."""
    if isinstance(value, _Array):
        if value.value is None:
            raise PickleError("has an array without numbers")
        return value.value
    if isinstance(value, (tuple, list)) and depth < 4 and len(value) <= 16:
        return tuple(_finished(each, depth + 1) for each in value)
    return None


class _Machine:
    """A stack machine; ``data`` is the program."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._encoded = 0

    def run(self) -> Any:
        """Execute all instructions up to the end of the program."""
        for _ in range(MAX_OPCODES):
            opcode = bytes(self._take(1))
            if opcode == b".":
                return self._stack.pop()
            if opcode not in _OPCODES:
                raise PickleError(f"has the instruction {ascii(opcode)[1:]}, which no array needs; it is not read")
            _OPCODES[opcode](self)
        raise PickleError("is longer than any data set")

    def _take(self, count: int) -> memoryview:
        if count > len(self._data) - self._at:
            raise PickleError("is cut short; get the file again")
        self._at += count
        return self._data[self._at - count : self._at]

    def take_line(self) -> bytes:
        """Take the bytes before the next end of a line."""
        rest = bytes(self._data[self._at : self._at + 4096])
        line, end, _ = rest.partition(b"\n")
        if not end:
            raise PickleError("is cut short; get the file again")
        self._at += len(line) + 1
        return line

    def number(self, form: str) -> int:
        """Return the next number, in the format ``form``."""
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def skip(self, form: str) -> None:
        """Skip a number that is not needed."""
        self.number(form)

    def push(self, value: Any) -> None:
        """Put ``value`` on the stack."""
        self._stack.append(value)

    def sized_bytes(self, form: str) -> memoryview:
        """Return bytes that are preceded by their number."""
        return self._take(self.number(form))

    def pop_to_mark(self) -> list[Any]:
        """Take the values above the last mark, and the mark, off the stack."""
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise PickleError("is damaged; get the file again")
        values = self._stack[at + 1 :]
        del self._stack[at:]
        return values

    def pop(self, count: int) -> tuple[Any, ...]:
        """Return the top ``count`` values, and remove them."""
        if count > len(self._stack):
            raise PickleError("is damaged; get the file again")
        values = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        return values

    def append_all(self, values: list[Any]) -> None:
        """Add ``values`` to the list below them."""
        if not isinstance(self._stack[-1], list):
            self._refuse()
        self._stack[-1].extend(values)

    def memoize(self, slot: int) -> None:
        """Store the top of the stack in the memo."""
        self._memo[slot] = self._stack[-1]

    def push_memo(self, slot: int) -> None:
        """Push a value from the memo."""
        self.push(self._memo[slot])

    def push_name(self, module: str, name: str) -> None:
        """Push the callable of this name, if it is allowed."""
        if (module, name) not in _KNOWN:
            raise PickleError(f"refers to {readable(f'{module}.{name}')[:60]}, which no array needs; it is not read")
        self.push(_Name(_KNOWN[module, name]))

    def call(self) -> None:
        """Make the array, type or bytes for a callable and its arguments."""
        function, arguments = self.pop(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            self._refuse()
        if function.name == RECONSTRUCT:
            self.push(_Array())
        elif function.name == FROM_BUFFER:
            elements, kind, shape, order = arguments
            self.push(_Array(_array(shape, kind, order == "F", elements)))
        elif function.name == TYPE:
            self.push(_Type(_text(arguments[0])))
        elif function.name == ENCODE and arguments[1:] in (("latin1",), ("latin-1",)):
            self.push(self.encoded(_text(arguments[0])))
        else:
            self._refuse()

    def build(self) -> None:
        """Set the state of the array or type below it."""
        (state,) = self.pop(1)
        target = self._stack[-1]
        if isinstance(target, _Type):
            target.order = _text(state[1])
        elif isinstance(target, _Array):
            _, shape, kind, fortran, elements = state
            if isinstance(elements, str):  # Python 2's bytes, written as text
                elements = self.encoded(elements)
            target.value = _array(shape, kind, fortran, elements)
        else:
            self._refuse()

    def encoded(self, text: str) -> bytes:
        """Encode ``text`` as bytes; the total is limited to the size of a file."""
        self._encoded += len(text)
        if self._encoded > MAX_BYTES:
            raise PickleError("builds more than a data set has; it is not read")
        return text.encode("latin-1")

    def _refuse(self) -> NoReturn:
        raise PickleError("builds something other than arrays of numbers; it is not read")


def _text(value: Any) -> str:
    if isinstance(value, (bytes, memoryview)):
        return bytes(value[:64]).decode("latin-1")
    if not isinstance(value, str):
        raise PickleError("builds something other than arrays of numbers; it is not read")
    return value


def _array(shape: Any, kind: Any, fortran: Any, elements: Any) -> Array:
    if not isinstance(kind, _Type) or len(kind.name) != 2 or kind.name[0] not in "biuf" or kind.order not in "<>|=":
        raise PickleError("has an array of something other than numbers; it is not read")
    dtype = np.dtype(f"{kind.order}{kind.name}")
    sides = tuple(int(side) for side in shape)
    if not isinstance(elements, (bytes, memoryview)) or len(sides) > 4 or min(sides, default=0) < 0:
        raise PickleError("is damaged; get the file again")
    if math.prod(sides) * dtype.itemsize != len(elements):
        raise PickleError(f"has an array of {len(elements)} bytes, which do not fit its shape")
    return np.frombuffer(elements, dtype).reshape(sides, order="F" if fortran else "C")


def _escaped(line: bytes) -> bytes:
    """Return the bytes of Python's repr of a byte string, quotes included."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise PickleError("is damaged; get the file again")
    return codecs.escape_decode(line[1:-1])[0]


def _long(data: memoryview) -> int:
    return int.from_bytes(data[:16], "little", signed=True)


Opcode = Callable[[_Machine], None]
_OPCODES: dict[bytes, Opcode] = {
    b"\x80": lambda m: m.skip("<B"),  # the protocol's number
    b"(": lambda m: m.push(_MARK),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"I": lambda m: m.push(int(m.take_line())),
    b"L": lambda m: m.push(int(m.take_line().removesuffix(b"L"))),
    b"\x8a": lambda m: m.push(_long(m.sized_bytes("<B"))),
    b"S": lambda m: m.push(_escaped(m.take_line())),
    b"U": lambda m: m.push(m.sized_bytes("<B")),
    b"T": lambda m: m.push(m.sized_bytes("<I")),
    b"C": lambda m: m.push(m.sized_bytes("<B")),
    b"B": lambda m: m.push(m.sized_bytes("<I")),
    b"\x96": lambda m: m.push(m.sized_bytes("<Q")),
    b"\x8e": lambda m: m.push(m.sized_bytes("<Q")),
    b"V": lambda m: m.push(m.take_line().decode("raw-unicode-escape")),
    b"X": lambda m: m.push(str(m.sized_bytes("<I"), "utf-8", "surrogatepass")),
    b"\x8c": lambda m: m.push(str(m.sized_bytes("<B"), "utf-8", "surrogatepass")),
    b")": lambda m: m.push(()),
    b"]": lambda m: m.push([]),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"l": lambda m: m.push(m.pop_to_mark()),
    b"\x85": lambda m: m.push(m.pop(1)),
    b"\x86": lambda m: m.push(m.pop(2)),
    b"\x87": lambda m: m.push(m.pop(3)),
    b"a": lambda m: m.append_all(list(m.pop(1))),
    b"e": lambda m: m.append_all(m.pop_to_mark()),
    b"p": lambda m: m.memoize(int(m.take_line())),
    b"q": lambda m: m.memoize(m.number("<B")),
    b"r": lambda m: m.memoize(m.number("<I")),
    b"\x94": lambda m: m.memoize(len(m._memo)),
    b"g": lambda m: m.push_memo(int(m.take_line())),
    b"h": lambda m: m.push_memo(m.number("<B")),
    b"j": lambda m: m.push_memo(m.number("<I")),
    b"c": lambda m: m.push_name(m.take_line().decode(), m.take_line().decode()),
    b"\x93": lambda m: m.push_name(*map(_text, m.pop(2))),
    b"R": lambda m: m.call(),
    b"b": lambda m: m.build(),
    b"\x95": lambda m: m.skip("<Q"),  # the length of a frame
}
