"""metrics.jsonl, one line per epoch, read as a stream.

In memory are a summary and only as many lines as a picture can show, so a long run or an untrusted file takes little
memory. A line as mlpcli writes it is matched by a regular expression, which takes a quarter of the time of parsing. Any
other line is parsed and checked key by key. Both accept the same lines: the expression is built from the schema.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mlpcli.config import MAX_LAYERS, TrainingConfig, rule_of
from mlpcli.errors import RunError, shown
from mlpcli.files import Folder
from mlpcli.runs.layout import METRICS, reading, train_again
from mlpcli.runs.schema import Fits, Schema, is_count, is_number, misfit, or_null, parse
from mlpcli.state import EpochRecord

MAX_EPOCHS = int(rule_of(TrainingConfig, "epochs").high or 0)
MAX_LINE = 256 * 1024  # bytes; a network of MAX_LAYERS needs 50 kB
MAX_RECORDS = 1000  # a longer run is thinned by powers of two, to between half and all of this number

CHUNK_BYTES = 256 * 1024

# A number that cannot be infinite; an exponent of three digits could overflow.
_COUNT = r"(?:0|[1-9][0-9]{0,14})"
_EXPONENT = r"e[-+]?[0-9]{1,2}"
_NUMBER = rf"(?:-?{_COUNT}(?:\.[0-9]{{1,25}}(?:{_EXPONENT})?|{_EXPONENT})|{_COUNT})"
_NUMBERS = rf"\[(?:{_NUMBER}(?:, {_NUMBER}){{0,{MAX_LAYERS}}})?\]"


@cache
def _written() -> re.Pattern[bytes]:
    """Return the expression for a line; compiling it takes a tenth of the time of importing numpy."""
    groups = {name: f"({'' if name in _SUMMED else '?:'}{_BY_TYPE[kind][1]})" for name, kind in _TYPES.items()}
    return re.compile(("{" + ", ".join(f'"{name}": {group}' for name, group in groups.items()) + "}\n").encode())


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_LAYERS + 1 and all(map(is_number, value))


# By the declared type of a field: the check of its value, and its text.
_BY_TYPE: dict[str, tuple[Fits, str]] = {
    "int": (is_count, _COUNT),
    "float": (is_number, _NUMBER),
    "float | None": (or_null(is_number), rf"(?:{_NUMBER}|null)"),
    "list[float]": (_are_numbers, _NUMBERS),
    "list[float] | None": (or_null(_are_numbers), rf"(?:{_NUMBERS}|null)"),
}
_TYPES = {each.name: str(each.type) for each in fields(EpochRecord)}
_RECORD: Schema = {name: _BY_TYPE[kind][0] for name, kind in _TYPES.items()}
_LISTS = [name for name, kind in _TYPES.items() if kind.startswith("list")]
# Read from every line; most lines are not stored.
_SUMMED = ("epoch", "validation_loss", "validation_error", "examples_per_second", "seconds")  # in the line's order
# Lines from before averages were introduced lack these.
_BESIDE_AN_AVERAGE = ("raw_validation_loss", "raw_validation_error")


@dataclass(frozen=True)
class Metrics:
    """A summary of the ``epochs`` lines of metrics.jsonl.

    ``best`` is the first line of the lowest (validation error, validation loss). ``seconds`` are those of training,
    ``examples`` the examples trained on. ``kept`` has some lines by their numbers, evenly spaced, and the first, the
    best and the last.
    """

    path: Path
    epochs: int = 0
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    seconds: float = 0.0
    examples: float = 0.0
    kept: dict[int, bytes] = field(default_factory=dict)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Return the lines in ``kept``. Raises ``RunError`` if they have different numbers of layers."""
        records = [_parsed(line) for _, line in sorted(self.kept.items())]
        if len({tuple(len(record[key] or ()) for key in _LISTS) for record in records}) > 1:
            raise RunError(f"{shown(self.path)}: is damaged: the number of layers is not the same in all epochs")
        return records


