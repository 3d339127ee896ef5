"""Segmentation of a picture: the level of the paper at each pixel, the ink as the difference, and its connected parts.

The background is local, by grey-level hole filling (L. Vincent, "Morphological grayscale reconstruction in image
analysis", IEEE Transactions on Image Processing 2 (2), 1993, section III; P. Soille, "Morphological Image Analysis",
section 6.3.7). Of all paths from a pixel to the picture's border take the one whose lightest pixel is darkest: that
pixel's level is the paper's, and the difference to the pixel's own is its ink. A gradient of light, the edge of a
shadow, a strip of table and a printed line all lead to the border without becoming lighter: they are not ink. For light
ink on dark paper the same is done with the negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Box = tuple[slice, slice]

SEARCH = 192  # the longer side of the averaged picture in which digits are found
SWEEPS = 24  # maximum number of sweeps for the level of the paper; without noise it takes 3 to 6
SETTLED = 0.5  # of 255: sweeps end when no level changes by more
CROSSING = (0.03, 1 / 3)  # of the shorter side, and of the border: width of ink that runs over the edge
FAINT = 16.0  # of 255: minimum contrast of ink
EDGE = 0.1  # of the strongest ink: fainter pixels do not widen the box
STRONG = 0.4  # of the strongest ink: weaker ink that is not connected to such ink is clutter
SMALL = 1 / 24  # of the longer side: smaller parts are ignored while the digit is not found
THIN = 1 / 40  # of the longer side: lines up to this width enclose nothing
CLOSE = 0.4  # of the picture: a smaller digit is processed again in a smaller part of the picture
LINE = 12  # times its width: a longer part is a printed line, not a stroke
STAIN = 0.5  # of the digit's strongest ink: a weaker part far from the digit does not belong to it
FRAME = 0.15  # of a box's side: the ink of a frame is no farther from the box's sides
SOLID = 0.88  # of its box: a sheet of paper covers at least that
IN_FRAME, ON_SHEET = 0.2, 0.08  # of its length: minimum size of a digit in a frame, or on a sheet
WRITTEN = 0.2  # of a sheet: maximum cover of the ink on it


@dataclass(frozen=True, eq=False)
class Part:
    """A connected part of the ink.

    ``sign`` is 0 for dark ink, 1 for light; ``box`` is its bounding box, ``mask`` its pixels there, ``depth`` its
    maximum ink; ``inside`` is true if it does not touch the picture's border.
    """

    sign: int
    box: Box
    mask: NDArray[np.bool_]
    depth: float
    inside: bool

    @property
    def length(self) -> int:
        """Return its longer side."""
        return int(max(self.mask.shape))

    @property
    def area(self) -> int:
        """Return the pixels of its box."""
        return int(self.mask.size)

    def holds(self, other: Part) -> bool:
        """Return True if ``other`` lies in its box."""
        return all(
            one.start <= two.start and two.stop <= one.stop for one, two in zip(self.box, other.box, strict=True)
        )

    def encloses(self, other: Part) -> bool:
        """Return True if ``other`` lies in its box, clear of the box's sides."""
        return all(one.start < two.start and two.stop < one.stop for one, two in zip(self.box, other.box, strict=True))


def find_ink(light: Array) -> Array:
    """Return the ink of the digits on a picture, cut to its box, (h, w) in 0 .. 1; (0, 0) without ink.

    ``light`` (H, W) goes from 0 to 255. A digit that is small in the picture is processed again in a part of it.
    """
    found, sign = np.zeros((0, 0)), None
    while True:
        looked = _find_in(light, sign)
        if looked is None:
            return found
        found, box, sign = looked
        if max(found.shape) >= CLOSE * max(light.shape) or max(light.shape) <= SEARCH:
            return found
        margin = max(found.shape) // 2
        nearer = light[tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)]
        if nearer.size > 0.7 * light.size:
            return found
        light = nearer


