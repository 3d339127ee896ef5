"""A learning curve in a few lines of text: training and validation error against the epoch, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

ROWS = 8
MAX_COLUMNS = 60
MIN_COLUMNS = 12

# The bit of a braille character (U+2800 + bits) for each of its dots, by row and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

Point = tuple[int, int]


def learning_curve(
    training: Sequence[float],
    validation: Sequence[float] | None,
    *,
    epochs: int | None = None,
    width: int = 80,
    braille: bool = True,
) -> list[str]:
    """Draw the errors, fractions of the images, against the epoch, in lines of at most ``width`` characters.

    ``training`` and ``validation`` have one error per epoch, from epoch 1 on; without validation images ``validation``
    is None. The curve of validation is solid, that of training dotted; each is labelled at its end with its last
    value. Without ``braille`` every character is ASCII. Errors of 0 are drawn at the bottom, at half the smallest other
    error. Return no lines for fewer than two epochs, or if ``width`` is too small.
    """
    # The solid curve is drawn last: in ASCII, where both need the same character, it is the visible one.
    series = {"training": training, **({} if validation is None else {"validation": validation})}
    ends = {name: f"{name} {values[-1]:.2%}" for name, values in series.items() if values}
    scale = _Scale([error for values in series.values() for error in values])
    labels = [scale.label(0), scale.label(1)]
    margin = max(map(len, labels))
    columns = min(MAX_COLUMNS, width - margin - 2 - 1 - max(map(len, ends.values()), default=0))
    if len(training) < 2 or columns < MIN_COLUMNS:
        return []
    canvas = _Braille(columns) if braille else _Ascii(columns)
    rows = {}
    for name, values in series.items():
        last_x, last_y = canvas.size[0] - 1, canvas.size[1] - 1
        points = [
            (round(i * last_x / (len(values) - 1)), round((1 - scale.height(error)) * last_y))
            for i, error in enumerate(values)
        ]
        canvas.draw(points, dotted=name == "training")
        rows[name] = points[-1][1] * ROWS // canvas.size[1]
    side, corner, floor = ("┤│", "└", "─") if braille else ("||", "+", "-")
    beside = {row: ends[name] for name, row in _apart(rows).items()}
    lines = []
    for row, text in enumerate(canvas.lines()):
        label = labels[1] if row == 0 else labels[0] if row == ROWS - 1 else ""
        lines.append(f"{label:>{margin}} {side[not label]}{text} {beside.get(row, '')}".rstrip())
    lines.append(f"{'error':>{margin}} {corner}{floor * columns}")
    last = str(epochs or len(training))
    lines.append(f"{'':{margin}}  1{'epoch':^{columns - 1 - len(last)}}{last}")
    return lines


class _Scale:
    """A logarithmic scale, from an error to its height between the bottom, 0, and the top, 1."""

    def __init__(self, errors: Sequence[float]) -> None:
        above = [error for error in errors if error > 0]
        self._top = max(above, default=1.0)
        self._bottom = min(above, default=0.5)
        self._has_zero = len(above) < len(errors)
        if self._has_zero:
            self._bottom /= 2

    def height(self, error: float) -> float:
        if error <= 0 or self._bottom == 0:  # half of the smallest float is 0
            return 0.0
        if self._bottom == self._top:
            return 0.5
        bottom = math.log(self._bottom)
        return (math.log(error) - bottom) / (math.log(self._top) - bottom)

    def label(self, height: int) -> str:
        """Return the error at the top or at the bottom, in per cent."""
        return f"{self._top:.2%}" if height else "0%" if self._has_zero else f"{self._bottom:.2%}"


class _Canvas:
    """A grid of ``columns`` by ``ROWS`` characters, each of ``across`` by ``down`` dots; y grows downwards."""

    across = down = 1

    def __init__(self, columns: int) -> None:
        self.size = (columns * self.across, ROWS * self.down)
        self.cells = [[0] * columns for _ in range(ROWS)]

    def draw(self, points: Sequence[Point], *, dotted: bool) -> None:
        """Join ``points`` by every dot in between or, if ``dotted``, by every third."""
        path = [*_path(points)]
        for x, y in [path[0], *path[:: -3 if dotted else -1]]:  # counted from the end, where the label is
            self.mark(x, y, dotted=dotted)

    def mark(self, x: int, y: int, *, dotted: bool) -> None:
        raise NotImplementedError

    def lines(self) -> Iterator[str]:
        raise NotImplementedError


class _Braille(_Canvas):
    across, down = 2, 4

    def mark(self, x: int, y: int, *, dotted: bool) -> None:
        self.cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]

    def lines(self) -> Iterator[str]:
        return ("".join(chr(0x2800 + bits) if bits else " " for bits in row) for row in self.cells)


class _Ascii(_Canvas):
    def mark(self, x: int, y: int, *, dotted: bool) -> None:
        self.cells[y][x] = 1 if dotted else 2

    def lines(self) -> Iterator[str]:
        return ("".join(" .o"[mark] for mark in row) for row in self.cells)


def _path(points: Sequence[Point]) -> Iterator[Point]:
    """Yield the dots from each of ``points`` to the next, in steps of at most one."""
    yield points[0]
    for (x0, y0), (x1, y1) in pairwise(points):
        steps = max(abs(x1 - x0), abs(y1 - y0))
        for step in range(1, steps + 1):
            yield x0 + round(step * (x1 - x0) / steps), y0 + round(step * (y1 - y0) / steps)


def _apart(rows: dict[str, int]) -> dict[str, int]:
    """Return ``rows``, the rows of the labels, moved apart where two fall together."""
    first, *others = rows
    if others and rows[first] == rows[others[0]]:
        # Validation above, as it nearly always is; at the very top, training below it.
        return {**rows, others[0]: rows[first] - 1} if rows[first] else {**rows, first: 1}
    return rows
