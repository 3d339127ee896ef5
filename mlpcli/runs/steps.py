"""steps.jsonl: the losses of steps during training, for live pages; resuming does not read it.

The first line is ``{"steps_per_epoch": N, "examples": M}``, M being the number of examples per epoch. Every other line
is ``[step, seconds, loss]``: the mean loss of the steps since the line before, and the seconds since training began or
was resumed. There are at most ``MAX_LINES``: beyond that, every two are merged, and lines are written half as often.
So the file spans the whole run and does not grow with it. Lines are written at intervals of time, so equal runs have
different files.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from typing import Any

from mlpcli.files import Folder
from mlpcli.runs.layout import STEPS
from mlpcli.runs.schema import is_count, is_number, parse

MAX_LINES = 1000
MAX_BYTES = 256 * 1024
SECONDS_PER_LINE = 0.25

Line = tuple[int, float, float]  # step, seconds, loss


@dataclass(frozen=True)
class Steps:
    """The contents of steps.jsonl: steps and examples per epoch, and its lines."""

    steps_per_epoch: int
    examples: int
    lines: list[Line]


class StepWriter:
    """Writer of steps.jsonl in ``folder``: call :meth:`add` after each step, the first being the one after ``step``.

    The file is created after a moment, so that a short run has none. Failures to write are ignored: training does not
    need it.
    """

    def __init__(self, folder: Folder, steps_per_epoch: int, examples: int, step: int) -> None:
        self._folder = folder
        self._head = {"steps_per_epoch": steps_per_epoch, "examples": examples}
        self._step = self._start = step
        self._lines: list[Line] = []
        self._total, self._count = 0.0, 0
        self._next_check = self._stride = 1  # steps
        self._seconds_a_line = SECONDS_PER_LINE
        self._began = time.monotonic()
        self._due = self._began + 2 * SECONDS_PER_LINE
        self._file: FileIO | None = None

    def add(self, loss: float) -> None:
        """Record a step."""
        self._total += loss
        self._count += 1
        if self._count >= self._next_check:
            self._check_clock()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _check_clock(self) -> None:
        # Thousands of short steps make one line, and reading the clock would be a good part of their cost here.
        if (now := time.monotonic()) >= self._due:
            self._due = now + self._seconds_a_line
            self._stride = max(1, self._count // 16)
            self._write(now)
        self._next_check = self._count + self._stride

    def _write(self, now: float) -> None:
        self._step += self._count
        self._lines.append((self._step, round(now - self._began, 3), self._total / self._count))
        self._total, self._count = 0.0, 0
        try:
            if len(self._lines) > MAX_LINES:
                self._lines = _halved(self._lines, self._start)
                self._seconds_a_line *= 2
                self.close()
            if self._file is None:
                self._file = self._folder.open_new(STEPS)
                self._file.write("".join([_text(self._head), *map(_text, self._lines)]).encode())
            else:
                self._file.write(_text(self._lines[-1]).encode())
        except OSError:
            self._due = float("inf")
            self.close()


def read(folder: Folder) -> Steps | None:
    """Return the valid contents of steps.jsonl in ``folder``; None if there are none."""
    try:
        head, *lines = folder.read(STEPS, MAX_BYTES).split(b"\n")[:-1]
    except (OSError, ValueError):
        return None
    found = parse(head) or {}
    steps_per_epoch, examples = found.get("steps_per_epoch"), found.get("examples")
    if not (is_count(steps_per_epoch) and is_count(examples) and steps_per_epoch and examples):
        return None
    kept: list[Line] = []
    for text in lines[: 2 * MAX_LINES]:
        line = _line(text)
        if line is None or (kept and not (kept[-1][0] < line[0] and kept[-1][1] <= line[1])):
            break
        kept.append(line)
    return Steps(steps_per_epoch, examples, kept)


def _line(text: bytes) -> Line | None:
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        if isinstance(value, list) and len(value) == 3 and is_count(value[0]) and all(map(is_number, value)):
            return value[0], float(value[1]), float(value[2])
    return None


def _halved(lines: list[Line], start: int) -> list[Line]:
    """Merge every two of ``lines``, with the mean loss over their steps since ``start``; an odd last line is copied."""
    before = [start, *(line[0] for line in lines)]
    counts = [after - start for start, after in pairwise(before)]
    halved = []
    for n in range(0, len(lines) - 1, 2):
        (_, _, first), (step, seconds, second) = lines[n : n + 2]
        mean = (first * counts[n] + second * counts[n + 1]) / (counts[n] + counts[n + 1])
        halved.append((step, seconds, mean))
    return halved + lines[2 * len(halved) :]


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"