def _find_in(light: Array, sign: int | None = None) -> tuple[Array, Box, int] | None:
    """Return the ink found on ``light``, cut, its box and its sign, which may be given; None without ink."""
    factor = -(-max(light.shape) // SEARCH)
    small = reduced(light, factor)
    levels = paper(small, crossing=sign is None)
    depths = np.maximum(np.stack([levels[0] - small, small + levels[1]]), 0.0)
    if sign is not None:
        depths[1 - sign] = 0.0
    shake = 3 * noise(small)
    parts = _parts(depths, shake)
    digits = _digits(parts)
    if not digits:
        return None
    sign = digits[0].sign
    mask = np.zeros(small.shape, np.bool_)
    for part in digits:
        mask[part.box] |= part.mask
    ink = depths[sign]
    strongest = float(ink[mask].max())
    # Remains of lines and stains, away from the ink.
    near = dilated(mask & (ink > STRONG * strongest), max(1, max(small.shape) // 48))
    others = _others(parts, digits, small.shape)
    outside = ink[~near & ~mask & ~dilated(others, 1)]
    clutter = float(np.quantile(outside, 0.98)) if outside.size else 0.0
    keep = np.zeros(small.shape, np.bool_)
    if clutter > EDGE * strongest / 2:
        mask &= ink > 2 * clutter
        for where, own in components(mask):
            if float(ink[where][own].max()) < STRONG * strongest:
                mask[where] &= ~own
    else:
        faint = ink <= EDGE * strongest
        mask = _grown(mask, ~faint)
        if np.ptp(levels[sign]) <= EDGE * strongest:  # even paper without lines: nothing to remove
            keep = faint & ~dilated(others, 2)
    # As fine as the noise allows.
    fine = 1
    while 3 * noise(reduced(light, fine)) > strongest / 16 and 2 * fine <= factor:
        fine *= 2
    picture = reduced(light, fine)
    shake = min(max(3 * noise(picture), clutter), 0.4 * strongest)
    level = (levels[0], -levels[1])[sign]
    keep |= dilated(mask, 1)
    level, keep = (_enlarged(each, factor, light.shape)[::fine, ::fine] for each in (level, keep))
    depth = (level - picture) * (1 - 2 * sign)
    depth = np.where(keep, depth, 0.0)
    strongest = float(depth.max())
    if strongest - shake < FAINT:
        return None
    found = np.clip((depth - shake) / (strongest - shake), 0.0, 1.0)
    box = bounds(found > EDGE)
    whole = tuple(slice(side.start * fine, side.stop * fine) for side in box)
    return found[box], (whole[0], whole[1]), sign


# Paper ----------------------------------------------------------------------------------------------------------------


def paper(light: Array, *, crossing: bool = True) -> Array:
    """Return the level of the paper under dark ink, and under light ink of the negative, (2, H, W).

    With ``crossing``, ink may run over the edge of the picture. Light areas thinner than :data:`THIN` do not count as
    paper: the lines of the negative of squared paper would enclose each square.
    """
    both = _opened(np.stack([light, -light]), int(THIN * max(light.shape)))
    rows, columns = _border(light.shape)
    rim = both[:, rows, columns]
    # Ink that runs over the edge: a narrower part is a printed line, a wider one is not ink.
    narrow = round(CROSSING[0] * min(light.shape))
    wide = int(CROSSING[1] * rim.shape[1])
    level = np.full_like(both, np.inf)
    level[:, rows, columns] = rim + (_closed(rim, wide) - _closed(rim, narrow) if crossing else 0.0)
    across = np.ascontiguousarray(both.transpose(0, 2, 1))
    for _ in range(SWEEPS):
        before = level.copy()
        _sweep(level, both)
        turned = np.ascontiguousarray(level.transpose(0, 2, 1))
        _sweep(turned, across)
        level = np.ascontiguousarray(turned.transpose(0, 2, 1))
        if np.all(before - level < SETTLED):  # infinite where the level is not set yet
            break
    return level


def _opened(image: Array, width: int) -> Array:
    """Remove light areas at most ``width`` pixels wide from ``image`` (2, H, W): a grey-level opening."""
    for axis in (1, 2):
        padded = np.pad(image, [(width, width) if axis == each else (0, 0) for each in range(3)], mode="edge")
        for best in (np.minimum, np.maximum):
            side = padded.shape[axis] - width
            padded = best.reduce([np.take(padded, range(i, i + side), axis) for i in range(width + 1)])
        image = padded
    return image


def _sweep(level: Array, light: Array) -> None:
    """Propagate the border's level down and up all columns; no pixel's becomes less than its ``light``."""
    for rows in (range(1, level.shape[1]), range(level.shape[1] - 2, -1, -1)):
        step = -rows.step
        for row in rows:
            here = level[:, row]
            np.minimum(here, np.maximum(light[:, row], level[:, row + step]), out=here)


def _border(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return rows and columns of the pixels along the border, clockwise."""
    rows, columns = (np.arange(side) for side in shape)
    top, right = np.zeros_like(columns), np.full_like(rows[1:], len(columns) - 1)
    bottom, left = np.full_like(columns[:-1], len(rows) - 1), np.zeros_like(rows[1:-1])
    if min(shape) == 1:
        bottom, left = bottom[:0], left[:0]
    return (
        np.concatenate([top, rows[1:], bottom, rows[-2:0:-1][: len(left)]]),
        np.concatenate([columns, right, columns[-2::-1][: len(bottom)], left]),
    )


def _closed(rim: Array, width: int) -> Array:
    """Fill valleys at most ``width`` pixels wide of ``rim`` (2, n), a closed line: a grey-level closing."""
    width = min(width, rim.shape[1] - 1)
    for best, towards in ((np.maximum, 1), (np.minimum, -1)):
        done = 1
        while done <= width:
            step = min(done, width + 1 - done)
            rim = best(rim, np.roll(rim, towards * step, axis=1))
            done += step
    return rim


def noise(light: Array) -> float:
    """Estimate the standard deviation of the noise of ``light`` from its Laplacian.

    J. Immerkaer, "Fast noise variance estimation", Computer Vision and Image Understanding 64 (2), 1996; the median
    instead of the mean, which would include strokes.
    """
    if min(light.shape) < 3:
        return 0.0
    down = light[:-2] - 2 * light[1:-1] + light[2:]
    both = down[:, :-2] - 2 * down[:, 1:-1] + down[:, 2:]
    sizes = np.abs(both).ravel()
    middle = sizes.size // 2
    return float(np.partition(sizes, middle)[middle]) / (6 * 0.6745)


# Parts ----------------------------------------------------------------------------------------------------------------


def _parts(depths: Array, shake: float) -> list[Part]:
    """Return the connected parts of dark and of light ink, except those too small to classify."""
    strongest = depths.max()
    shape = depths.shape[1:]
    parts = []
    for sign, ink in enumerate(depths):
        mask = ink > max(2 * EDGE * strongest, FAINT / 2, shake)
        for box, own in components(mask):
            depth = float(ink[box][own].max())
            if depth < FAINT:
                continue
            inside = all(side.start > 0 and side.stop < whole for side, whole in zip(box, shape, strict=True))
            parts.append(Part(sign, box, own, depth, inside))
    return parts


def _digits(parts: list[Part]) -> list[Part]:
    """Return those of ``parts`` that are digits, all of one sign, without frames, sheets and parts at the border."""
    longest = max((part.length for part in parts), default=0)
    inside = [part for part in parts if part.inside and part.length >= SMALL * longest]
    strokes = [part for part in parts if not part.inside]
    # The hole of a digit that runs over the edge is not a digit; a part on a sheet that runs over the edge may be.
    inside = [
        part
        for part in inside
        if not any(each.sign != part.sign and each.holds(part) and not _is_sheet(each, [part]) for each in strokes)
    ]
    if not inside:
        return _of_main_sign(strokes)
    whole = [part for part in parts if part.inside]
    while True:
        outermost = max(inside, key=_extent)
        within = [part for part in inside if outermost.encloses(part) and part.length >= ON_SHEET * outermost.length]
        if not (_is_frame(outermost, within) or _is_sheet(outermost, within)):
            break
        inside = [part for part in inside if outermost.encloses(part)]
        whole = [part for part in whole if outermost.encloses(part)]
    return [part for part in whole if part is outermost or _belongs(part, outermost)]


def _of_main_sign(parts: list[Part]) -> list[Part]:
    if not parts:
        return []
    main = max(parts, key=_extent)
    return [part for part in parts if part.sign == main.sign]


def _extent(part: Part) -> tuple[float, ...]:
    return (part.area, part.length, part.depth, np.count_nonzero(part.mask), *(-side.start for side in part.box))


def _is_frame(part: Part, within: list[Part]) -> bool:
    """Return True if ``part`` is the outline of a box with something of the same ink in it."""
    if all(other.sign != part.sign or other.length < IN_FRAME * part.length for other in within):
        return False
    down, right = (max(1, round(FRAME * side)) for side in part.mask.shape)
    return int(np.count_nonzero(part.mask[down:-down, right:-right])) <= 0.05 * int(np.count_nonzero(part.mask))


def _is_sheet(part: Part, within: list[Part]) -> bool:
    """Return True if ``part`` is an even surface with something of the other ink on it."""
    on_it = [other for other in within if other.sign != part.sign]
    written = sum(int(np.count_nonzero(other.mask)) for other in on_it)
    covered = int(np.count_nonzero(part.mask)) + written
    if not 0 < written < WRITTEN * covered:
        return False
    return covered >= SOLID * part.area or max(other.depth for other in on_it) > 1.5 * part.depth


def _belongs(part: Part, main: Part) -> bool:
    """Return True if ``part`` may be a digit beside ``main``, or a part of it: the same ink, no line, no stain."""
    if part.sign != main.sign or part.length > LINE * min(part.mask.shape):
        return False
    gaps = (max(one.start - two.stop, two.start - one.stop) for one, two in zip(part.box, main.box, strict=True))
    return part.depth >= STAIN * main.depth or max(gaps) <= main.length / 2


def _grown(seeds: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return ``seeds`` with the connected parts of ``mask`` that share a pixel with them."""
    labels, count = labelled(mask)
    chosen = np.zeros(count + 1, np.bool_)
    chosen[labels[seeds]] = True
    chosen[0] = False
    return seeds | chosen[labels]


def _others(parts: list[Part], digits: list[Part], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, np.bool_)
    for part in parts:
        if all(part is not digit for digit in digits):
            mask[part.box] |= part.mask
    return mask


def components(mask: NDArray[np.bool_]) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
    """Yield the box and the pixels in it of each connected part of ``mask``; corners connect."""
    labels, count = labelled(mask)
    for part, box in enumerate(boxes(labels, count), 1):
        yield box, labels[box] == part


def boxes(labels: Array, count: int) -> list[Box]:
    """Return the bounding box of each of the parts 1 .. ``count``."""
    rows, columns = np.nonzero(labels)
    own = labels[rows, columns]
    top, left = np.full(count + 1, labels.shape[0]), np.full(count + 1, labels.shape[1])
    bottom, right = np.zeros(count + 1, int), np.zeros(count + 1, int)
    for low, high, at in ((top, bottom, rows), (left, right, columns)):
        np.minimum.at(low, own, at)
        np.maximum.at(high, own, at + 1)
    return [
        (slice(int(top[part]), int(bottom[part])), slice(int(left[part]), int(right[part])))
        for part in range(1, count + 1)
    ]


def labelled(mask: NDArray[np.bool_]) -> tuple[Array, int]:
    """Return ``mask`` with its connected parts numbered from 1, and their number.

    Runs of a row are joined with those of the row above by union-find.
    """
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    rows, starts = np.nonzero(np.diff(padded, axis=1) == 1)
    stops = np.nonzero(np.diff(padded, axis=1) == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1)).tolist()
    begin, end = starts.tolist(), stops.tolist()
    for row in range(1, mask.shape[0]):
        above, here = first[row - 1], first[row]
        while above < first[row] and here < first[row + 1]:
            if begin[above] <= end[here] and begin[here] <= end[above]:
                one, two = root(above), root(here)
                parent[max(one, two)] = min(one, two)
            if end[above] < end[here]:
                above += 1
            else:
                here += 1
    roots = np.array([root(run) for run in range(len(parent))], int)
    kinds, numbers = np.unique(roots, return_inverse=True)
    labels = np.zeros(mask.shape, int)
    lengths = stops - starts
    at = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    labels[np.repeat(rows, lengths), at] = np.repeat(numbers + 1, lengths)
    return labels, len(kinds)


# Pixels ---------------------------------------------------------------------------------------------------------------


def reduced(light: Array, factor: int) -> Array:
    """Return ``light`` averaged over blocks of ``factor`` x ``factor`` pixels; the last ones may be smaller."""
    if factor == 1:
        return light
    padded = np.pad(light, [(0, -side % factor) for side in light.shape], mode="edge")
    rows, columns = (side // factor for side in padded.shape)
    averages: Array = padded.reshape(rows, factor, columns, factor).mean(axis=(1, 3))
    return averages


def _enlarged(image: Array, factor: int, shape: tuple[int, ...]) -> Array:
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)[: shape[0], : shape[1]]


def dilated(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return ``mask`` with all pixels at most ``reach`` rows and columns away."""
    for axis in (0, 1):
        padded = np.pad(mask, [(reach, reach) if axis == each else (0, 0) for each in (0, 1)])
        side = mask.shape[axis]
        mask = np.any([np.take(padded, range(i, i + side), axis) for i in range(2 * reach + 1)], axis=0)
    return mask


def bounds(mask: NDArray[np.bool_]) -> Box:
    """Return the bounding box of ``mask``, which is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
