"""Images in the terminal: shades of ASCII, half blocks, or dots, depending on width and encoding."""

from __future__ import annotations

import sys
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

from mlpcli.commands.output import colour

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlpcli.datasets.load import Bytes

    Array = NDArray[Any]

# From dark to bright.
ASCII = " .:-=+*#%@"
# The same in blocks, with half blocks for a bright pixel above or below a dark one.
SHADES, UPPER, LOWER = " ░▒▓█", "▀", "▄"
# The bit of a braille character (U+2800 + bits) for each of its dots, by row and column.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def terminal_width() -> int:
    """Return the columns of the terminal; 80 without one."""
    from shutil import get_terminal_size

    return get_terminal_size().columns


def drawing(image: Bytes, width: int) -> list[str]:
    """Draw ``image`` (rows, columns) in lines at most ``width`` wide, as finely as width and encoding allow."""
    width = max(1, width)
    if image.shape[1] <= width and can_print(SHADES + UPPER + LOWER):
        return blocks(image)
    if image.shape[1] <= 2 * width and can_print("\u28ff"):
        return dots(image)
    return shades(image, width)


def abreast(pictures: list[list[str]], columns: int) -> list[str]:
    """Return the lines of ``pictures``, ``columns`` of them side by side, with an empty line above each row."""
    lines: list[str] = []
    wide = widest(pictures)
    for start in range(0, len(pictures), columns):
        lines.append("")
        for across in zip_longest(*pictures[start : start + columns], fillvalue=""):
            padded = (line + " " * (wide - len(click.unstyle(line))) for line in across)
            lines.append("  ".join(padded).rstrip())
    return lines


def widest(pictures: list[list[str]]) -> int:
    """Return the length of the longest line, without colours."""
    return max(len(click.unstyle(line)) for picture in pictures for line in picture)


def can_print(characters: str) -> bool:
    """Return True if stdout's encoding has all of ``characters``."""
    try:
        characters.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def shades(image: Bytes, width: int) -> list[str]:
    """Draw ``image`` in shades of ASCII at most ``width`` wide; a character is twice as high as wide."""
    import numpy as np

    rows, columns = image.shape
    across = -(-columns // width)
    down = 2 * across
    padded = np.pad(image, ((0, -rows % down), (0, -columns % across)))
    cells = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across).mean(axis=(1, 3))
    return ["".join(ASCII[int(cell) * len(ASCII) // 256] for cell in row) for row in cells]


def blocks(image: Bytes) -> list[str]:
    """Draw ``image`` with two pixels per character, one above the other."""
    import numpy as np

    padded = np.pad(image, ((0, len(image) % 2), (0, 0))).astype(int)

    def character(upper: int, lower: int) -> str:
        if (upper < 128) != (lower < 128):
            return UPPER if upper > lower else LOWER
        return SHADES[(upper + lower) * len(SHADES) // 512]

    return ["".join(map(character, *pair)) for pair in zip(padded[::2].tolist(), padded[1::2].tolist(), strict=True)]


def signed_drawing(values: Array, width: int) -> list[str]:
    """Draw ``values`` (rows, columns), of any sign, in lines at most ``width`` wide.

    + and # are above 0, - and = below, and blue or red where there are colours; blank is less than an eighth of the
    largest, # and = are more than a half.
    """
    import numpy as np

    rows, columns = values.shape
    across = -(-columns // max(1, width))
    down = 2 * across
    padded = np.pad(values, ((0, -rows % down), (0, -columns % across)))
    cells = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across).mean(axis=(1, 3))
    largest = np.abs(cells).max() or 1.0

    def character(cell: float) -> str:
        size = abs(cell) / largest
        if size < 1 / 8:
            return " "
        return colour("#" if size > 1 / 2 else "+", "blue") if cell > 0 else colour("=" if size > 1 / 2 else "-", "red")

    return ["".join(map(character, row)).rstrip() for row in cells.tolist()]


def dots(image: Bytes) -> list[str]:
    """Draw ``image`` with eight pixels per character, two across and four down: bright pixels become dots.

    The threshold is half the mean brightness of the strokes, in which each pixel is weighted by its own brightness, so
    that grey clothes are visible as well as white strokes.
    """
    import numpy as np

    rows, columns = image.shape
    ink = image.astype(np.float64)
    bright = ink * ink.sum() >= np.square(ink).sum() / 2
    padded = np.pad(bright & (image > 0), ((0, -rows % 4), (0, -columns % 2)))
    cells = padded.reshape(padded.shape[0] // 4, 4, padded.shape[1] // 2, 2)
    bits = np.einsum("rycx,yx->rc", cells.astype(int), np.array(DOTS))
    return ["".join(chr(0x2800 + bit) if bit else " " for bit in row) for row in bits.tolist()]