def read(folder: Folder, at_least: int = 0) -> Metrics:
    """Read the metrics of the run in ``folder``, without a torn last line.

    Raises ``RunError`` if a line is damaged, or if there are fewer than ``at_least``.
    """
    best: tuple[float, float, int] | None = None
    best_line = last_line = b""
    kept: list[tuple[int, bytes]] = []
    step, number, seconds, examples = 1, 0, 0.0, 0.0
    for number, line, (loss, error, rate, here) in _checked(folder):
        last_line = line
        if error is not None and loss is not None and (best is None or (error, loss) < best[:2]):
            best, best_line = (error, loss, number), line
        seconds += here
        examples += here * rate
        if number % step == 0 or number == 1:
            kept.append((number, line))
            if len(kept) > MAX_RECORDS:
                step *= 2
                kept = [each for each in kept if each[0] % step == 0 or each[0] == 1]
    require(folder, number, at_least)
    lines = dict(kept)
    if best is not None:
        lines[best[2]] = best_line
    if number:
        lines[number] = last_line
    return Metrics(
        path=folder.path / METRICS,
        epochs=number,
        best=_parsed(best_line) if best else None,
        last=_parsed(last_line) if number else None,
        seconds=seconds,
        examples=examples,
        kept=lines,
    )


def each(folder: Folder) -> Iterator[dict[str, Any]]:
    """Yield every line. Raises ``RunError`` if one is damaged."""
    return (_parsed(line) for _, line, _ in _checked(folder))


def last(folder: Folder) -> dict[str, Any] | None:
    """Return the last whole line without reading the others; None if there is none. Raises ``RunError``."""
    with reading(folder.path / METRICS):
        try:
            file = folder.open(METRICS)
        except FileNotFoundError:
            return None
        with file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * MAX_LINE))
            lines = file.read(2 * MAX_LINE).rpartition(b"\n")[0].split(b"\n")
    return _parsed(lines[-1] + b"\n") if lines[-1] and _record(lines[-1]) else None


def length_of(folder: Folder, epochs: int) -> int:
    """Return the bytes of the first ``epochs`` lines. Raises ``RunError`` if there are fewer, or one is damaged."""
    length = number = 0
    if epochs:
        for number, line, _ in _checked(folder):
            length += len(line)
            if number == epochs:
                break
    require(folder, number, epochs)
    return length


def cut(folder: Folder, length: int) -> None:
    """Truncate the file to ``length`` bytes; writes nothing if it is not longer."""
    try:
        file = folder.open(METRICS)
    except FileNotFoundError:
        return
    with file:
        if file.seek(0, os.SEEK_END) > length:
            file.seek(0)
            folder.write(
                METRICS, (file.read(min(CHUNK_BYTES, length - start)) for start in range(0, length, CHUNK_BYTES))
            )


def require(folder: Folder, epochs: int, at_least: int) -> None:
    """Raise ``RunError`` if metrics.jsonl has fewer lines, ``epochs``, than ``at_least``."""
    if epochs < at_least:
        path = folder.path / METRICS
        what = f"it has {epochs} of the {at_least} lines that were written" if folder.has(METRICS) else "it is missing"
        raise RunError(f"{shown(path)}: is damaged: {what}; {train_again(folder.path)}")


def _checked(folder: Folder) -> Iterator[tuple[int, bytes, Sequence[Any]]]:
    """Yield the number of each line, the line, and its values of the keys ``_SUMMED`` except the first."""
    path = folder.path / METRICS
    with reading(path), ExitStack() as stack:
        try:
            file = stack.enter_context(folder.open(METRICS))
        except FileNotFoundError:
            return
        number = 0
        while line := file.readline(MAX_LINE):
            if not line.endswith(b"\n") and len(line) < MAX_LINE:
                return  # half a line: the writer was killed
            number += 1
            written = _written().fullmatch(line)
            values: Sequence[Any]
            if written is not None:
                epoch, loss, error, rate, seconds = written.groups()
                if loss == b"null" or error == b"null":
                    values = None, None, float(rate), float(seconds)
                else:
                    values = float(loss), float(error), float(rate), float(seconds)
            else:
                record = _record(line) or dict.fromkeys(_SUMMED, 0)
                epoch, *values = (record[key] for key in _SUMMED)
            if int(epoch) != number or number > MAX_EPOCHS:
                what = f"is damaged: not a line of epoch {number}"
                raise RunError(f"{shown(path)}:{number}: {what}; {train_again(folder.path)}")
            yield number, line, values


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record in ``line``, or None if it does not fit the schema."""
    record = parse(line)
    if record is not None:
        record = {**dict.fromkeys(_BESIDE_AN_AVERAGE), **record}
    return None if record is None or misfit(record, _RECORD) else record


def _parsed(line: bytes) -> dict[str, Any]:
    record = _record(line)
    assert record is not None, "the line was checked"
    return record
